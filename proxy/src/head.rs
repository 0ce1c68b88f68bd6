//! The head of an HTTP/1.1 request: parsed once, strictly, and kept as spans into its own bytes.
//!
//! Workers make it, the route table and the policies read it. It is plain data (`Send`), so that it can be lent to
//! a policy instance for the length of a call.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;

/// A request head. Names and values are spans into `bytes`; header order is kept.
#[derive(Debug, Default, Clone)]
pub struct RequestHead {
    pub(crate) bytes: Vec<u8>,
    pub(crate) method: Range<usize>,
    pub(crate) target: Range<usize>,
    /// Of origin-form targets the whole target; of absolute-form ones the part behind the authority.
    pub(crate) path: Range<usize>,
    pub(crate) authority: String,
    pub(crate) headers: Vec<(Range<usize>, Range<usize>)>,
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

    /// Host and optional port, lower case.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Fields in order, names as received, values without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// First value of the field; the name is matched without regard to case.
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.header_all(name).next()
    }

    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The parser admits only ASCII in method and target, so this never falls back to the empty text.
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
        Self { head: RequestHead::default(), source: IpAddr::V4(Ipv4Addr::UNSPECIFIED), identity: None, tried: Vec::new() }
    }
}
