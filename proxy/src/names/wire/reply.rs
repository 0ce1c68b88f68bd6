//! Writes replies into a buffer that is used again: header and question first, then records while they fit.
//!
//! What does not fit is left out whole, and the reply says so where it matters. Names are compressed against earlier
//! ones, but not the target of an SRV record, which RFC 2782 forbids.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::query::question_end;
use super::{Code, HEADER_BYTES, Query, UDP_BYTES, class, kind};

/// An OPT record without options.
const OPT_BYTES: usize = 11;
/// Places of names that later ones may point to.
const SUFFIXES_MAX: usize = 24;
/// What a pointer can say.
const POINTER_MAX: usize = 0x3fff;
const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
/// Option of an extended error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// In the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// What a record says. Names are on the wire.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(&'a [u8]),
    Ns(&'a [u8]),
    Ptr(&'a [u8]),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: &'a [u8],
    },
    Soa(Soa<'a>),
    /// Strings, each with its length before it.
    Txt(&'a [u8]),
    Hinfo(&'a [u8]),
}

#[derive(Debug, Clone, Copy)]
pub struct Soa<'a> {
    pub server: &'a [u8],
    pub mailbox: &'a [u8],
    pub serial: u32,
    pub refresh_s: u32,
    pub retry_s: u32,
    pub expire_s: u32,
    /// How long a client may believe that something does not exist.
    pub negative_s: u32,
}

/// Why there is no better answer (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    pub code: u16,
    /// For people.
    pub text: &'static str,
}

/// A reply in the making.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    section: Section,
    /// By section.
    counts: [u16; 3],
    suffixes: [u16; SUFFIXES_MAX],
    suffixes_len: usize,
    edns: bool,
    dnssec_ok: bool,
    full: bool,
}

impl<'a> Reply<'a> {
    /// Begins with the header and the question as the client spelt it; `out` is emptied before.
    pub fn to(query: &Query<'_>, bytes_max: usize, out: &'a mut Vec<u8>) -> Self {
        let message = query.message;
        out.clear();
        out.extend_from_slice(&message[..2]);
        out.extend_from_slice(&[QR | message[2] & RD, RA | message[3] & CD, 0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(query.question());
        let edns = query.edns.is_some();
        let mut reply = Self {
            out,
            bytes_max: bytes_max - if edns { OPT_BYTES } else { 0 },
            section: Section::Answer,
            counts: [0; 3],
            suffixes: [0; SUFFIXES_MAX],
            suffixes_len: 0,
            edns,
            dnssec_ok: query.dnssec_ok(),
            full: false,
        };
        reply.remember(HEADER_BYTES, query.name());
        reply
    }

    /// The names are ours to answer for.
    pub fn authoritative(&mut self) {
        self.out[2] |= AA;
    }

    /// What follows belongs there; sections come in their order.
    pub fn section(&mut self, section: Section) {
        debug_assert!(section >= self.section);
        self.section = section;
    }

    /// Records in the answer section so far.
    pub fn answers(&self) -> u16 {
        self.counts[Section::Answer as usize]
    }

    /// Something has been left out.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether it fitted. If not, nothing after it does: a client shall not take a part for the whole.
    pub fn record(&mut self, owner: &[u8], ttl_s: u32, data: Data<'_>) -> bool {
        if self.full {
            return false;
        }
        let start = self.out.len();
        let known = self.suffixes_len;
        self.name(owner);
        self.out.extend_from_slice(&data.kind().to_be_bytes());
        self.out.extend_from_slice(&class::IN.to_be_bytes());
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        self.data(data);
        let length = self.out.len() - length_at - 2;
        match u16::try_from(length) {
            Ok(length) if self.out.len() <= self.bytes_max => {
                self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
                self.counts[self.section as usize] += 1;
                true
            }
            _ => {
                self.out.truncate(start);
                self.suffixes_len = known;
                self.full = true;
                // What is additional may be missing.
                if self.section != Section::Additional {
                    self.out[2] |= TC;
                }
                false
            }
        }
    }

    /// Completes the header and, for a client that knows EDNS, adds ours.
    pub fn finish(self, code: Code) {
        self.finish_with(code, None);
    }

    pub fn finish_with(self, code: Code, extended: Option<Extended>) {
        let mut additionals = self.counts[Section::Additional as usize];
        if self.edns {
            additionals += 1;
            write_opt(self.out, code, self.dnssec_ok, extended);
        }
        self.out[3] |= code as u8 & 0x0f;
        for (at, count) in [(6, self.counts[0]), (8, self.counts[1]), (10, additionals)] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    fn data(&mut self, data: Data<'_>) {
        match data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name),
            Data::Srv { priority, weight, port, target } => {
                for number in [priority, weight, port] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
                let at = self.out.len();
                self.out.extend_from_slice(target);
                self.remember(at, target);
            }
            Data::Soa(soa) => {
                self.name(soa.server);
                self.name(soa.mailbox);
                for number in [soa.serial, soa.refresh_s, soa.retry_s, soa.expire_s, soa.negative_s] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Data::Txt(bytes) | Data::Hinfo(bytes) => self.out.extend_from_slice(bytes),
        }
    }

    /// As few labels as needed, then a pointer to the rest.
    fn name(&mut self, name: &[u8]) {
        let start = self.out.len();
        let mut at = 0;
        while name.get(at).is_some_and(|length| *length != 0) {
            let suffix = &name[at..];
            let known = self.suffixes[..self.suffixes_len].iter();
            let known = known.copied().find(|known| is_name(self.out, usize::from(*known), suffix));
            if let Some(known) = known {
                self.out.extend_from_slice(&name[..at]);
                self.out.extend_from_slice(&(0xc000 | known).to_be_bytes());
                self.remember(start, &name[..at]);
                return;
            }
            at += 1 + usize::from(name[at]);
        }
        self.out.extend_from_slice(name);
        self.remember(start, name);
    }

    /// The labels written at this place can be pointed to from now on.
    fn remember(&mut self, start: usize, labels: &[u8]) {
        let mut at = 0;
        while let Some(&length @ 1..) = labels.get(at) {
            let place = start + at;
            if self.suffixes_len == SUFFIXES_MAX || place > POINTER_MAX {
                return;
            }
            self.suffixes[self.suffixes_len] = place as u16;
            self.suffixes_len += 1;
            at += 1 + usize::from(length);
        }
    }
}

impl Data<'_> {
    fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Aaaa(_) => kind::AAAA,
            Self::Cname(_) => kind::CNAME,
            Self::Ns(_) => kind::NS,
            Self::Ptr(_) => kind::PTR,
            Self::Srv { .. } => kind::SRV,
            Self::Soa(_) => kind::SOA,
            Self::Txt(_) => kind::TXT,
            Self::Hinfo(_) => kind::HINFO,
        }
    }
}

/// Whether the name at this place of the message is the one given, whatever the case of its letters. Pointers in it
/// are ours, so they lead backwards.
fn is_name(message: &[u8], mut at: usize, name: &[u8]) -> bool {
    let mut read = 0;
    loop {
        let (Some(&length), Some(&wanted)) = (message.get(at), name.get(read)) else { return false };
        if length >= 0xc0 {
            at = usize::from(super::u16_at(message, at)) & POINTER_MAX;
            continue;
        }
        let label = 1 + usize::from(length);
        if length != wanted {
            return false;
        }
        if length == 0 {
            return true;
        }
        match (message.get(at..at + label), name.get(read..read + label)) {
            (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => (at, read) = (at + label, read + label),
            _ => return false,
        }
    }
}

fn write_opt(out: &mut Vec<u8>, code: Code, dnssec_ok: bool, extended: Option<Extended>) {
    let [high, low] = UDP_BYTES.end().to_be_bytes();
    let upper = (code as u16 >> 4) as u8;
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, upper, 0, flags, 0]);
    let text = extended.map_or("", |extended| extended.text);
    let length = extended.map_or(0, |_| 6 + text.len() as u16);
    out.extend_from_slice(&length.to_be_bytes());
    if let Some(extended) = extended {
        for number in [EXTENDED_ERROR, 2 + text.len() as u16, extended.code] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(text.as_bytes());
    }
}

/// The reply to what is no question: its header, and the question if that can be read.
pub fn refusal(message: &[u8], code: Code, out: &mut Vec<u8>) {
    out.clear();
    let Some(&[id_high, id_low, first, second]) = message.get(..4) else { return };
    let question = question_end(message).filter(|_| super::u16_at(message, 4) == 1);
    let opt = u8::from(code == Code::BadVers);
    // The kind of operation comes back as it was.
    let flags = [QR | first & 0x78 | first & RD, second & CD | code as u8 & 0x0f];
    out.extend_from_slice(&[id_high, id_low, flags[0], flags[1]]);
    out.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, opt]);
    if let Some(end) = question {
        out.extend_from_slice(&message[HEADER_BYTES..end]);
    }
    if opt == 1 {
        write_opt(out, code, false, None);
    }
}

/// Makes a whole reply fit, if it does not: its records go, and the client is told to ask over TCP.
pub fn cut(reply: &mut Vec<u8>, query: &Query<'_>, bytes_max: usize) {
    let question = HEADER_BYTES + query.question().len();
    if reply.len() <= bytes_max || reply.len() < question {
        return;
    }
    reply.truncate(question);
    reply[2] |= TC;
    reply[6..HEADER_BYTES].fill(0);
    if let Some(edns) = query.edns {
        reply[11] = 1;
        write_opt(reply, Code::NoError, edns.dnssec_ok, None);
    }
}
