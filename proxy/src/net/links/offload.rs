//! Whether a link's checksums are left to hardware, by the kernel's generic netlink family `ethtool`.
//!
//! The crates speak rtnetlink; this needs two messages of another family, so they are written here.

use std::io;
use std::time::Duration;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// What ethtool calls the feature; a VXLAN device has it, whatever is below.
const FEATURE: &str = "tx-checksum-ip-generic";
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 4;
const ANSWER_BYTES: usize = 32 * 1024;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
/// The family that knows the others, its question and the attributes of both.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// ethtool's.
const GET_FEATURES: u8 = 11;
const SET_FEATURES: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_LINK_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// A socket, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Offload {
    socket: Socket,
    family: u16,
}

impl Offload {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(ANSWER_WITHIN))?;
        let mut offload = Self { socket, family: CONTROL };
        let answer = offload.ask(GET_FAMILY, &attribute(FAMILY_NAME, b"ethtool\0"))?;
        let family = find(&answer, FAMILY_ID).and_then(|id| id.get(..2)).map(|id| [id[0], id[1]]);
        offload.family = u16::from_ne_bytes(family.ok_or_else(nonsense)?);
        Ok(offload)
    }

    pub fn is_on(&self, link: &str) -> io::Result<bool> {
        let answer = self.ask(GET_FEATURES, &of_link(link))?;
        let active = find(&answer, FEATURES_ACTIVE).ok_or_else(nonsense)?;
        let bits = find(active, BITSET_BITS).unwrap_or_default();
        let name = |bit: &[u8]| find(bit, BIT_NAME).map(<[u8]>::to_vec);
        Ok(each(bits).any(|(_, bit)| name(bit) == Some([FEATURE.as_bytes(), &[0]].concat())))
    }

    pub fn set(&self, link: &str, on: bool) -> io::Result<()> {
        let name = attribute(BIT_NAME, &[FEATURE.as_bytes(), &[0]].concat());
        let value = if on { attribute(BIT_VALUE, &[]) } else { Vec::new() };
        let bit = attribute(BIT | NESTED, &[name, value].concat());
        let wanted = attribute(FEATURES_WANTED | NESTED, &attribute(BITSET_BITS | NESTED, &bit));
        self.ask(SET_FEATURES, &[of_link(link), wanted].concat()).map(drop)
    }

    /// The attributes of the answer.
    fn ask(&self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let length = HEADER_BYTES + GENERIC_BYTES + attributes.len();
        let mut request = (length as u32).to_ne_bytes().to_vec();
        request.extend_from_slice(&self.family.to_ne_bytes());
        request.extend_from_slice(&(REQUEST | ACK).to_ne_bytes());
        request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        request.extend_from_slice(&[command, 1, 0, 0]);
        request.extend_from_slice(attributes);
        self.socket.send(&request, 0)?;
        let mut answer = Vec::new();
        loop {
            let mut bytes = Vec::with_capacity(ANSWER_BYTES);
            self.socket.recv(&mut bytes, 0)?;
            let mut rest = bytes.as_slice();
            while rest.len() >= HEADER_BYTES {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let body = rest.get(HEADER_BYTES..length).ok_or_else(nonsense)?;
                if kind == ERROR {
                    let code = body.get(..4).ok_or_else(nonsense)?;
                    return match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
                        0 => Ok(answer),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                if kind == self.family {
                    answer = body.get(GENERIC_BYTES..).unwrap_or_default().to_vec();
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn of_link(name: &str) -> Vec<u8> {
    let name = attribute(HEADER_LINK_NAME, &[name.as_bytes(), &[0]].concat());
    attribute(FEATURES_HEADER | NESTED, &name)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Kinds and values.
fn each(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = attributes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let value = attributes.get(4..length)?;
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel's about a link's features")
}
