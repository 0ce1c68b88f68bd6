//! The head of an HTTP/1.1 request: parsed once, strictly, and kept as spans into its own bytes.
//!
//! Workers make it, the route table and the policies read it. It is plain data (`Send`), so that it can be lent to
//! a policy instance for the length of a call. Invariant: every span lies within `bytes`; method and target are ASCII.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;

mod field;
mod parse;
mod response;

pub use field::{Kind, list};
pub use parse::{BadHead, Framing, HeadLimits, Progress, valid_authority};
pub use response::ResponseHead;

/// A request head. Field order is kept.
#[derive(Debug, Default, Clone)]
pub struct RequestHead {
    bytes: Vec<u8>,
    method: Range<usize>,
    /// Of origin-form targets the whole target; of absolute-form ones the part behind the authority.
    path: Range<usize>,
    /// Lower case.
    authority: String,
    fields: Vec<Field>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    minor: u8,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
    /// Whether `Connection` names fields beyond the known hop-by-hop ones.
    nominates: bool,
}

#[derive(Debug, Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
    kind: Kind,
}

impl RequestHead {
    pub fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// Path and query, as received; `/` for an empty one.
    pub fn path(&self) -> &str {
        match self.text(&self.path) {
            "" => "/",
            path => path,
        }
    }

    /// Host and optional port, lower case; empty only in HTTP/1.0 without `Host`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Fields in order, names as received, values without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|f| (&self.bytes[f.name.clone()], &self.bytes[f.value.clone()]))
    }

    /// The same with what the forwarding rules think of each field.
    pub fn classified(&self) -> impl Iterator<Item = (Kind, &[u8], &[u8])> {
        self.fields.iter().map(|f| (f.kind, &self.bytes[f.name.clone()], &self.bytes[f.value.clone()]))
    }

    /// First value of the field; the name is matched without regard to case.
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.header_all(name).next()
    }

    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Whether `Connection` names this field as one for us alone (RFC 9110, 7.6.1).
    pub fn nominated(&self, name: &[u8]) -> bool {
        self.nominates
            && self
                .fields
                .iter()
                .filter(|f| f.kind == Kind::Connection)
                .flat_map(|f| list(&self.bytes[f.value.clone()]))
                .any(|token| token.eq_ignore_ascii_case(name))
    }

    pub fn is_http_10(&self) -> bool {
        self.minor == 0
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client means to send another request on this connection.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the client asks for another protocol (`Connection: upgrade` with `Upgrade`).
    pub fn upgrade(&self) -> bool {
        self.upgrade
    }

    /// Methods that may be repeated without being asked (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// The parser admits only ASCII here, so this never falls back to the empty text.
    fn text(&self, span: &Range<usize>) -> &str {
        std::str::from_utf8(&self.bytes[span.clone()]).unwrap_or_default()
    }
}

/// What a policy may ask about the request being decided on. Boxed, so that lending it is a pointer's move.
#[derive(Debug)]
pub struct RequestFacts {
    pub head: RequestHead,
    pub source: IpAddr,
    /// The peer's verified identity.
    pub identity: Option<Arc<str>>,
    /// Ids of endpoints that earlier attempts went to.
    pub tried: Vec<u64>,
}

impl Default for RequestFacts {
    fn default() -> Self {
        Self {
            head: RequestHead::default(),
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            identity: None,
            tried: Vec::new(),
        }
    }
}
