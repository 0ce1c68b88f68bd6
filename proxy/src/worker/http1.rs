//! HTTP/1.1 on the wire: framing of bodies and writing of heads. Heads are parsed in `crate::head`.
//!
//! Ours instead of a library's because a sidecar must see what a lenient parser hides (bare LF, the exact framing),
//! pass interim answers and trailers on, and touch each byte at most once.

mod buffer;
mod chunked;
mod write;

pub(super) use buffer::Buffer;
pub(super) use chunked::{BadChunk, Chunked};
pub(super) use write::{Forwarding, Persistence, request_head, response_head};
