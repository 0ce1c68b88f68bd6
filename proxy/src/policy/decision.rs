//! What a router decided, checked: nothing here can smuggle a header, split a response or name a foreign backend.
//!
//! The guest's answer is data from a stranger. `checked` is the only maker of these types.

use std::time::Duration;

use http::uri::Authority;

use super::bindings::router;
use super::refusal::Failure;

/// What happens to the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The next route is tried.
    Next,
    /// This backend, the request unchanged. An index into the backends granted, checked.
    Backend(u32),
    Forward(Box<Forward>),
    Redirect(Redirect),
    Reply(Reply),
}

/// To a backend, with changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub backend: u32,
    /// Path and query: begins with `/`, visible ASCII.
    pub path: Option<String>,
    pub authority: Option<String>,
    /// Names are tokens in lower case, values without control characters.
    pub set_headers: Vec<(String, String)>,
    pub remove_headers: Vec<String>,
    pub set_response_headers: Vec<(String, String)>,
    pub timeout: Option<Duration>,
    pub retry: RetryVerdict,
    pub hash_key: Option<String>,
    pub mirror: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RetryVerdict {
    #[default]
    Configured,
    Never,
    /// The request may be repeated whatever its method.
    Safe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub location: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Takes over a guest's answer, or says what is wrong with it.
pub(super) fn checked(decision: router::Decision, backends: usize) -> Result<Decision, Failure> {
    let taken = match decision {
        router::Decision::Next => Ok(Decision::Next),
        router::Decision::Backend(index) => backend(index, backends).map(Decision::Backend),
        router::Decision::Forward(f) => forward(f, backends).map(|f| Decision::Forward(Box::new(f))),
        router::Decision::Redirect(r) => redirect(r).map(Decision::Redirect),
        router::Decision::Reply(r) => reply(r).map(Decision::Reply),
    };
    taken.map_err(|message| Failure::nonsense("route", message))
}

fn forward(forward: router::Forward, backends: usize) -> Result<Forward, String> {
    let retry = match forward.retry {
        router::Retry::Configured => RetryVerdict::Configured,
        router::Retry::Never => RetryVerdict::Never,
        router::Retry::Safe => RetryVerdict::Safe,
    };
    let timeout = forward.timeout.map(Duration::from_nanos);
    if timeout.is_some_and(|t| t.is_zero()) {
        return Err("a timeout of nothing".to_owned());
    }
    count(forward.remove_headers.len())?;
    Ok(Forward {
        backend: backend(forward.backend, backends)?,
        path: forward.path.map(path).transpose()?,
        authority: forward.authority.map(authority).transpose()?,
        set_headers: headers(forward.set_headers)?,
        remove_headers: forward.remove_headers.into_iter().map(header_name).collect::<Result<_, _>>()?,
        set_response_headers: headers(forward.set_response_headers)?,
        timeout,
        retry,
        hash_key: forward.hash_key,
        mirror: forward.mirror.map(|index| backend(index, backends)).transpose()?,
    })
}

fn redirect(redirect: router::Redirect) -> Result<Redirect, String> {
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("{} is not the status of a redirect: 301, 302, 303, 307, 308", redirect.status));
    }
    if redirect.location.is_empty() || !redirect.location.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("location {} is not a URI: percent-encode it", quoted(&redirect.location)));
    }
    Ok(Redirect { status: redirect.status, location: redirect.location })
}

fn reply(reply: router::Reply) -> Result<Reply, String> {
    if !(200..=599).contains(&reply.status) {
        return Err(format!("{} is not the status of a reply: 200 to 599", reply.status));
    }
    if matches!(reply.status, 204 | 205 | 304) && !reply.body.is_empty() {
        return Err(format!("a reply with status {} has no body", reply.status));
    }
    Ok(Reply { status: reply.status, headers: headers(reply.headers)?, body: reply.body })
}

fn backend(index: u32, backends: usize) -> Result<u32, String> {
    if (index as usize) < backends { Ok(index) } else { Err(format!("backend {index} of {backends}")) }
}

fn path(path: String) -> Result<String, String> {
    let fits = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if fits {
        Ok(path)
    } else {
        Err(format!("path {} must begin with `/` and be visible ASCII", quoted(&path)))
    }
}

fn authority(text: String) -> Result<String, String> {
    match text.parse::<Authority>() {
        Ok(parsed) if !text.contains('@') && !parsed.host().is_empty() => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("authority {} is not a host with an optional port", quoted(&text))),
    }
}

fn headers(list: Vec<router::Header>) -> Result<Vec<(String, String)>, String> {
    count(list.len())?;
    list.into_iter().map(|h| Ok((header_name(h.name)?, header_value(h.value)?))).collect()
}

fn count(headers: usize) -> Result<(), String> {
    if headers <= HEADERS_MAX {
        Ok(())
    } else {
        Err(format!("{headers} headers, of which {HEADERS_MAX} may be"))
    }
}

fn header_name(name: String) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{} is not a header name", quoted(&name)));
    }
    let name = name.to_ascii_lowercase();
    if OURS.contains(&name.as_str()) || name.starts_with("proxy-") {
        return Err(format!(
            "header `{name}` belongs to the connection: the proxy alone sets and removes it"
        ));
    }
    Ok(name)
}

fn header_value(value: String) -> Result<String, String> {
    let fits = value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
    if fits { Ok(value) } else { Err(format!("header value {} has control characters", quoted(&value))) }
}

/// A stranger's text in a message: escaped and short.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Fields that frame the message or belong to one hop (RFC 9110, 7.6.1), and `host`, which `authority` replaces.
const OURS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];
/// Headers that one decision may set or remove.
const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(backend: u32) -> router::Forward {
        router::Forward {
            backend,
            path: None,
            authority: None,
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
            set_response_headers: Vec::new(),
            timeout: None,
            retry: router::Retry::Configured,
            hash_key: None,
            mirror: None,
        }
    }

    fn header(name: &str, value: &str) -> router::Header {
        router::Header { name: name.to_owned(), value: value.to_owned() }
    }

    fn fault(decision: router::Decision) -> String {
        checked(decision, 2).expect_err("must be refused").message
    }

    #[test]
    fn good_decisions_pass() {
        let mut f = plain(1);
        f.path = Some("/v2/x?y=1".to_owned());
        f.authority = Some("Web.mesh:8080".to_owned());
        f.set_headers = vec![header("X-Canary", "yes, plain")];
        let Ok(Decision::Forward(taken)) = checked(router::Decision::Forward(f), 2) else {
            panic!("refused")
        };
        assert_eq!(taken.set_headers, [("x-canary".to_owned(), "yes, plain".to_owned())]);
        assert_eq!(taken.authority.as_deref(), Some("web.mesh:8080"));
        assert_eq!(checked(router::Decision::Backend(0), 1), Ok(Decision::Backend(0)));
    }

    #[test]
    fn backends_must_be_granted() {
        assert_eq!(fault(router::Decision::Backend(2)), "route: backend 2 of 2");
        let mut f = plain(0);
        f.mirror = Some(7);
        assert!(fault(router::Decision::Forward(f)).contains("backend 7"));
    }

    #[test]
    fn connection_headers_and_injections_are_refused() {
        let bad = [
            ("Transfer-Encoding", "x"),
            ("host", "x"),
            ("Proxy-Authorization", "x"),
            ("a b", "x"),
            ("", "x"),
        ];
        for (name, value) in bad.into_iter().chain([("x", "a\r\nb"), ("x", "\0"), ("x:", "")]) {
            let mut f = plain(0);
            f.set_headers = vec![header(name, value)];
            assert!(checked(router::Decision::Forward(f), 2).is_err(), "{name:?}: {value:?}");
            let mut f = plain(0);
            f.set_response_headers = vec![header(name, value)];
            assert!(checked(router::Decision::Forward(f), 2).is_err(), "{name:?}: {value:?}");
        }
        let mut f = plain(0);
        f.remove_headers = vec!["Content-Length".to_owned()];
        assert!(checked(router::Decision::Forward(f), 2).is_err());
    }

    #[test]
    fn paths_and_authorities_are_checked() {
        for bad in ["", "x", "/a b", "/ü", "/a\r\nX: y", "/a#b", "http://x/"] {
            assert!(path(bad.to_owned()).is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "user@host", "a/b", "a:b:c", "x\r\n", ":80"] {
            assert!(authority(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(authority("[fd00::7]:80".to_owned()).is_ok());
    }

    #[test]
    fn replies_and_redirects_are_checked() {
        let redirect = |status, location: &str| {
            checked(router::Decision::Redirect(router::Redirect { status, location: location.to_owned() }), 0)
        };
        assert!(redirect(302, "https://x/y").is_ok());
        assert!(
            redirect(200, "/x").is_err() && redirect(302, "").is_err() && redirect(302, "/\r\n").is_err()
        );
        let reply = |status, body: &str| {
            let reply = router::Reply { status, headers: Vec::new(), body: body.to_owned() };
            checked(router::Decision::Reply(reply), 0)
        };
        assert!(reply(403, "no").is_ok() && reply(204, "").is_ok());
        assert!(reply(101, "").is_err() && reply(600, "").is_err() && reply(204, "x").is_err());
    }
}
