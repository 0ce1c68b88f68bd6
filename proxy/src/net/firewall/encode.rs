//! A table as one batch of messages, which the kernel takes whole or not at all.

use std::collections::BTreeSet;

use super::expression::{Expressions, LINK_NAME_BYTES, link_name, octets};
use super::message::{ACK, APPEND, CREATE, Messages, REQUEST};
use super::{Chain, ChainKind, Family, Publication, Rule, Set, Table};

pub(super) const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const NEW_ELEMENTS: u16 = 12;
pub(super) const GET_ELEMENTS: u16 = 13;
const DELETE_ELEMENTS: u16 = 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const INET: u8 = 1;

const MAP: u32 = 8;
/// A flag of a table.
const OWNER: u32 = 2;
/// What nftables calls its types, for those who list the table.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_LINK: u32 = 41;

/// Tells those who list a set that names are not to be turned round as numbers of the network are.
const NAMES_AS_THEY_ARE: [u8; 6] = [0, 4, 1, 0, 0, 0];
/// An attribute's length has 16 bits; an element has less than 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;
/// In a rule's user data: nftables shows the first, the second is ours.
const COMMENT: u8 = 0;
pub(super) const DIGEST: u8 = 0x4f;
const COMMENT_BYTES_MAX: usize = 128;

/// Puts `table` in the place of whatever has its name, or nothing at all.
pub(super) fn replace(name: &str, table: Option<&Table>) -> Messages {
    let mut batch = Messages::default();
    let table_name = |batch: &mut Messages, kind: u16, flags: u16| {
        batch.add(SUBSYSTEM | kind, REQUEST | flags, (INET, 0), |table| table.text(1, name));
    };
    batch.add(BATCH_BEGIN, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    // Adding without `EXCL` is no error where it is there, so that deleting is none, either.
    table_name(&mut batch, NEW_TABLE, CREATE);
    let last = if table.is_none() { ACK } else { 0 };
    table_name(&mut batch, DELETE_TABLE, last);
    if let Some(table) = table {
        table_name(&mut batch, NEW_TABLE, CREATE);
        content(&mut batch, name, table);
        // Answered only after all before it.
        table_name(&mut batch, NEW_TABLE, ACK);
    }
    batch.add(BATCH_END, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    batch
}

/// Puts `to` in the place of `from` by the elements that differ; `None` if more than elements does. Rules and
/// chains stay.
pub(super) fn amend(name: &str, from: &Table, to: &Table) -> Option<Messages> {
    let form = |table: &Table| table.sets.iter().map(|set| (set.name().to_owned(), Form::of(set))).collect();
    let (old, new): (Vec<_>, Vec<_>) = (form(from), form(to));
    if from.chains != to.chains || old != new {
        return None;
    }
    let mut batch = Messages::default();
    batch.add(BATCH_BEGIN, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    for (from, to) in from.sets.iter().zip(&to.sets) {
        let [old, new] = [from, to].map(|set| BTreeSet::from_iter(elements(set)));
        let [gone, added] = [old.difference(&new), new.difference(&old)].map(|some| some.cloned().collect());
        // First, as a key that leads elsewhere is in both.
        put_elements(&mut batch, (DELETE_ELEMENTS, 0), (name, to.name(), None), gone);
        put_elements(&mut batch, (NEW_ELEMENTS, CREATE), (name, to.name(), None), added);
    }
    batch.add(SUBSYSTEM | NEW_TABLE, REQUEST | CREATE | ACK, (INET, 0), |table| table.text(1, name));
    batch.add(BATCH_END, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    Some(batch)
}

/// A table that goes with the socket, and that nobody else can change or flush.
pub(super) fn owned(name: &str, table: &Table) -> Messages {
    let mut batch = Messages::default();
    let table_name = |batch: &mut Messages, flags: u16| {
        batch.add(SUBSYSTEM | NEW_TABLE, REQUEST | flags, (INET, 0), |table| {
            table.text(1, name);
            table.number(2, OWNER);
        });
    };
    batch.add(BATCH_BEGIN, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    table_name(&mut batch, CREATE);
    content(&mut batch, name, table);
    table_name(&mut batch, ACK);
    batch.add(BATCH_END, REQUEST, (0, SUBSYSTEM >> 8), |_| ());
    batch
}

fn content(batch: &mut Messages, name: &str, table: &Table) {
    for (index, set) in table.sets.iter().enumerate() {
        new_set(batch, name, set, index as u32 + 1);
    }
    for chain in &table.chains {
        new_chain(batch, name, chain);
    }
    for chain in &table.chains {
        chain.rules.iter().for_each(|rule| new_rule(batch, name, chain, rule));
    }
}

fn new_chain(batch: &mut Messages, table: &str, chain: &Chain) {
    batch.add(SUBSYSTEM | NEW_CHAIN, REQUEST | CREATE, (INET, 0), |attributes| {
        attributes.text(1, table);
        attributes.text(3, &chain.name);
        attributes.nested(4, |hook| {
            hook.number(1, chain.hook as u32);
            hook.bytes(2, &chain.priority.to_be_bytes());
        });
        attributes.text(7, chain_kind(chain.kind));
    });
}

pub(super) fn chain_kind(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}

fn new_rule(batch: &mut Messages, table: &str, chain: &Chain, rule: &Rule) {
    batch.add(SUBSYSTEM | NEW_RULE, REQUEST | CREATE | APPEND, (INET, 0), |attributes| {
        attributes.text(1, table);
        attributes.text(2, &chain.name);
        attributes.nested(4, |list| Expressions(list).rule(rule));
        attributes.bytes(7, &user_data(rule));
    });
}

fn user_data(rule: &Rule) -> Vec<u8> {
    let comment = &rule.comment.as_bytes()[..rule.comment.len().min(COMMENT_BYTES_MAX - 1)];
    let digest = rule.digest();
    let mut data = vec![COMMENT, comment.len() as u8 + 1];
    data.extend_from_slice(comment);
    data.extend_from_slice(&[0, DIGEST, digest.len() as u8]);
    data.extend_from_slice(&digest);
    data
}

fn new_set(batch: &mut Messages, table: &str, set: &Set, id: u32) {
    let form = Form::of(set);
    batch.add(SUBSYSTEM | NEW_SET, REQUEST | CREATE, (INET, 0), |attributes| {
        attributes.text(1, table);
        attributes.text(2, set.name());
        attributes.number(3, form.flags);
        attributes.number(4, form.key_type);
        attributes.number(5, form.key_bytes);
        if let Some((kind, bytes)) = form.data {
            attributes.number(6, kind);
            attributes.number(7, bytes);
        }
        attributes.number(10, id);
        if let Set::Links { .. } = set {
            attributes.bytes(13, &NAMES_AS_THEY_ARE);
        }
    });
    put_elements(batch, (NEW_ELEMENTS, CREATE), (table, set.name(), Some(id)), elements(set));
}

/// Key, and data where there is some.
pub(super) type Element = (Vec<u8>, Option<Vec<u8>>);

/// `id` is that of a set of the same batch.
fn put_elements(
    batch: &mut Messages,
    (kind, flags): (u16, u16),
    (table, set, id): (&str, &str, Option<u32>),
    elements: Vec<Element>,
) {
    for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
        batch.add(SUBSYSTEM | kind, REQUEST | flags, (INET, 0), |attributes| {
            attributes.text(1, table);
            attributes.text(2, set);
            if let Some(id) = id {
                attributes.number(4, id);
            }
            attributes.nested(3, |list| {
                for (key, data) in some {
                    list.nested(1, |element| {
                        element.nested(1, |value| value.bytes(1, key));
                        if let Some(data) = data {
                            element.nested(2, |value| value.bytes(1, data));
                        }
                    });
                }
            });
        });
    }
}

/// Types and sizes of a set.
#[derive(PartialEq, Eq)]
struct Form {
    flags: u32,
    key_type: u32,
    key_bytes: u32,
    data: Option<(u32, u32)>,
}

impl Form {
    fn of(set: &Set) -> Self {
        match set {
            Set::Links { .. } => {
                Self { flags: 0, key_type: TYPE_LINK, key_bytes: LINK_NAME_BYTES as u32, data: None }
            }
            Set::Published { family, by_address, .. } => {
                let address = match family {
                    Family::Ipv4 => TYPE_IPV4,
                    Family::Ipv6 => TYPE_IPV6,
                };
                let bytes = family.address_bytes();
                let port = joined(TYPE_PROTOCOL, TYPE_SERVICE);
                let (key_type, key_bytes) = if *by_address {
                    (joined(joined(address, TYPE_PROTOCOL), TYPE_SERVICE), bytes + 8)
                } else {
                    (port, 8)
                };
                let data = Some((joined(address, TYPE_SERVICE), bytes + 4));
                Self { flags: MAP, key_type, key_bytes, data }
            }
        }
    }
}

/// nftables' number for two types in a row.
fn joined(first: u32, second: u32) -> u32 {
    first << 6 | second
}

/// Each field filled up to words.
pub(super) fn elements(set: &Set) -> Vec<Element> {
    match set {
        Set::Links { links, .. } => links.iter().map(|link| (link_name(link), None)).collect(),
        Set::Published { entries, .. } => entries.iter().map(published).collect(),
    }
}

fn published(entry: &Publication) -> Element {
    let port = |port: u16| [port.to_be_bytes(), [0, 0]].concat();
    let mut key = entry.address.map(octets).unwrap_or_default();
    key.extend_from_slice(&[entry.protocol.number(), 0, 0, 0]);
    key.extend_from_slice(&port(entry.port));
    (key, Some([octets(entry.to.ip()), port(entry.to.port())].concat()))
}

#[cfg(test)]
mod tests {
    use super::super::{Act, Hook, Protocol};
    use super::*;

    fn entry(port: u16, to: u16) -> Publication {
        let to = (std::net::Ipv4Addr::new(10, 88, 0, 2), to).into();
        Publication { address: None, protocol: Protocol::Tcp, port, to }
    }

    fn table(entries: &[Publication], act: Act) -> Table {
        let (name, entries) = ("published4".to_owned(), entries.to_vec());
        let sets = vec![Set::Published { name, family: Family::Ipv4, by_address: false, entries }];
        let rules = vec![Rule { comment: "all".into(), matches: Vec::new(), act }];
        let (kind, hook) = (ChainKind::Filter, Hook::Forward);
        let chains = vec![Chain { name: "walls".into(), kind, hook, priority: 0, rules }];
        Table { name: "t".into(), sets, chains, forget: Vec::new() }
    }

    #[test]
    fn an_amendment_tells_only_elements_that_differ() {
        let before = table(&[entry(80, 8080), entry(81, 8081)], Act::Accept);
        let count = |to: &Table| amend("t", &before, to).map(|batch| batch.last());
        let frame = 3;
        assert_eq!(count(&before), Some(frame));
        let more = table(&[entry(80, 8080), entry(81, 8081), entry(82, 8082)], Act::Accept);
        assert_eq!(count(&more), Some(frame + 1));
        let elsewhere = table(&[entry(80, 8080), entry(81, 9091)], Act::Accept);
        assert_eq!(count(&elsewhere), Some(frame + 2), "one goes and one comes");
        assert_eq!(count(&table(&[entry(80, 8080)], Act::Drop)), None, "another rule");
        let other = Table { sets: Vec::new(), ..before.clone() };
        assert_eq!(count(&other), None, "another set");
    }
}
