//! TLS: what connections are made with. The files are read here, so that an error has its line.

use std::path::{Path, PathBuf};

use super::super::diagnostic::{FieldPath, Problems};
use super::super::written::ClientTls;
use crate::tls::{Client, ClientSettings, Error, Identity, server_name};

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
    let ca = ("ca_file", settings.ca_file.clone());
    let identity = settings.identity.clone();
    Client::load(settings).map_err(|error| report(&error, &[ca], identity.as_ref(), at, problems)).ok()
}

/// At the field that names the file to blame.
fn report(
    error: &Error,
    others: &[(&str, Option<PathBuf>)],
    identity: Option<&Identity>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) {
    let own = identity.into_iter().flat_map(|i| [("key_file", &i.key_file), ("cert_file", &i.cert_file)]);
    let others = others.iter().filter_map(|(field, file)| Some((*field, file.as_ref()?)));
    let field = own.chain(others).find(|(_, file)| error.file() == Some(file)).map(|(field, _)| field);
    match field {
        Some(field) => problems.report(&at.field(field), error.to_string()),
        None => problems.report(at, error.to_string()),
    }
}
