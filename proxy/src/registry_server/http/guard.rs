//! Who may ask, and who may change.
//!
//! Without tokens, everybody on this machine may do everything; but a browser on it runs strangers' scripts, so
//! names that resolve to loopback only just now (DNS rebinding) and changes sent by web pages are refused.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use http::Method;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use sha2::{Digest, Sha256};

use super::ask::{Ask, Problem};
use crate::registry_server::settings::{Rights, Settings};

type Fingerprint = [u8; 32];

#[derive(Debug)]
pub(super) struct Guard {
    /// By fingerprint: how long a look-up takes says nothing about a token.
    tokens: HashMap<Fingerprint, (String, Rights)>,
    anonymous: Rights,
    /// Nobody but this machine can reach us, and no token is asked for.
    trusts_this_machine: bool,
}

impl Guard {
    pub(super) fn new(settings: &Settings, address: SocketAddr) -> Self {
        let tokens = settings.tokens.iter();
        let tokens: HashMap<_, _> =
            tokens.map(|t| (fingerprint(t.secret.0.as_bytes()), (t.name.clone(), t.rights))).collect();
        // A client with a certificate is no stranger.
        let knows_clients = settings.tls.as_ref().is_some_and(|tls| tls.settings.client_ca_file.is_some());
        let trusts_this_machine =
            tokens.is_empty() && !knows_clients && address.ip().to_canonical().is_loopback();
        Self { tokens, anonymous: settings.anonymous, trusts_this_machine }
    }

    pub(super) fn admit(&self, ask: &Ask) -> Result<(), Problem> {
        let is_read = matches!(ask.method, Method::GET | Method::HEAD);
        if self.trusts_this_machine {
            local(ask)?;
            if !is_read && ask.headers.contains_key(ORIGIN) {
                let message = "Permission denied: changes are not taken from web pages (`Origin`)";
                return Err(Problem::denied("origin", message));
            }
        }
        // As with Consul, whether there is a leader is no secret.
        let needed = match ask.segments.get(1).map(String::as_str) {
            Some("status") => Rights::None,
            _ if is_read => Rights::Read,
            _ => Rights::Write,
        };
        let Some(shown) = shown(ask) else {
            if self.anonymous >= needed {
                return Ok(());
            }
            let message =
                "Permission denied: a token is needed (`X-Consul-Token` or `Authorization: Bearer`)";
            return Err(Problem::denied("anonymous", message));
        };
        // Without tokens there is nothing to compare with: a client may go on sending the one it is used to.
        if self.tokens.is_empty() && self.anonymous >= needed {
            return Ok(());
        }
        match self.tokens.get(&fingerprint(&shown)) {
            Some((_, rights)) if *rights >= needed => Ok(()),
            Some((name, _)) => {
                let message = format!("Permission denied: token `{name}` may not write");
                Err(Problem::denied("read-only", message))
            }
            None => Err(Problem::denied("unknown-token", "Permission denied: ACL not found: unknown token")),
        }
    }
}

fn fingerprint(token: &[u8]) -> Fingerprint {
    Sha256::digest(token).into()
}

/// The token of a request; an empty one is none.
fn shown(ask: &Ask) -> Option<Vec<u8>> {
    let bearer = || {
        let value = ask.headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, token) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.to_vec())
    };
    let header = || ask.headers.get("x-consul-token").map(|value| value.as_bytes().to_vec());
    let query = || ask.parameter("token").map(|token| token.as_bytes().to_vec());
    header().or_else(bearer).or_else(query).filter(|token| !token.is_empty())
}

fn local(ask: &Ask) -> Result<(), Problem> {
    // HTTP/1.0 may have none; a browser always sends it.
    let Some(value) = ask.headers.get(HOST) else { return Ok(()) };
    let authority = value.to_str().unwrap_or("?");
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let message = "Permission denied: without tokens, `Host` must be an address or localhost";
    Err(Problem::denied("foreign-host", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::registry_server::settings::{Flags, Token, load};

    fn guard(tokens: &[(&str, Rights)], anonymous: Rights) -> Guard {
        let token = |(secret, rights): &(&str, Rights)| Token {
            name: "t".into(),
            secret: Secret((*secret).into()),
            rights: *rights,
        };
        let settings = Settings {
            tokens: tokens.iter().map(token).collect(),
            anonymous,
            ..load(None, Flags::default()).unwrap()
        };
        Guard::new(&settings, settings.listen)
    }

    fn asked(guard: &Guard, method: &str, fields: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = http::Request::builder().method(method).uri("/v1/kv/a");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let ask = Ask::new(request.body(()).unwrap().into_parts().0);
        guard.admit(&ask).err().map(|problem| problem.denied.unwrap())
    }

    #[test]
    fn tokens_have_rights() {
        let guard = guard(&[("w", Rights::Write), ("r", Rights::Read), ("n", Rights::None)], Rights::None);
        assert_eq!(asked(&guard, "GET", &[]), Some("anonymous"));
        assert_eq!(asked(&guard, "GET", &[("x-consul-token", "")]), Some("anonymous"));
        assert_eq!(asked(&guard, "GET", &[("x-consul-token", "x")]), Some("unknown-token"));
        assert_eq!(asked(&guard, "GET", &[("x-consul-token", "r")]), None);
        assert_eq!(asked(&guard, "GET", &[("x-consul-token", "n")]), Some("read-only"));
        assert_eq!(asked(&guard, "PUT", &[("authorization", "bearer r")]), Some("read-only"));
        assert_eq!(asked(&guard, "PUT", &[("authorization", "Bearer w")]), None);
        assert_eq!(asked(&guard, "PUT", &[("x-consul-token", "w"), ("host", "registry.example")]), None);
    }

    #[test]
    fn the_machine_is_trusted_but_not_its_web_pages() {
        let guard = guard(&[], Rights::Write);
        assert_eq!(asked(&guard, "PUT", &[("x-consul-token", "any")]), None);
        for host in ["localhost:8500", "127.0.0.1:8500", "[::1]:8500", "[::1]", "10.0.0.1"] {
            assert_eq!(asked(&guard, "PUT", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:8500", ""] {
            assert_eq!(asked(&guard, "GET", &[("host", host)]), Some("foreign-host"), "{host}");
        }
        assert_eq!(asked(&guard, "PUT", &[("origin", "http://127.0.0.1")]), Some("origin"));
        assert_eq!(asked(&guard, "GET", &[("origin", "http://127.0.0.1")]), None);
    }
}
