//! Every answer that we make ourselves: one table from reason to status, blame and words.
//!
//! Each carries `x-outrigger-reason`, the reason's code, and a JSON body that says who is to blame and what to do.

use std::io::Write as _;

use crate::head::BadHead;

/// Why we answer in an upstream's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Head(BadHead),
    Body,
    HeadTimeout,
    NoService,
    NoEndpoint,
    PolicyNone,
    Overloaded,
    ConnectFailed,
    ConnectTimeout,
    Reset,
    BadAnswer,
    RequestTimeout,
}

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    Client,
    Upstream,
    Policy,
    Operator,
    Us,
}

struct Entry {
    status: u16,
    phrase: &'static str,
    code: &'static str,
    blame: Blame,
    advice: &'static str,
}

impl Reason {
    /// The machine-readable code: a metric label and the value of `x-outrigger-reason`.
    pub(crate) fn code(self) -> &'static str {
        self.entry().code
    }

    pub(crate) fn status(self) -> u16 {
        self.entry().status
    }

    #[rustfmt::skip]
    fn entry(self) -> Entry {
        use Blame::{Client, Operator, Policy, Upstream, Us};
        let (status, phrase, code, blame, advice) = match self {
            Self::Head(bad) => return head_entry(bad),
            Self::Body => (400, "Bad Request", "bad-body", Client, "Send valid chunks; see RFC 9112, section 7.1."),
            Self::HeadTimeout => (408, "Request Timeout", "head-timeout", Client, "Send the whole head in one go."),
            Self::NoService => (404, "Not Found", "no-service", Operator, "No route and no service has this authority. Check the name, or add the service to the registry."),
            Self::NoEndpoint => (503, "Service Unavailable", "no-endpoint", Operator, "The service has no endpoint that may be used. Look at /endpoints of the admin address."),
            Self::PolicyNone => (503, "Service Unavailable", "policy-none", Policy, "The balancing policy found no endpoint usable. Look at /policies of the admin address."),
            Self::Overloaded => (503, "Service Unavailable", "overloaded", Us, "limits.endpoint_connections_max is reached. Try again later, or raise it."),
            Self::ConnectFailed => (502, "Bad Gateway", "connect-failed", Upstream, "The endpoint refused the connection. Is it running?"),
            Self::ConnectTimeout => (504, "Gateway Timeout", "connect-timeout", Upstream, "The endpoint did not accept a connection within timeouts.connect."),
            Self::Reset => (502, "Bad Gateway", "upstream-reset", Upstream, "The endpoint closed the connection before it had answered."),
            Self::BadAnswer => (502, "Bad Gateway", "bad-answer", Upstream, "The endpoint's answer is not valid HTTP/1.1."),
            Self::RequestTimeout => (504, "Gateway Timeout", "request-timeout", Upstream, "The endpoint did not answer within timeouts.request."),
        };
        Entry { status, phrase, code, blame, advice }
    }
}

#[rustfmt::skip]
fn head_entry(bad: BadHead) -> Entry {
    let (status, phrase, code, advice) = match bad {
        BadHead::Syntax => (400, "Bad Request", "bad-syntax", "The request line or a field is malformed."),
        BadHead::BareLf => (400, "Bad Request", "bare-lf", "Lines end with CR LF."),
        BadHead::TooLarge => (431, "Request Header Fields Too Large", "head-too-large", "The head exceeds limits.head_bytes_max."),
        BadHead::TooManyFields => (431, "Request Header Fields Too Large", "too-many-fields", "The head has more fields than limits.headers_max."),
        BadHead::Version => (505, "HTTP Version Not Supported", "bad-version", "Send HTTP/1.1."),
        BadHead::Target => (400, "Bad Request", "bad-target", "Send a path, or an http:// URI without fragment."),
        BadHead::Host => (400, "Bad Request", "bad-host", "Send exactly one valid Host field."),
        BadHead::ContentLength => (400, "Bad Request", "bad-length", "Send one Content-Length, digits only."),
        BadHead::TransferEncoding => (400, "Bad Request", "bad-transfer-encoding", "Send Transfer-Encoding: chunked, once."),
        BadHead::TwoLengths => (400, "Bad Request", "two-lengths", "Send Content-Length or Transfer-Encoding, not both."),
        BadHead::Coding => (501, "Not Implemented", "unknown-coding", "chunked is the only transfer coding understood."),
        BadHead::Expectation => (417, "Expectation Failed", "bad-expectation", "100-continue is the only expectation understood."),
        BadHead::Connect => (501, "Not Implemented", "no-connect", "CONNECT is not offered here."),
    };
    Entry { status, phrase, code, blame: Blame::Client, advice }
}

impl Blame {
    fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Policy => "policy",
            Self::Operator => "operator",
            Self::Us => "outrigger",
        }
    }
}

/// Appends a whole answer for `reason`. `to_head` leaves the body out, `close` says that the connection ends.
pub(crate) fn refuse(out: &mut Vec<u8>, reason: Reason, to_head: bool, close: bool) {
    let entry = reason.entry();
    let mut body = Vec::with_capacity(192);
    // Only our own words: nothing here needs escaping. Writing to a Vec cannot fail.
    let _ = writeln!(
        body,
        r#"{{"reason":"{}","blame":"{}","advice":"{}"}}"#,
        entry.code,
        entry.blame.word(),
        entry.advice
    );
    let _ = write!(
        out,
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-outrigger-reason: {}\r\n",
        entry.status,
        entry.phrase,
        body.len(),
        entry.code
    );
    finish(out, &body, to_head, close);
}

/// Appends an answer that a router made: a redirect or a reply. The host has validated fields and status.
pub(crate) fn answer(
    out: &mut Vec<u8>,
    status: u16,
    fields: &[(String, String)],
    body: &str,
    to_head: bool,
    close: bool,
) {
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
    let _ = write!(out, "HTTP/1.1 {status} {phrase}\r\n");
    for (name, value) in fields {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    if status != 204 && status != 304 {
        let _ = write!(out, "content-length: {}\r\n", body.len());
        finish(out, body.as_bytes(), to_head, close);
    } else {
        finish(out, b"", to_head, close);
    }
}

fn finish(out: &mut Vec<u8>, body: &[u8], to_head: bool, close: bool) {
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const HEADS: [BadHead; 13] = [
        BadHead::Syntax, BadHead::BareLf, BadHead::TooLarge, BadHead::TooManyFields, BadHead::Version, BadHead::Target,
        BadHead::Host, BadHead::ContentLength, BadHead::TransferEncoding, BadHead::TwoLengths, BadHead::Coding,
        BadHead::Expectation, BadHead::Connect,
    ];
    #[rustfmt::skip]
    const OTHERS: [Reason; 11] = [
        Reason::Body, Reason::HeadTimeout, Reason::NoService, Reason::NoEndpoint, Reason::PolicyNone,
        Reason::Overloaded, Reason::ConnectFailed, Reason::ConnectTimeout, Reason::Reset, Reason::BadAnswer,
        Reason::RequestTimeout,
    ];

    #[test]
    fn docs_list_every_reason() {
        let mut table = String::from("| status | reason | blame | advice |\n|---|---|---|---|\n");
        for reason in OTHERS.into_iter().chain(HEADS.map(Reason::Head)) {
            let Entry { status, code, blame, advice, .. } = reason.entry();
            table += &format!("| {status} | `{code}` | {} | {advice} |\n", blame.word());
        }
        crate::docs::keep("ADMIN.md", "reasons", &table);
    }
}
