//! A strict look at what an upstream has sent: one walk over all records that says whether every byte has its place.
//!
//! `forward` and the cache use it. What it finds is kept beside the bytes (`Facts`), so that a stored reply is patched and cut without being parsed
//! again. Invariant: names only point backwards, records end where the message ends, and the OPT record, which is
//! between two hops, is not part of what is kept.

use std::ops::Range;

use super::wire::kind::{A, AAAA, ANY, CNAME, DNAME, MX, NS, OPT, PTR, SOA, SRV, TXT};
use super::wire::{Code, HEADER_BYTES, MESSAGE_BYTES_MAX, class};

mod name;

/// Over UDP there is room for a hundred; this is for those over TCP.
const RECORDS_MAX: usize = 4096;

/// Why bytes are not a reply that could be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("it is not an answer to a query with one question")]
    Header,
    #[error("a name is malformed")]
    Name,
    #[error("a record's data is malformed")]
    Data,
    #[error("it has too many records")]
    Records,
    #[error("something follows its last record")]
    Trailing,
    #[error("it has two OPT records, or one where none belongs")]
    Opt,
}

/// Where things are in a reply. Offsets fit in 16 bits, as a message's length does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// With the upper bits from the OPT record.
    pub(super) code: u16,
    pub(super) truncated: bool,
    /// End of the question, which begins after the header.
    pub(super) question_end: usize,
    /// In order, without OPT and without what follows it.
    pub(super) records: Vec<Mark>,
    /// Of `records`, by section.
    pub(super) counts: [u16; 3],
    /// End of the last of `records`.
    pub(super) end: usize,
    /// The options of the OPT record; `None` without such a record.
    pub(super) options: Option<Range<usize>>,
    /// For how many seconds it may be kept; `None`: not at all.
    pub(super) ttl: Option<u32>,
    /// It says that there is no such name or no such data.
    pub(super) negative: bool,
}

/// One record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) ttl_at: u16,
    pub(super) end: u16,
}

/// A record while it is looked at.
struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    ttl_at: usize,
    data: Range<usize>,
}

impl Facts {
    /// Reads a whole message. The question is not compared with anything here.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER_BYTES || bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Malformed::Short);
        }
        // A response (QR) to a standard query (opcode 0), with one question.
        if bytes[2] & 0xf8 != 0x80 || number(bytes, 4)? != 1 {
            return Err(Malformed::Header);
        }
        let question_end = name::end(bytes, HEADER_BYTES)? + 4;
        let asked = number(bytes, question_end - 4)?;
        number(bytes, question_end - 2)?;
        let mut facts = Self {
            code: u16::from(bytes[3] & 0x0f),
            truncated: bytes[2] & 0x02 != 0,
            question_end,
            records: Vec::new(),
            counts: [0; 3],
            end: question_end,
            options: None,
            ttl: None,
            negative: false,
        };
        facts.walk(bytes, asked)?;
        Ok(facts)
    }

    fn walk(&mut self, bytes: &[u8], asked: u16) -> Result<(), Malformed> {
        let sections = [number(bytes, 6)?, number(bytes, 8)?, number(bytes, 10)?];
        if sections.iter().map(|count| usize::from(*count)).sum::<usize>() > RECORDS_MAX {
            return Err(Malformed::Records);
        }
        let mut ages = Ages { least: u32::MAX, answered: false, soa: None };
        let mut at = self.end;
        for (section, count) in sections.into_iter().enumerate() {
            for _ in 0..count {
                let owner = at;
                let record = Record::read(bytes, at)?;
                at = record.data.end;
                if record.kind == OPT {
                    self.opt(bytes, owner, section, &record)?;
                    continue;
                }
                record.check(bytes)?;
                // What follows an OPT record may point behind it, so it is left out: the section is optional.
                if self.options.is_none() {
                    self.records.push(Mark { ttl_at: offset(record.ttl_at), end: offset(at) });
                    self.counts[section] += 1;
                    self.end = at;
                    ages.note(bytes, section, &record, asked)?;
                }
            }
        }
        if at != bytes.len() {
            return Err(Malformed::Trailing);
        }
        self.judge(&ages);
        Ok(())
    }

    fn opt(&mut self, bytes: &[u8], owner: usize, section: usize, record: &Record) -> Result<(), Malformed> {
        if section != 2 || bytes[owner] != 0 || self.options.is_some() {
            return Err(Malformed::Opt);
        }
        let mut at = record.data.start;
        while at < record.data.end {
            at += 4 + usize::from(number(bytes, at + 2)?);
        }
        if at != record.data.end {
            return Err(Malformed::Opt);
        }
        self.code |= u16::from(bytes[record.ttl_at]) << 4;
        self.options = Some(record.data.clone());
        Ok(())
    }

    /// What may be kept (RFC 2308): whole answers, and negative ones that say for how long.
    fn judge(&mut self, ages: &Ages) {
        let nothing = self.code == Code::NoError as u16 && !ages.answered;
        self.negative = self.code == Code::NxDomain as u16 || nothing;
        if self.truncated || !(self.code == Code::NoError as u16 || self.code == Code::NxDomain as u16) {
            return;
        }
        self.ttl = match self.negative {
            true => ages.soa.map(|soa| soa.min(ages.least)),
            false => Some(ages.least),
        };
    }
}

/// What the walk learns about time.
struct Ages {
    least: u32,
    /// A record of the type that was asked for has come.
    answered: bool,
    /// The lesser of its TTL and its last field.
    soa: Option<u32>,
}

impl Ages {
    fn note(&mut self, bytes: &[u8], section: usize, record: &Record, asked: u16) -> Result<(), Malformed> {
        self.least = self.least.min(record.ttl);
        self.answered |= section == 0 && (record.kind == asked || asked == ANY);
        if section == 1 && record.kind == SOA {
            let minimum = long(bytes, record.data.end - 4)?;
            self.soa = Some(record.ttl.min(seconds(minimum)));
        }
        Ok(())
    }
}

impl Record {
    fn read(bytes: &[u8], at: usize) -> Result<Self, Malformed> {
        let at = name::end(bytes, at)?;
        let start = at + 10;
        let end = start + usize::from(number(bytes, at + 8)?);
        if end > bytes.len() {
            return Err(Malformed::Short);
        }
        let (kind, class) = (number(bytes, at)?, number(bytes, at + 2)?);
        Ok(Self { kind, class, ttl: seconds(long(bytes, at + 4)?), ttl_at: at + 4, data: start..end })
    }

    /// Data with names in it, or of a fixed size, has to be what its type says: a client follows those names.
    fn check(&self, bytes: &[u8]) -> Result<(), Malformed> {
        let Range { start, end } = self.data;
        let names = |skip: usize, count: usize| {
            (0..count).try_fold(start + skip, |at, _| name::end(&bytes[..end], at))
        };
        let fits = match self.kind {
            A if self.class == class::IN => end - start == 4,
            AAAA if self.class == class::IN => end - start == 16,
            NS | CNAME | PTR | DNAME => names(0, 1)? == end,
            MX => names(2, 1)? == end,
            SRV => names(6, 1)? == end,
            SOA => names(0, 2)? + 20 == end,
            TXT => strings_end(bytes, start, end) == Some(end),
            _ => true,
        };
        if fits { Ok(()) } else { Err(Malformed::Data) }
    }
}

/// Where strings, each with its length before it, end; there is at least one.
fn strings_end(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += 1 + usize::from(*bytes.get(at)?);
        if at >= end {
            return Some(at);
        }
    }
}

/// A TTL with its highest bit set counts as zero (RFC 2181, section 8).
fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

fn number(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let two = bytes.get(at..at + 2).ok_or(Malformed::Short)?;
    Ok(u16::from_be_bytes([two[0], two[1]]))
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let four = bytes.get(at..at + 4).ok_or(Malformed::Short)?;
    Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// A message has at most 65,535 bytes: `read` has looked.
fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
