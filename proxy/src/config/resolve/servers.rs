//! The servers of a registry: URLs, all of them with TLS or none.

use std::path::Path;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::Server;
use super::super::written::{ClientTls, OneOrMany};
use super::{check, tls};
use crate::tls::Client;

const SERVERS_MAX: usize = 16;
const PROTOCOL: &str = "http/1.1";

/// The field `endpoints` of what is at `at`, and how the servers are spoken to.
pub(super) fn servers(
    endpoints: Option<&OneOrMany>,
    written: Option<&ClientTls>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> (Vec<Server>, Option<Client>) {
    let found = urls(endpoints, &at.field("endpoints"), problems);
    let secure = found.iter().any(|(_, secure)| *secure);
    if let Some(plain) = found.iter().position(|(_, secure)| !secure).filter(|_| secure) {
        let message = "`http` beside `https`: what is secret would travel in the clear";
        problems.report(&at.field("endpoints").item(plain), message);
    }
    let tls_at = &at.field("tls");
    if written.is_some() && !secure && !found.is_empty() {
        problems.report(tls_at, "no endpoint begins with `https://`, so this would be without effect");
    }
    let standard = ClientTls::default();
    let written = written.unwrap_or(&standard);
    let client = secure.then(|| tls::client(written, PROTOCOL, base, tls_at, problems)).flatten();
    (found.into_iter().map(|(server, _)| server).collect(), client)
}

/// Each with whether it wants TLS.
fn urls(written: Option<&OneOrMany>, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<(Server, bool)> {
    let Some(OneOrMany(urls)) = written else {
        problems.report(at, "field `endpoints` is missing");
        return Vec::new();
    };
    if urls.is_empty() {
        problems.report(at, "an empty list; at least one URL is needed");
    }
    check::count(urls.len(), SERVERS_MAX, at, problems);
    let mut servers = Vec::with_capacity(urls.len());
    for (index, url) in urls.iter().enumerate() {
        match server(url) {
            Ok(server) => servers.push(server),
            Err(message) => {
                problems.report_with(&at.item(index), message, "as in `http://10.0.0.1:2379`");
            }
        }
    }
    servers
}

fn server(url: &str) -> Result<(Server, bool), String> {
    let (rest, secure) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => return Err(format!("`{url}` is not a URL")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest).parse::<http::uri::Authority>();
    let Ok(authority) = authority else { return Err(format!("`{url}` is not a URL of a server")) };
    let Some(port) = authority.port_u16().filter(|port| *port != 0) else {
        return Err(format!("`{url}` has no port"));
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() || authority.as_str().contains('@') {
        return Err(format!("`{url}` is not a URL of a server"));
    }
    Ok((Server { host, port }, secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_with_a_port() {
        let good = |url: &str| server(url).map(|(server, secure)| (server.to_string(), secure)).unwrap();
        assert_eq!(good("http://127.0.0.1:2379"), ("127.0.0.1:2379".to_owned(), false));
        assert_eq!(good("http://[::1]:2379/"), ("[::1]:2379".to_owned(), false));
        assert_eq!(good("https://etcd.internal:2379"), ("etcd.internal:2379".to_owned(), true));
        for bad in ["127.0.0.1:2379", "http://127.0.0.1", "http://a:0", "http://u@h:1", "http://h:1/x"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
