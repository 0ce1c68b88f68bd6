//! A strict view of a question: where its parts are, copied nowhere.

use super::{
    Code, HEADER_BYTES, LABEL_BYTES_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, Transport, UDP_BYTES, kind,
    u16_at,
};

/// Records after the question: OPT and a signature are what clients send.
const RECORDS_MAX: u16 = 4;
/// Of a record, behind its name: type, class, TTL and length.
const RECORD_BYTES: usize = 10;
const NOTIFY: u8 = 4;
const UPDATE: u8 = 5;

/// One question that may be answered.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// As it came.
    pub message: &'a [u8],
    /// End of the question's class.
    question_end: usize,
    pub kind: u16,
    pub class: u16,
    pub edns: Option<Edns<'a>>,
    /// It carries a signature or another record that we cannot stand in for: only its own bytes can be passed on.
    pub signed: bool,
}

/// What the client's OPT record says (RFC 6891).
#[derive(Debug, Clone, Copy)]
pub struct Edns<'a> {
    pub version: u8,
    /// As written: not clamped.
    pub udp_bytes: u16,
    pub dnssec_ok: bool,
    /// Code, length, value; one after the other, lengths checked.
    pub options: &'a [u8],
}

/// Bytes that are no question to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Too short for a header, or a reply: whoever answers replies may do so for ever.
    Ignore,
    Refuse(Code),
}

impl<'a> Query<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&message.len()) || message[2] & 0x80 != 0 {
            return Err(Malformed::Ignore);
        }
        match message[2] >> 3 & 0x0f {
            0 => {}
            NOTIFY | UPDATE => return Err(Malformed::Refuse(Code::Refused)),
            _ => return Err(Malformed::Refuse(Code::NotImp)),
        }
        let counts = [4, 6, 8, 10].map(|at| u16_at(message, at));
        let [1, 0, authorities, additionals] = counts else { return Err(FORM) };
        let question_end = question_end(message).ok_or(FORM)?;
        let mut query = Self {
            message,
            question_end,
            kind: u16_at(message, question_end - 4),
            class: u16_at(message, question_end - 2),
            edns: None,
            signed: false,
        };
        // A transfer that asks for what has changed since brings a record with it.
        if authorities > u16::from(query.kind == kind::IXFR) || additionals > RECORDS_MAX {
            return Err(FORM);
        }
        let mut at = question_end;
        for number in 0..authorities + additionals {
            at = query.take_record(at, number < authorities).ok_or(FORM)?;
        }
        if at != message.len() {
            return Err(FORM);
        }
        match query.edns {
            Some(edns) if edns.version != 0 => Err(Malformed::Refuse(Code::BadVers)),
            _ => Ok(query),
        }
    }

    /// Reads the record at this place; answers where the next one begins.
    fn take_record(&mut self, at: usize, authority: bool) -> Option<usize> {
        let message = self.message;
        let (fixed, is_root) = skip_name(message, at)?;
        let data = fixed + RECORD_BYTES;
        let end = data + usize::from(u16_at(message.get(..data)?, data - 2));
        let options = message.get(data..end)?;
        if u16_at(message, fixed) != kind::OPT {
            self.signed |= !authority;
            return Some(end);
        }
        if authority || !is_root || self.edns.is_some() || !are_options(options) {
            return None;
        }
        self.edns = Some(Edns {
            udp_bytes: u16_at(message, fixed + 2),
            version: message[fixed + 5],
            dnssec_ok: message[fixed + 6] & 0x80 != 0,
            options,
        });
        Some(end)
    }

    pub fn id(&self) -> u16 {
        u16_at(self.message, 0)
    }

    pub fn recursion_desired(&self) -> bool {
        self.message[2] & 0x01 != 0
    }

    /// The client checks signatures itself.
    pub fn checking_disabled(&self) -> bool {
        self.message[3] & 0x10 != 0
    }

    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// On the wire, in the client's case, with the root.
    pub fn name(&self) -> &'a [u8] {
        &self.message[HEADER_BYTES..self.question_end - 4]
    }

    /// Name, type and class, as they came.
    pub fn question(&self) -> &'a [u8] {
        &self.message[HEADER_BYTES..self.question_end]
    }

    /// Of a reply.
    pub fn reply_bytes_max(&self, via: Transport) -> usize {
        match (via, self.edns) {
            (Transport::Tcp, _) => MESSAGE_BYTES_MAX,
            (Transport::Udp, None) => usize::from(*UDP_BYTES.start()),
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.udp_bytes.clamp(*UDP_BYTES.start(), *UDP_BYTES.end()))
            }
        }
    }

    /// What questions with the same answer have in common.
    pub fn key(&self) -> Key {
        let name = self.name();
        let mut key = Key { bytes: [0; KEY_BYTES_MAX], len: name.len() + KEY_EXTRA_BYTES };
        let (lower, rest) = key.bytes.split_at_mut(name.len());
        lower.copy_from_slice(name);
        // Lengths are at most 63 and capitals begin at 65, so lengths stay what they are.
        lower.make_ascii_lowercase();
        rest[..2].copy_from_slice(&self.kind.to_be_bytes());
        rest[2..4].copy_from_slice(&self.class.to_be_bytes());
        rest[4] = u8::from(self.dnssec_ok()) | u8::from(self.checking_disabled()) << 1;
        key
    }
}

impl<'a> Edns<'a> {
    /// Code and value of each option.
    pub fn each_option(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.options;
        std::iter::from_fn(move || {
            let (head, more) = rest.split_at_checked(4)?;
            let (value, more) = more.split_at_checked(usize::from(u16_at(head, 2)))?;
            rest = more;
            Some((u16_at(head, 0), value))
        })
    }
}

const FORM: Malformed = Malformed::Refuse(Code::FormErr);
/// Behind the name: type, class, and the flags that change an answer.
const KEY_EXTRA_BYTES: usize = 5;
const KEY_BYTES_MAX: usize = NAME_BYTES_MAX + KEY_EXTRA_BYTES;

/// A question without its id and its spelling: name in lower case, type, class, DO and CD.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Key {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// On the wire, in lower case.
    pub fn name(&self) -> &[u8] {
        &self.bytes[..self.len - KEY_EXTRA_BYTES]
    }
}

/// Behind the question, if it can be read.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        // Nothing stands before the first name that it could point to.
        if length > LABEL_BYTES_MAX || at - HEADER_BYTES > NAME_BYTES_MAX {
            return None;
        }
        if length == 0 {
            let end = at + 4;
            return (end <= message.len()).then_some(end);
        }
    }
}

/// Behind the name at this place, and whether it is the root.
fn skip_name(message: &[u8], from: usize) -> Option<(usize, bool)> {
    let mut at = from;
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((at + 1, at == from)),
            0xc0.. => return Some((at + 2, false)),
            _ if length > LABEL_BYTES_MAX => return None,
            _ => at += 1 + length,
        }
        if at - from > NAME_BYTES_MAX {
            return None;
        }
    }
}

fn are_options(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match bytes.get(4 + usize::from(u16_at(bytes, 2))..) {
            Some(rest) if bytes.len() >= 4 => bytes = rest,
            _ => return false,
        }
    }
    true
}
