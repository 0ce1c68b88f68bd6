//! Questions about names that are not ours: from the cache at once, or from a resolver upstream.
//!
//! The server asks `cached` where it receives, and spawns `resolve` for what is not known yet. Both write whole
//! replies, with the client's id and spelling; the server cuts them to what the transport takes.

use std::rc::Rc;

use crate::config::Forward;
use crate::metrics::Metrics;

use super::wire::{Code, Extended, Query, Reply, Transport, refusal};

/// No upstream answered (RFC 8914, 4.23).
const NETWORK_ERROR: Extended = Extended { code: 23, text: "no resolver to ask" };

/// What knows other names.
#[derive(Debug)]
pub struct Forwarder {}

/// Where a reply came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Cache,
    /// From the cache, though it has expired: nobody upstream answers (RFC 8767).
    Stale,
    Upstream,
    /// Nobody upstream answers, or too many questions wait.
    Failed,
}

impl Forwarder {
    /// On the names thread, whose runtime carries its sockets and timers.
    pub fn new(_config: &Forward, _metrics: &Metrics) -> Rc<Self> {
        Rc::new(Self {})
    }

    /// Writes the whole reply, if it is known. Never waits; `now_ms` is `clock::now_ms`.
    pub fn cached(&self, _query: &Query<'_>, _now_ms: u64, _out: &mut Vec<u8>) -> Option<Source> {
        None
    }

    /// Always answers, in bounded time, with a whole reply.
    pub async fn resolve(self: Rc<Self>, query: Box<[u8]>, via: Transport) -> (Vec<u8>, Source) {
        let mut out = Vec::new();
        match Query::parse(&query) {
            Ok(query) => {
                let reply = Reply::to(&query, query.reply_bytes_max(via), &mut out);
                reply.finish_with(Code::ServFail, Some(NETWORK_ERROR));
            }
            // The server has parsed it already.
            Err(_) => refusal(&query, Code::FormErr, &mut out),
        }
        (out, Source::Failed)
    }
}
