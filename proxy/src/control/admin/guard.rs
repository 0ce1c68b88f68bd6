//! Who may ask, and who may change.
//!
//! A listener on loopback trusts the machine's users, but a browser on the machine runs strangers' scripts: names
//! that resolve to loopback only just now (DNS rebinding) and requests sent from other sites are refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use sha2::{Digest, Sha256};

use super::{Answer, failure};
use crate::config::Secret;
use crate::snapshot::route::host_of;

/// Who can reach the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Whom the file's permissions let in.
    Unix,
    /// Every user of this machine.
    Loopback,
    Network,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    ForeignHost,
    ForeignOrigin,
    /// None is configured, so nobody can show it.
    NoToken,
    WrongToken,
}

impl Turned {
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::ForeignHost => {
                failure(StatusCode::FORBIDDEN, "on loopback, `Host` must be an address or localhost")
            }
            Self::ForeignOrigin => {
                failure(StatusCode::FORBIDDEN, "changes are not taken from web pages (`Origin`)")
            }
            Self::NoToken => {
                failure(StatusCode::FORBIDDEN, "off loopback, changes need `admin.token` to be set")
            }
            Self::WrongToken => {
                failure(StatusCode::UNAUTHORIZED, "changes need `Authorization: Bearer <admin.token>`")
            }
        }
    }
}

/// Of every request.
pub(super) fn host(head: &Parts, exposure: Exposure) -> Result<(), Turned> {
    if exposure != Exposure::Loopback {
        return Ok(());
    }
    // HTTP/1.0 may have none; a browser always sends it.
    let Some(value) = head.headers.get(HOST) else { return Ok(()) };
    let host = host_of(value.to_str().map_err(|_| Turned::ForeignHost)?);
    let local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok()
        || host.parse::<Ipv6Addr>().is_ok();
    if local { Ok(()) } else { Err(Turned::ForeignHost) }
}

/// Of requests that change something.
pub(super) fn change(head: &Parts, exposure: Exposure, token: Option<&Secret>) -> Result<(), Turned> {
    if exposure != Exposure::Unix && head.headers.contains_key(ORIGIN) {
        return Err(Turned::ForeignOrigin);
    }
    match token {
        None if exposure == Exposure::Network => Err(Turned::NoToken),
        None => Ok(()),
        Some(token) => {
            let shown = head.headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
            if shown.is_some_and(|shown| same(shown, token.0.as_bytes())) {
                Ok(())
            } else {
                Err(Turned::WrongToken)
            }
        }
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// In a time that says nothing about where the two differ: digests are compared, and all of them.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(&b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_local_hosts_on_loopback() {
        for host in ["localhost", "LOCALHOST:9901", "127.0.0.1:9901", "[::1]:9901", "10.1.2.3"] {
            assert_eq!(super::host(&head(&[("host", host)]), Exposure::Loopback), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9901", ""] {
            let refused = super::host(&head(&[("host", host)]), Exposure::Loopback);
            assert_eq!(refused, Err(Turned::ForeignHost), "{host}");
        }
        assert_eq!(host(&head(&[("host", "sidecar.example")]), Exposure::Network), Ok(()));
    }

    #[test]
    fn changes_need_the_token_off_loopback_or_when_there_is_one() {
        let token = Secret("s3cret".into());
        let shown = |value| head(&[("authorization", value)]);
        assert_eq!(change(&head(&[]), Exposure::Loopback, None), Ok(()));
        assert_eq!(change(&head(&[]), Exposure::Network, None), Err(Turned::NoToken));
        assert_eq!(change(&head(&[]), Exposure::Loopback, Some(&token)), Err(Turned::WrongToken));
        assert_eq!(change(&shown("Bearer s3cret"), Exposure::Network, Some(&token)), Ok(()));
        assert_eq!(change(&shown("bearer s3cret"), Exposure::Network, Some(&token)), Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3cret ", "Bearer ", "Basic s3cret", "s3cret", ""] {
            assert_eq!(
                change(&shown(wrong), Exposure::Network, Some(&token)),
                Err(Turned::WrongToken),
                "{wrong}"
            );
        }
    }

    #[test]
    fn web_pages_change_nothing() {
        let page = head(&[("origin", "https://evil.example")]);
        assert_eq!(change(&page, Exposure::Loopback, None), Err(Turned::ForeignOrigin));
        assert_eq!(change(&page, Exposure::Unix, None), Ok(()));
    }
}
