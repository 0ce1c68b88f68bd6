//! Where a body ends, and how one framing becomes another: no bytes are kept here.

use super::http1::{BadChunk, Chunked};
use crate::head::Framing;

/// Where a body ends, in either direction.
#[derive(Debug)]
pub(super) struct Body {
    framing: Left,
    pub(super) bad: Option<BadChunk>,
}

#[derive(Debug)]
enum Left {
    Bytes(u64),
    Chunks(Box<Chunked>),
    UntilClose,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let framing = match framing {
            Framing::None => Left::Bytes(0),
            Framing::Length(n) => Left::Bytes(n),
            Framing::Chunked => Left::Chunks(Box::new(Chunked::new())),
            Framing::Close => Left::UntilClose,
        };
        Self { framing, bad: None }
    }

    pub(super) fn is_done(&self) -> bool {
        match &self.framing {
            Left::Bytes(left) => *left == 0,
            Left::Chunks(chunked) => chunked.is_done(),
            Left::UntilClose => false,
        }
    }

    /// How much of `input` belongs to the body; `data` gets its content. A malformed chunk is noted in `bad`.
    pub(super) fn advance(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> usize {
        match &mut self.framing {
            Left::Bytes(left) => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                data(&input[..taken]);
                taken
            }
            Left::Chunks(chunked) => chunked.advance(input, data).unwrap_or_else(|bad| {
                self.bad = Some(bad);
                0
            }),
            Left::UntilClose => {
                data(input);
                input.len()
            }
        }
    }
}

/// How the upstream's framing becomes the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Convert {
    Nothing,
    /// An answer that ends with the connection, for a client that may keep its own.
    Enchunk,
    /// A chunked answer for an HTTP/1.0 client.
    Dechunk,
}

impl Convert {
    pub(super) fn between(from: Framing, to: Framing) -> Self {
        match (from, to) {
            (Framing::Close, Framing::Chunked) => Self::Enchunk,
            (Framing::Chunked, Framing::Close) => Self::Dechunk,
            _ => Self::Nothing,
        }
    }

    /// Appends what `input` becomes; answers how much of it was body.
    pub(super) fn apply(self, body: &mut Body, input: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::Nothing => {
                let taken = body.advance(input, |_| {});
                out.extend_from_slice(&input[..taken]);
                taken
            }
            Self::Dechunk => body.advance(input, |data| out.extend_from_slice(data)),
            Self::Enchunk => {
                if !input.is_empty() {
                    out.extend_from_slice(format!("{:x}\r\n", input.len()).as_bytes());
                    out.extend_from_slice(input);
                    out.extend_from_slice(b"\r\n");
                }
                body.advance(input, |_| {})
            }
        }
    }
}
