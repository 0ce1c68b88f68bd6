//! A rule as the kernel's little machine runs it: load into a register, compare, act.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`. Every match ends the rule if it does not hold, so the order of
//! the expressions is the order of the rule's text.

use std::net::IpAddr;

use super::message::Attributes;
use super::{Act, Family, Match, Protocol, Rule};
use crate::net::prefix::Prefix;

const LIST_ELEMENT: u16 = 1;
const VERDICT_REGISTER: u32 = 0;
/// The first of 16 bytes, and as the first of four words of 4 bytes each.
const REGISTER: u32 = 1;
const WORD: u32 = 8;

const META_MARK: u32 = 3;
const META_IN_LINK: u32 = 6;
const META_OUT_LINK: u32 = 7;
const META_USER: u32 = 10;
const META_GROUP: u32 = 11;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const PORT_OFFSET: u32 = 2;

const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
/// Of a TCP header: the byte of its flags, and those that tell what opens a connection.
const FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const TCP_RESET: u32 = 1;
const TRANSLATED: u32 = 1 << 5;
const LOCAL: u32 = 2;
/// Bytes of a link's name with its zeros.
pub(super) const LINK_NAME_BYTES: usize = 16;

/// Writes a rule's expressions as elements of the list.
pub(super) struct Expressions<'a, 'b>(pub(super) &'a mut Attributes<'b>);

impl Expressions<'_, '_> {
    pub(super) fn rule(&mut self, rule: &Rule) {
        for part in &rule.matches {
            self.match_one(part);
        }
        self.act(&rule.act);
    }

    fn match_one(&mut self, part: &Match) {
        match part {
            Match::Protocol(protocol) => {
                self.meta(META_PROTOCOL, REGISTER);
                self.compare(EQUAL, &[protocol.number()]);
            }
            Match::Source(prefix) => self.address(*prefix, Side::Source),
            Match::Destination(prefix) => self.address(*prefix, Side::Destination),
            Match::DestinationPort(first, last) => self.port(*first, *last),
            Match::InLink(link) => self.link(META_IN_LINK, EQUAL, link),
            Match::OutLink(link) => self.link(META_OUT_LINK, EQUAL, link),
            Match::NotOutLink(link) => self.link(META_OUT_LINK, NOT_EQUAL, link),
            Match::InLinks(set) => self.links(META_IN_LINK, set, false),
            Match::OutLinks(set) => self.links(META_OUT_LINK, set, false),
            Match::NotOutLinks(set) => self.links(META_OUT_LINK, set, true),
            Match::User(user) => self.host_number(META_USER, *user),
            Match::Group(group) => self.host_number(META_GROUP, *group),
            Match::Mark(mark) => self.host_number(META_MARK, *mark),
            Match::Translated => self.translated(),
            Match::Opening => self.opening(),
            Match::ToThisHost => self.destination_is_here(),
            Match::ForthOfFlow(mark) => self.forth_of_flow(*mark),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Accept => self.verdict(1),
            Act::Drop => self.verdict(0),
            Act::Return => self.verdict(-5),
            Act::CountAndReturn => {
                self.expression("counter", |_| ());
                self.verdict(-5);
            }
            Act::Redirect(port) => {
                self.expression("immediate", |data| {
                    data.number(1, REGISTER);
                    data.nested(2, |value| value.bytes(1, &port.to_be_bytes()));
                });
                // The same register twice: from this port to this port.
                self.expression("redir", |data| {
                    data.number(1, REGISTER);
                    data.number(2, REGISTER);
                });
            }
            Act::Take(port) => self.take(*port),
            Act::Reset => self.expression("reject", |data| data.number(1, TCP_RESET)),
            Act::MarkFlow(mark) => self.set("ct", (CT_MARK, 4), *mark),
            Act::MarkPacket(mark) => self.set("meta", (META_MARK, 3), *mark),
            Act::Masquerade => self.expression("masq", |_| ()),
            Act::Publish { family, by_address, set } => self.publish(*family, *by_address, set),
        }
    }

    /// The key is put together word by word; the set answers address and port in the same registers.
    fn publish(&mut self, family: Family, by_address: bool, set: &str) {
        self.family(family);
        let mut word = WORD;
        if by_address {
            self.load(NETWORK_HEADER, Side::Destination.offset(family), family.address_bytes(), word);
            word += family.address_bytes() / 4;
        } else {
            self.destination_is_here();
        }
        self.meta(META_PROTOCOL, word);
        self.load(TRANSPORT_HEADER, PORT_OFFSET, 2, word + 1);
        self.expression("lookup", |data| {
            data.text(1, set);
            data.number(2, REGISTER);
            data.number(3, REGISTER);
        });
        self.expression("nat", |data| {
            // The destination.
            data.number(1, 1);
            data.number(2, family.number().into());
            data.number(3, REGISTER);
            data.number(5, WORD + family.address_bytes() / 4);
        });
    }

    fn address(&mut self, prefix: Prefix, side: Side) {
        let family = if prefix.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        self.family(family);
        let bytes = family.address_bytes();
        self.load(NETWORK_HEADER, side.offset(family), bytes, REGISTER);
        if u32::from(prefix.length()) < bytes * 8 {
            let mask: Vec<u8> = (0..bytes).map(|byte| mask_byte(prefix.length(), byte)).collect();
            self.bitwise(&mask);
        }
        self.compare(EQUAL, &octets(prefix.first()));
    }

    fn port(&mut self, first: u16, last: u16) {
        self.load(TRANSPORT_HEADER, PORT_OFFSET, 2, REGISTER);
        if first == last {
            return self.compare(EQUAL, &first.to_be_bytes());
        }
        self.expression("range", |data| {
            data.number(1, REGISTER);
            data.number(2, EQUAL);
            data.nested(3, |value| value.bytes(1, &first.to_be_bytes()));
            data.nested(4, |value| value.bytes(1, &last.to_be_bytes()));
        });
    }

    fn link(&mut self, meta: u32, operator: u32, link: &str) {
        self.meta(meta, REGISTER);
        self.compare(operator, &link_name(link));
    }

    fn links(&mut self, meta: u32, set: &str, inverse: bool) {
        self.meta(meta, REGISTER);
        self.expression("lookup", |data| {
            data.text(1, set);
            data.number(2, REGISTER);
            if inverse {
                data.number(5, 1);
            }
        });
    }

    fn host_number(&mut self, meta: u32, value: u32) {
        self.meta(meta, REGISTER);
        self.compare(EQUAL, &value.to_ne_bytes());
    }

    fn translated(&mut self) {
        self.expression("ct", |data| {
            data.number(1, REGISTER);
            data.number(2, CT_STATUS);
        });
        self.bitwise(&TRANSLATED.to_ne_bytes());
        self.compare(NOT_EQUAL, &[0; 4]);
    }

    fn opening(&mut self) {
        self.load(TRANSPORT_HEADER, FLAGS_OFFSET, 1, REGISTER);
        self.bitwise(&[FIN_SYN_RST_ACK]);
        self.compare(EQUAL, &[SYN]);
    }

    fn destination_is_here(&mut self) {
        self.expression("fib", |data| {
            data.number(1, REGISTER);
            // The kind of address that the destination is.
            data.number(2, 3);
            data.number(3, 1 << 1);
        });
        self.compare(EQUAL, &LOCAL.to_ne_bytes());
    }

    fn forth_of_flow(&mut self, mark: u32) {
        let key = |key: u32| {
            move |data: &mut Attributes<'_>| {
                data.number(1, REGISTER);
                data.number(2, key);
            }
        };
        self.expression("ct", key(CT_DIRECTION));
        // Of the first packet.
        self.compare(EQUAL, &[0]);
        self.expression("ct", key(CT_MARK));
        self.compare(EQUAL, &mark.to_ne_bytes());
    }

    /// The register is read by another attribute in each kind of expression.
    fn set(&mut self, name: &str, (key, source): (u32, u16), value: u32) {
        self.expression("immediate", |data| {
            data.number(1, REGISTER);
            data.nested(2, |data| data.bytes(1, &value.to_ne_bytes()));
        });
        self.expression(name, |data| {
            data.number(2, key);
            data.number(source, REGISTER);
        });
    }

    fn take(&mut self, port: u16) {
        self.expression("immediate", |data| {
            data.number(1, REGISTER);
            data.nested(2, |value| value.bytes(1, &port.to_be_bytes()));
        });
        self.expression("tproxy", |data| {
            // Of whichever family the packet is.
            data.number(1, 0);
            data.number(3, REGISTER);
        });
        self.verdict(1);
    }

    /// Addresses have a meaning in their own family only.
    fn family(&mut self, family: Family) {
        self.meta(META_FAMILY, REGISTER);
        self.compare(EQUAL, &[family.number()]);
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |data| {
            data.number(1, register);
            data.number(2, key);
        });
    }

    fn load(&mut self, base: u32, offset: u32, bytes: u32, register: u32) {
        self.expression("payload", |data| {
            data.number(1, register);
            data.number(2, base);
            data.number(3, offset);
            data.number(4, bytes);
        });
    }

    fn bitwise(&mut self, mask: &[u8]) {
        self.expression("bitwise", |data| {
            data.number(1, REGISTER);
            data.number(2, REGISTER);
            data.number(3, mask.len() as u32);
            data.nested(4, |value| value.bytes(1, mask));
            data.nested(5, |value| value.bytes(1, &vec![0; mask.len()]));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |data| {
            data.number(1, REGISTER);
            data.number(2, operator);
            data.nested(3, |data| data.bytes(1, value));
        });
    }

    fn verdict(&mut self, code: i32) {
        self.expression("immediate", |data| {
            data.number(1, VERDICT_REGISTER);
            data.nested(2, |value| value.nested(2, |verdict| verdict.bytes(1, &code.to_be_bytes())));
        });
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.0.nested(LIST_ELEMENT, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Side {
    /// Of the address within its header.
    fn offset(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Source, Family::Ipv4) => 12,
            (Self::Destination, Family::Ipv4) => 16,
            (Self::Source, Family::Ipv6) => 8,
            (Self::Destination, Family::Ipv6) => 24,
        }
    }
}

impl Family {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    pub(super) fn address_bytes(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }
}

impl Protocol {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn link_name(link: &str) -> Vec<u8> {
    let mut name = link.as_bytes().to_vec();
    name.resize(LINK_NAME_BYTES, 0);
    name
}

/// The byte of a network mask.
fn mask_byte(length: u8, byte: u32) -> u8 {
    let bits = u32::from(length).saturating_sub(byte * 8).min(8);
    (0xff00_u32 >> bits) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_made_bit_by_bit() {
        let mask = |length: u8| (0..4).map(|byte| mask_byte(length, byte)).collect::<Vec<_>>();
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(12), [255, 240, 0, 0]);
        assert_eq!(mask(25), [255, 255, 255, 128]);
        assert_eq!(mask(32), [255, 255, 255, 255]);
    }
}
