//! A request taken apart, and the answers that all parts of the interface give.

use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use serde::Serialize;
use serde_json::Value;

use crate::registry_server::change::Refusal;

/// Parts of the interface, for the metric.
const ENDPOINTS: [&str; 7] = ["agent", "catalog", "health", "kv", "session", "status", "txn"];

/// A request's head, decoded.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Of the path, each decoded.
    pub(super) segments: Vec<String>,
    /// All of the path, decoded, for keys that hold slashes.
    pub(super) path: String,
    query: Vec<(String, String)>,
}

impl Ask {
    pub(super) fn new(head: Parts) -> Self {
        let path = head.uri.path();
        let segments = path.split('/').skip(1).map(|part| decoded(part, false)).collect();
        let pairs = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name, true), decoded(value, true)))
            .collect();
        Self { method: head.method, headers: head.headers, segments, path: decoded(path, false), query }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(n, _)| n == name)
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let wrong = || Problem::bad(format!("`{name}` is a whole number, not {text:?}"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    pub(super) fn endpoint(&self) -> &'static str {
        let first = self.segments.get(1).map(String::as_str).unwrap_or_default();
        ENDPOINTS.into_iter().find(|endpoint| *endpoint == first).unwrap_or("other")
    }
}

/// Undoes percent-encoding; what is no UTF-8 becomes the replacement character.
fn decoded(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match (hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()), bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 2;
            }
            (None, b'+') if plus_is_space => out.push(b' '),
            (None, byte) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A whole body, within a limit.
pub(super) async fn body_of(body: Incoming, max: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request body too large, max size: {max} bytes");
            Err(Problem { status: StatusCode::PAYLOAD_TOO_LARGE, ..Problem::bad(message) })
        }
        Err(error) => Err(Problem::bad(error.to_string())),
    }
}

/// What is sent back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Body,
    /// Of what was asked for.
    pub(super) index: Option<u64>,
}

#[derive(Debug)]
enum Body {
    Json(Value),
    /// Made once, since values may be large.
    Ready(Bytes, &'static str),
}

impl Answer {
    pub(super) fn empty() -> Self {
        Self::text(Bytes::new(), "text/plain; charset=utf-8")
    }

    pub(super) fn text(text: impl Into<Bytes>, kind: &'static str) -> Self {
        Self { status: StatusCode::OK, body: Body::Ready(text.into(), kind), index: None }
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        // Maps here have texts for keys, so that nothing can fail.
        let body = Body::Json(serde_json::to_value(value).unwrap_or_default());
        Self { status: StatusCode::OK, body, index: None }
    }

    /// Without the way over a `Value`, for what may be long.
    pub(super) fn compact(value: &impl Serialize) -> Self {
        Self::text(serde_json::to_vec(value).unwrap_or_default(), "application/json")
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn into_response(self, pretty: bool) -> Response<Full<Bytes>> {
        let (body, kind) = match self.body {
            Body::Json(value) if pretty => (format!("{value:#}\n").into(), "application/json"),
            Body::Json(value) => (value.to_string().into(), "application/json"),
            Body::Ready(body, "application/json") if pretty => {
                let value: Option<Value> = serde_json::from_slice(&body).ok();
                (value.map_or(body, |value| format!("{value:#}\n").into()), "application/json")
            }
            Body::Ready(body, kind) => (body, kind),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers
            .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        if let Some(index) = self.index {
            headers.insert(HeaderName::from_static("x-consul-index"), HeaderValue::from(index));
            headers.insert(HeaderName::from_static("x-consul-knownleader"), HeaderValue::from_static("true"));
            headers.insert(HeaderName::from_static("x-consul-lastcontact"), HeaderValue::from_static("0"));
            let level = HeaderValue::from_static("leader");
            headers.insert(HeaderName::from_static("x-consul-effective-consistency"), level);
        }
        response
    }
}

/// Why a request gets no answer but this. As Consul does, it is plain text.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// Of one for want of a right: the metric's label.
    pub(super) denied: Option<&'static str>,
}

impl Problem {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), denied: None }
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::bad(message) }
    }

    pub(super) fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, message: message.into(), denied: Some(reason) }
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::bad(error.to_string()) }
    }

    pub(super) fn nothing_here(ask: &Ask) -> Self {
        let (method, path) = (&ask.method, &ask.path);
        Self::unknown(format!(
            "{method} {path}: this registry speaks a part of Consul's interface; see REGISTRY.md"
        ))
    }

    pub(super) fn answer(self) -> Answer {
        Answer::text(self.message, "text/plain; charset=utf-8").with_status(self.status)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Txn(..) => StatusCode::CONFLICT,
            Refusal::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Ended => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, ..Self::bad(refusal.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_apart() {
        let request = http::Request::builder().uri("/v1/kv/a%2Fb/c?recurse&index=7&f=a+b%20c%zz&tag=x&tag=y");
        let ask = Ask::new(request.body(()).unwrap().into_parts().0);
        assert_eq!(ask.segments, ["v1", "kv", "a/b", "c"]);
        assert_eq!(ask.path, "/v1/kv/a/b/c");
        assert!(ask.has("recurse") && !ask.has("wait"));
        assert_eq!(ask.number("index").unwrap(), Some(7));
        assert_eq!(ask.parameter("f"), Some("a b c%zz"));
        assert!(ask.parameters("tag").eq(["x", "y"]));
        assert!(ask.number("tag").is_err());
        assert_eq!(ask.endpoint(), "kv");
    }
}
