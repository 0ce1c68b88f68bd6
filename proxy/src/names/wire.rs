//! DNS messages as bytes: what a question asks, read strictly, and how answers are written.
//!
//! Used by everything in `names` that a question passes through. Nothing here allocates but for the reply's buffer,
//! which the caller keeps. Invariant: a `Query` has exactly one question, whose name is plain labels within limits.

use std::ops::RangeInclusive;

mod query;
mod reply;
#[cfg(test)]
mod tests;

pub use query::{Edns, Key, Malformed, Query};
pub use reply::{Data, Extended, Reply, Section, Soa, cut, refusal};

pub const HEADER_BYTES: usize = 12;
/// Of a name on the wire, its lengths and the root included (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;
pub const LABEL_BYTES_MAX: usize = 63;
/// What the two bytes before a message over TCP can say.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// Of a reply over UDP: without EDNS, and the most that crosses networks in one piece.
pub const UDP_BYTES: RangeInclusive<u16> = 512..=1232;

/// How a question came, and how its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Types of records.
pub mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

pub mod class {
    pub const IN: u16 = 1;
    pub const CH: u16 = 3;
    pub const ANY: u16 = 255;
}

/// What a reply says about the question as a whole. Beyond 15, the upper bits travel in EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// Two bytes as a number; zero beyond the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}
