//! TLS: what connections are made and taken with. The files are read here, so that an error has its line.

use std::path::Path;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::written::{ClientTls, ServerTls};
use crate::tls::{Client, ClientSettings, Error, Identity, Server, ServerSettings, server_name};

/// `protocol` is what is spoken inside, as ALPN calls it. `None` if something has been reported.
pub(crate) fn client(
    written: &ClientTls,
    protocol: &'static str,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<Client> {
    let file = |written: &Option<String>| written.as_ref().map(|file| base.join(file));
    let identity = match (file(&written.cert_file), file(&written.key_file)) {
        (None, None) => None,
        (Some(cert_file), Some(key_file)) => Some(Identity { cert_file, key_file }),
        (Some(_), None) => {
            problems.report(&at.field("cert_file"), "`cert_file` needs `key_file`");
            None
        }
        (None, Some(_)) => {
            problems.report(&at.field("key_file"), "`key_file` needs `cert_file`");
            None
        }
    };
    let server_name = written.server_name.as_ref().and_then(|name| {
        let read = server_name(name);
        if read.is_none() {
            problems.report(&at.field("server_name"), format!("`{name}` cannot be in a certificate"));
        }
        read
    });
    let settings = ClientSettings { ca_file: file(&written.ca_file), identity, server_name, protocol };
    let identity = settings.identity.clone();
    Client::load(settings).map_err(|error| report(&error, "ca_file", identity.as_ref(), at, problems)).ok()
}

/// `protocol` is what is spoken inside, as ALPN calls it. `None` if something has been reported.
pub(crate) fn server(
    written: &ServerTls,
    protocol: &'static str,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<Server> {
    for (field, file) in [("cert_file", &written.cert_file), ("key_file", &written.key_file)] {
        if file.is_none() {
            problems.report(at, format!("field `{field}` is missing"));
        }
    }
    let file = |written: &String| base.join(written);
    let (cert_file, key_file) = (written.cert_file.as_ref().map(file)?, written.key_file.as_ref().map(file)?);
    let identity = Identity { cert_file, key_file };
    let client_ca_file = written.client_ca_file.as_ref().map(file);
    let settings = ServerSettings { identity: identity.clone(), client_ca_file, protocol };
    let ca = "client_ca_file";
    Server::load(settings).map_err(|error| report(&error, ca, Some(&identity), at, problems)).ok()
}

/// At the field that names the file to blame: one of the identity's, or else `ca`.
fn report(error: &Error, ca: &str, identity: Option<&Identity>, at: &FieldPath<'_>, problems: &mut Problems) {
    let Some(file) = error.file() else { return problems.report(at, error.to_string()) };
    let field = match identity {
        Some(identity) if identity.key_file == file => "key_file",
        Some(identity) if identity.cert_file == file => "cert_file",
        _ => ca,
    };
    problems.report(&at.field(field), error.to_string());
}
