//! Notifications of rtnetlink, read as far as it takes to tell whether they may be about something of ours.
//!
//! On a busy host most are not: other links come and go, neighbours are learned and forgotten. Pure.

use std::collections::BTreeSet;
use std::io;

use crate::net::firewall::transparent::ROUTES;

/// rtnetlink's numbers: links, neighbours, addresses, routes and rules of both families, settings of both.
pub const GROUPS: [u32; 10] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25];

/// The group that tells of links.
pub const LINKS: u32 = 1;

const HEADER_BYTES: usize = 16;
const RESULT: u16 = 2;
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETED_NEIGHBOUR: u16 = 29;
const DELETED_RULE: u16 = 33;
const NEW_SETTING: u16 = 80;
/// Bytes before the attributes.
const LINK_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const SETTING_BYTES: usize = 4;
/// Attributes.
const LINK_NAME: u16 = 3;
const ROUTE_LINK: u16 = 4;
const SETTING_LINK: u16 = 1;
const RULE_TABLE: u16 = 15;

/// What in a namespace concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    pub links: BTreeSet<String>,
    /// The kernel's numbers of those that are there.
    pub indexes: BTreeSet<u32>,
    /// We have made neighbours: on links of ours they are looked at.
    pub neighbours: bool,
}

/// Whether one of the messages may be about something of ours.
pub fn concerns(bytes: &[u8], interest: &Interest) -> bool {
    messages(bytes).any(|(kind, body)| concerns_one(kind, body, interest))
}

/// What the messages say of a request to remove the link with this number: that the link is gone, or that it stays.
pub fn end_of(bytes: &[u8], index: u32) -> Option<io::Result<()>> {
    messages(bytes).find_map(|(kind, body)| match kind {
        // Bridges tell in the name of their own family which links have left them.
        DELETED_LINK if body.first() == Some(&0) && word(body, 4) == Some(index) => Some(Ok(())),
        RESULT => match word(body, 0)?.cast_signed() {
            0 => Some(Ok(())),
            error => Some(Err(io::Error::from_raw_os_error(-error))),
        },
        _ => None,
    })
}

/// Kinds and bodies of what one read has given.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let body = bytes.get(HEADER_BYTES..length.min(bytes.len())).unwrap_or_default();
        let kind = bytes.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
        bytes = bytes.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn concerns_one(kind: u16, body: &[u8], interest: &Interest) -> bool {
    let is_ours = |index: Option<u32>| index.is_some_and(|index| interest.indexes.contains(&index));
    match kind {
        NEW_LINK | DELETED_LINK => {
            let name = attribute(body.get(LINK_BYTES..), LINK_NAME).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            is_ours(word(body, 4)) || interest.links.iter().any(|link| link.as_bytes() == name)
        }
        NEW_ADDRESS | DELETED_ADDRESS => is_ours(word(body, 4)),
        NEW_ROUTE | DELETED_ROUTE => {
            let link = attribute(body.get(ROUTE_BYTES..), ROUTE_LINK).and_then(|link| word(link, 0));
            // A default route that comes or goes changes what is below.
            body.get(1) == Some(&0) || is_ours(link)
        }
        DELETED_RULE => {
            let table = attribute(body.get(ROUTE_BYTES..), RULE_TABLE).and_then(|table| word(table, 0));
            table == Some(ROUTES)
        }
        NEW_NEIGHBOUR | DELETED_NEIGHBOUR => interest.neighbours && is_ours(word(body, 4)),
        NEW_SETTING => {
            let link = attribute(body.get(SETTING_BYTES..), SETTING_LINK).and_then(|link| word(link, 0));
            // Negative: all links, or those to come.
            link.is_some_and(|link| link.cast_signed() < 0) || is_ours(link)
        }
        _ => false,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
}

/// The value of the first attribute of this kind.
fn attribute(attributes: Option<&[u8]>, kind: u16) -> Option<&[u8]> {
    let mut rest = attributes?;
    loop {
        let header = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = body.to_vec();
        for (kind, value) in attributes {
            bytes.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let mut whole = (bytes.len() as u32 + 16).to_ne_bytes().to_vec();
        whole.extend_from_slice(&kind.to_ne_bytes());
        whole.extend_from_slice(&[0; 10]);
        whole.extend_from_slice(&bytes);
        whole
    }

    fn on(index: u8, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        body[4] = index;
        body
    }

    #[test]
    fn only_what_may_be_ours_is_let_through() {
        let interest = Interest { links: ["or-web".into()].into(), indexes: [7].into(), neighbours: false };
        let heard = |kind: u16, body: &[u8], attributes: &[(u16, &[u8])]| {
            let stranger = message(NEW_LINK, &on(9, 16), &[(LINK_NAME, b"veth1\0")]);
            concerns(&[stranger, message(kind, body, attributes)].concat(), &interest)
        };
        assert!(heard(DELETED_LINK, &on(7, 16), &[]));
        assert!(heard(NEW_LINK, &on(8, 16), &[(1, &[1; 6]), (LINK_NAME, b"or-web\0")]));
        assert!(!heard(NEW_LINK, &on(8, 16), &[(LINK_NAME, b"or-web2\0")]));
        assert!(heard(DELETED_ADDRESS, &on(7, 8), &[]) && !heard(DELETED_ADDRESS, &on(8, 8), &[]));
        let subnet = [2, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(heard(DELETED_ROUTE, &subnet, &[(ROUTE_LINK, &[7, 0, 0, 0])]));
        assert!(!heard(DELETED_ROUTE, &subnet, &[(ROUTE_LINK, &[8, 0, 0, 0])]));
        assert!(heard(NEW_ROUTE, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), "a default route");
        let table = ROUTES.to_ne_bytes();
        assert!(
            heard(DELETED_RULE, &[0; 12], &[(RULE_TABLE, &table)]) && !heard(DELETED_RULE, &[0; 12], &[])
        );
        assert!(!heard(NEW_NEIGHBOUR, &on(7, 12), &[]));
        let all = (-1_i32).to_ne_bytes();
        assert!(heard(NEW_SETTING, &[2, 0, 0, 0], &[(SETTING_LINK, &all)]));
        assert!(!heard(99, &on(7, 16), &[]));
        for cut in [&[][..], &[1], &[16, 0, 0, 0, 24, 0], &[0; 20]] {
            assert!(!concerns(cut, &interest));
        }
    }

    #[test]
    fn the_end_of_a_link_is_told_from_its_leaving_a_bridge() {
        let mut of_the_bridge = on(7, 16);
        of_the_bridge[0] = 7;
        let left = message(DELETED_LINK, &of_the_bridge, &[]);
        let others = message(DELETED_LINK, &on(8, 16), &[]);
        let gone = message(DELETED_LINK, &on(7, 16), &[]);
        assert!(end_of(&[left.clone(), others.clone()].concat(), 7).is_none());
        assert!(end_of(&[left, others, gone].concat(), 7).unwrap().is_ok());
        let refused = message(RESULT, &(-1_i32).to_ne_bytes(), &[]);
        assert_eq!(end_of(&refused, 7).unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(end_of(&message(RESULT, &[0; 4], &[]), 7).unwrap().is_ok());
        assert!(end_of(&[], 7).is_none());
    }
}
