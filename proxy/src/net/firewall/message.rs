//! Netlink messages of the netfilter family: written into a buffer, and read back.
//!
//! Framing only; what the attributes mean is `expression`'s, `encode`'s and `flows`' business.

use std::io;

use rtnetlink::packet_core::{NlaBuffer, NlasIterator};

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const HEADER_BYTES: usize = 16;
/// Family, version and resource of nfnetlink, after the header.
const EXTRA_BYTES: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;

/// Messages to be sent at once, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

/// One message on its way into the buffer.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Messages {
    /// `family` and `resource` are nfnetlink's; `kind` is subsystem and message.
    pub(super) fn add(
        &mut self,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.count += 1;
        // The length comes when it is known.
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        // The kernel fills in our port.
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The number of the message added last.
    pub(super) fn last(&self) -> u32 {
        self.count
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.header(kind, value.len());
        self.0.extend_from_slice(value);
        self.pad();
    }

    /// Attributes as they came from the kernel.
    pub(super) fn raw(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
        self.pad();
    }

    /// Text with its zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// In network order, as netfilter has its numbers.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.header(kind | NESTED, 0);
        fill(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn header(&mut self, kind: u16, value_bytes: usize) {
        // Values are bounded: names, numbers, and lists that their writers cut into pieces.
        let length = (value_bytes + 4) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message as it came.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    Data {
        attributes: &'a [u8],
    },
    /// To message `to`: done, or an error of the kernel.
    Result {
        to: u32,
        error: Option<io::Error>,
    },
    /// The end of a dump.
    Done,
}

/// The messages in what one read has given.
pub(super) fn answers(mut bytes: &[u8]) -> io::Result<Vec<Answer<'_>>> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = word(0) as usize;
        let body = bytes.get(HEADER_BYTES..length).ok_or_else(cut_short)?;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        found.push(match kind {
            DONE => Answer::Done,
            ERROR => {
                let code = body.get(..4).ok_or_else(cut_short)?;
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                let error = (code != 0).then(|| io::Error::from_raw_os_error(-code));
                Answer::Result { to: word(8), error }
            }
            _ => Answer::Data { attributes: body.get(EXTRA_BYTES..).ok_or_else(cut_short)? },
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The value of the first attribute of this kind.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Kinds and values, without the flags of kinds.
pub(super) fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // What does not parse is an end: it is the kernel that writes here.
    let whole = NlasIterator::new(attributes).map_while(Result::ok);
    whole.map(|nla: NlaBuffer<&[u8]>| (nla.kind(), nla.into_inner())).map(|(kind, bytes)| {
        let length = u16::from_ne_bytes([bytes[0], bytes[1]]).into();
        (kind, bytes.get(4..length).unwrap_or_default())
    })
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of the kernel's is cut short")
}
