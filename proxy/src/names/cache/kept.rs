//! A reply from upstream in the form in which it is given to many: its bytes, and where they differ from client to
//! client.
//!
//! `write` copies and patches: id, spelling of the question, flags, TTLs, and an OPT record of our own for clients that
//! know EDNS. Nothing is encoded again. Invariant: without its OPT record, and with TTLs within the configured bounds.

use std::ops::RangeInclusive;

use crate::names::facts::{Facts, Mark};
use crate::names::wire::{Code, Extended, HEADER_BYTES, Query, UDP_BYTES, kind, u16_at};

/// For how long a client may use what has expired (RFC 8767).
const STALE_TTL_S: u32 = 30;
const STALE_ANSWER: u16 = 3;
const STALE_NO_SUCH_NAME: u16 = 19;
/// The only option that is meant for more than the next hop (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// An OPT record without options.
const OPT_BYTES: usize = 11;
/// An option without its value.
const OPTION_BYTES: usize = 4;
/// An extended error without text.
const STALE_OPTION_BYTES: usize = OPTION_BYTES + 2;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const AD: u8 = 0x20;
const CD: u8 = 0x10;

/// How old a reply is when it is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It has just come.
    New,
    Seconds(u32),
    /// It has expired, and there is no better one.
    Stale,
}

/// Bounds on TTLs, in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TtlBounds {
    pub(crate) positive: RangeInclusive<u32>,
    pub(crate) negative_max: u32,
}

#[derive(Debug)]
pub(crate) struct Kept {
    /// Header, question and records.
    wire: Box<[u8]>,
    marks: Box<[Mark]>,
    /// By section.
    counts: [u16; 3],
    /// Extended errors, as options.
    extended: Box<[u8]>,
    pub(crate) code: u16,
    /// For how many seconds it may be given away; zero: to those who wait for it now.
    pub(crate) ttl_s: u32,
}

impl Kept {
    /// What `Facts::read` found in these bytes.
    pub(crate) fn new(bytes: &[u8], facts: &Facts, bounds: &TtlBounds) -> Self {
        let mut wire: Box<[u8]> = bytes[..facts.end].into();
        let ttl_s = match facts.ttl {
            None => 0,
            Some(ttl) if facts.negative => ttl.min(bounds.negative_max),
            Some(ttl) => ttl.clamp(*bounds.positive.start(), *bounds.positive.end()),
        };
        // What is not kept goes on as it came.
        if ttl_s > 0 {
            let bounds = match facts.negative {
                true => 0..=ttl_s,
                false => bounds.positive.clone(),
            };
            for mark in &facts.records {
                let ttl = ttl_at(&wire, *mark).clamp(*bounds.start(), *bounds.end());
                set_ttl(&mut wire, *mark, ttl);
            }
        }
        let options = facts.options.clone().map_or(&[][..], |options| &bytes[options]);
        Self {
            wire,
            marks: facts.records.as_slice().into(),
            counts: facts.counts,
            extended: extended_errors(options),
            code: facts.code,
            ttl_s,
        }
    }

    /// That nobody could answer this question, to be remembered for a while (RFC 9520).
    pub(crate) fn failure(question: &[u8], extended: Extended, ttl_s: u32) -> Self {
        let mut wire = vec![0, 0, 0x80, RA | Code::ServFail as u8, 0, 1, 0, 0, 0, 0, 0, 0];
        wire.extend_from_slice(question);
        let text = extended.text.as_bytes();
        let mut option = Vec::with_capacity(STALE_OPTION_BYTES + text.len());
        // Texts are our own, and short.
        for number in [EXTENDED_ERROR, 2 + text.len() as u16, extended.code] {
            option.extend_from_slice(&number.to_be_bytes());
        }
        option.extend_from_slice(text);
        Self {
            wire: wire.into(),
            marks: Box::default(),
            counts: [0; 3],
            extended: option.into(),
            code: Code::ServFail as u16,
            ttl_s,
        }
    }

    /// What an upstream said that could not find out, to be remembered for a while.
    pub(crate) fn kept_for(mut self, ttl_s: u32) -> Self {
        self.ttl_s = ttl_s;
        self
    }

    /// Whether it answers the question: with data, or with there being none.
    pub(crate) fn answers(&self) -> bool {
        self.code == Code::NoError as u16 || self.code == Code::NxDomain as u16
    }

    /// On the heap, about.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.wire.len() + size_of_val(&*self.marks) + self.extended.len()
    }

    /// Writes the reply to this client's question, which is the one that was asked but for its spelling.
    pub(crate) fn write(&self, query: &Query<'_>, age: Age, bytes_max: usize, out: &mut Vec<u8>) {
        let opt = query.edns.map_or(0, |_| self.opt_bytes(age));
        let (end, counts) = self.cut(bytes_max.saturating_sub(opt));
        out.clear();
        out.reserve(end + opt);
        out.extend_from_slice(&self.wire[..end]);
        out[..2].copy_from_slice(&query.message[..2]);
        let question = query.question();
        out[HEADER_BYTES..HEADER_BYTES + question.len()].copy_from_slice(question);
        self.write_flags(query, age, counts, out);
        self.write_ttls(age, end, out);
        let additionals = counts[2] + u16::from(query.edns.is_some());
        for (at, count) in [(6, counts[0]), (8, counts[1]), (10, additionals)] {
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        if query.edns.is_some() {
            self.write_opt(query.dnssec_ok(), age, out);
        }
    }

    /// How much fits: where it ends, and how many records of each section that is. Names point backwards only, so
    /// what is in front stands without the rest.
    fn cut(&self, bytes_max: usize) -> (usize, [u16; 3]) {
        if self.wire.len() <= bytes_max {
            return (self.wire.len(), self.counts);
        }
        let fitting = self.marks.partition_point(|mark| usize::from(mark.end) <= bytes_max);
        let question_end = self.wire.len().min(self.question_end());
        let end = fitting.checked_sub(1).map_or(question_end, |last| usize::from(self.marks[last].end));
        let mut left = fitting as u16;
        let counts = self.counts.map(|count| {
            let fits = count.min(left);
            left -= fits;
            fits
        });
        (end, counts)
    }

    fn question_end(&self) -> usize {
        let mut at = HEADER_BYTES;
        while let Some(&length @ 1..) = self.wire.get(at) {
            at += 1 + usize::from(length);
        }
        at + 5
    }

    fn write_flags(&self, query: &Query<'_>, age: Age, counts: [u16; 3], out: &mut [u8]) {
        let (asked, said) = (&query.message[2..4], &self.wire[2..4]);
        // What is additional may be missing without a word.
        let cut = if counts[..2] == self.counts[..2] { 0 } else { TC };
        // Whoever repeats an answer has no authority for it.
        let authority = if age == Age::New { said[0] & AA } else { 0 };
        out[2] = said[0] & !(AA | RD) | authority | asked[0] & RD | cut;
        // Only clients that ask are told that the answer is authentic (RFC 6840, 5.7 and 5.8).
        let authentic = if asked[1] & AD != 0 || query.dnssec_ok() { said[1] & AD } else { 0 };
        out[3] = said[1] & !(AD | CD) | authentic | asked[1] & CD;
    }

    fn write_ttls(&self, age: Age, end: usize, out: &mut [u8]) {
        let marks = self.marks.iter().take_while(|mark| usize::from(mark.end) <= end);
        match age {
            Age::New | Age::Seconds(0) => {}
            Age::Seconds(age) => {
                for mark in marks {
                    set_ttl(out, *mark, ttl_at(&self.wire, *mark).saturating_sub(age));
                }
            }
            Age::Stale => {
                for mark in marks {
                    set_ttl(out, *mark, STALE_TTL_S);
                }
            }
        }
    }

    fn opt_bytes(&self, age: Age) -> usize {
        OPT_BYTES + self.extended.len() + if age == Age::Stale { STALE_OPTION_BYTES } else { 0 }
    }

    fn write_opt(&self, dnssec_ok: bool, age: Age, out: &mut Vec<u8>) {
        let [high, low] = UDP_BYTES.end().to_be_bytes();
        let upper = (self.code >> 4) as u8;
        let flags = if dnssec_ok { 0x80 } else { 0 };
        out.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, upper, 0, flags, 0]);
        let length = (self.opt_bytes(age) - OPT_BYTES) as u16;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.extended);
        if age == Age::Stale {
            let stale = if self.code == Code::NxDomain as u16 { STALE_NO_SUCH_NAME } else { STALE_ANSWER };
            for number in [EXTENDED_ERROR, 2, stale] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
}

/// Longer texts than this are cut off with all that follows: they have to fit beside an answer.
const EXTENDED_BYTES_MAX: usize = 256;

fn extended_errors(options: &[u8]) -> Box<[u8]> {
    let mut found = Vec::new();
    let mut rest = options;
    while rest.len() >= OPTION_BYTES {
        let (option, after) = rest.split_at((OPTION_BYTES + usize::from(u16_at(rest, 2))).min(rest.len()));
        if u16_at(option, 0) == EXTENDED_ERROR && found.len() + option.len() <= EXTENDED_BYTES_MAX {
            found.extend_from_slice(option);
        }
        rest = after;
    }
    found.into()
}

fn ttl_at(wire: &[u8], mark: Mark) -> u32 {
    let at = usize::from(mark.ttl_at);
    let ttl = u32::from(u16_at(wire, at)) << 16 | u32::from(u16_at(wire, at + 2));
    // RFC 2181, section 8.
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

fn set_ttl(wire: &mut [u8], mark: Mark, ttl_s: u32) {
    let at = usize::from(mark.ttl_at);
    wire[at..at + 4].copy_from_slice(&ttl_s.to_be_bytes());
}
