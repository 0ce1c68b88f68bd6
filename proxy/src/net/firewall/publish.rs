//! The host's table: published ports, masquerade and the walls between networks.
//!
//! A pure function of the networks and of what their workloads publish. A change is one transaction, which
//! established connections do not notice: another table in its place, or only other elements in its sets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::capture::rule;
use super::{Act, Chain, ChainKind, Family, Hook, Match, Protocol, Publication, Rule, Set, TABLE, Table};
use crate::net::prefix::Prefix;
use crate::net::settings::{Door, Network};

/// Where destinations and sources are usually translated, and where forwarding is usually decided.
const DESTINATION: i32 = -100;
const SOURCE: i32 = 100;
const FORWARD: i32 = 0;
/// Behind connection tracking, before any translation.
const BEFORE_DESTINATION: i32 = -150;
const BRIDGES: &str = "bridges";
/// Links of others' that lead to workloads whose ports we publish.
const DOORS: &str = "doors";
const LOOPBACK4: Prefix = Prefix::ipv4(Ipv4Addr::new(127, 0, 0, 0), 8);
/// What the kernel gives a loopback link that comes up.
pub const LOOPBACK_ADDRESS: Prefix = Prefix::ipv4(Ipv4Addr::LOCALHOST, 8);

/// `None` if there is nothing to do.
pub fn table(networks: &[&Network], doors: &[&Door], publications: &[Publication]) -> Option<Table> {
    let doors: Vec<&Door> = doors.iter().copied().filter(|door| !door.publish.is_empty()).collect();
    if networks.is_empty() && doors.is_empty() {
        return None;
    }
    let mut sets = Vec::new();
    let bridges = networks.iter().map(|network| network.bridge.clone()).collect();
    let doors_links: BTreeSet<String> = doors.iter().filter_map(|door| door.link.clone()).collect();
    for (name, links) in [(BRIDGES, bridges), (DOORS, Vec::from_iter(doors_links))] {
        if !links.is_empty() {
            sets.push(Set::Links { name: name.into(), links });
        }
    }
    let mut publishing = Vec::new();
    // The more exact key is looked up first.
    for by_address in [true, false] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let fits = |entry: &&Publication| {
                entry.to.is_ipv4() == (family == Family::Ipv4) && entry.address.is_some() == by_address
            };
            let entries: Vec<Publication> = publications.iter().filter(fits).cloned().collect();
            if entries.is_empty() {
                continue;
            }
            let name = set_name(family, by_address);
            let act = Act::Publish { family, by_address, set: name.clone() };
            publishing.push(rule("published ports", Vec::new(), act));
            sets.push(Set::Published { name, family, by_address, entries });
        }
    }
    let mut forget: Vec<u16> =
        publications.iter().filter(|entry| entry.protocol == Protocol::Udp).map(|entry| entry.port).collect();
    forget.sort_unstable();
    forget.dedup();
    let chains = chains((networks, &doors), publishing, publications);
    Some(Table { name: TABLE.into(), sets, chains, forget })
}

fn chains(
    (networks, doors): (&[&Network], &[&Door]),
    publishing: Vec<Rule>,
    publications: &[Publication],
) -> Vec<Chain> {
    let nat = ChainKind::Nat;
    let mut chains = Vec::new();
    let mut chain = |name: &str, kind: ChainKind, (hook, priority): (Hook, i32), rules: Vec<Rule>| {
        if !rules.is_empty() {
            chains.push(Chain { name: name.into(), kind, hook, priority, rules });
        }
    };
    let bridges = (!networks.is_empty() && !publications.is_empty()).then_some(BRIDGES);
    let by_doors = doors.iter().any(|door| door.link.is_some()).then_some(DOORS);
    let guard = bridges.into_iter().chain(by_doors).map(loopback_guard).collect();
    chain("guard", ChainKind::Filter, (Hook::Prerouting, BEFORE_DESTINATION), guard);
    chain("published", nat, (Hook::Prerouting, DESTINATION), publishing.clone());
    let here = publications.iter().any(|entry| !entry.to.is_ipv4()).then(own_loopback6);
    let here = here.into_iter().chain(publishing).collect();
    chain("published_here", nat, (Hook::Output, DESTINATION), here);
    let mut sources = sources(networks, publications);
    sources.extend(doors.iter().flat_map(|door| sources_of_door(door)));
    chain("sources", nat, (Hook::Postrouting, SOURCE), sources);
    chain("walls", ChainKind::Filter, (Hook::Forward, FORWARD), walls(networks));
    chains
}

/// To let the host reach published ports from its own loopback, a bridge has to route 127.0.0.0/8, which would open the
/// host's loopback to the workloads.
fn loopback_guard(links: &str) -> Rule {
    let loopback = Match::Destination(LOOPBACK4);
    rule("loopback is the host's own", vec![Match::InLinks(links.into()), loopback], Act::Drop)
}

/// As `sources`, for one workload of a network that is not ours.
fn sources_of_door(door: &Door) -> Vec<Rule> {
    let mut rules = Vec::new();
    for address in &door.addresses {
        let there = || Match::Destination(Prefix::host(address.address()));
        let matches = vec![Match::Source(address.network()), there(), Match::Translated];
        rules.push(rule("to itself, by a published port", matches, Act::Masquerade));
        if address.is_ipv4() {
            let matches = vec![Match::Source(LOOPBACK4), there()];
            rules.push(rule("from the host's loopback", matches, Act::Masquerade));
        }
    }
    rules
}

fn sources(networks: &[&Network], publications: &[Publication]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for network in networks {
        let bridge = || Match::OutLink(network.bridge.clone());
        for subnet in &network.subnets {
            let from_here = || Match::Source(*subnet);
            let is_published = publications.iter().any(|entry| subnet.contains(entry.to.ip()));
            if is_published {
                // Without it, the answer would go straight to the client, who has never asked that address.
                let matches = vec![from_here(), bridge(), Match::Translated];
                rules.push(rule("to itself, by a published port", matches, Act::Masquerade));
            }
            if is_published && subnet.is_ipv4() {
                let matches = vec![Match::Source(LOOPBACK4), bridge()];
                rules.push(rule("from the host's loopback", matches, Act::Masquerade));
            }
            for other in networks.iter().filter(|other| are_open(network, other)) {
                for whole in other.whole.iter().filter(|whole| whole.is_ipv4() == subnet.is_ipv4()) {
                    let matches = vec![from_here(), Match::Destination(*whole)];
                    rules.push(rule("to workloads on other hosts", matches, Act::Return));
                }
            }
            if network.masquerade {
                let matches = vec![from_here(), Match::NotOutLinks(BRIDGES.into())];
                rules.push(rule("to the outside", matches, Act::Masquerade));
            }
        }
    }
    rules
}

fn walls(networks: &[&Network]) -> Vec<Rule> {
    if networks.len() < 2 || networks.iter().all(|network| !network.isolated) {
        return Vec::new();
    }
    let translated = vec![Match::Translated];
    let mut rules = vec![rule("published ports are open to all", translated, Act::Accept)];
    // What is on other hosts is behind no bridge of this one.
    for network in networks {
        for other in networks.iter().filter(|other| !are_open(network, other)) {
            for whole in &other.whole {
                let matches = vec![Match::InLink(network.bridge.clone()), Match::Destination(*whole)];
                rules.push(rule("to another network, on other hosts", matches, Act::Drop));
                let matches = vec![Match::Source(*whole), Match::OutLink(network.bridge.clone())];
                rules.push(rule("from another network, on other hosts", matches, Act::Drop));
            }
        }
    }
    for network in networks.iter().filter(|network| network.isolated) {
        let from_here = Match::InLink(network.bridge.clone());
        let elsewhere =
            vec![from_here, Match::NotOutLink(network.bridge.clone()), Match::OutLinks(BRIDGES.into())];
        rules.push(rule("to another network", elsewhere, Act::Drop));
        // From those that are not isolated themselves.
        for open in networks.iter().filter(|other| !other.isolated) {
            let matches = vec![Match::InLink(open.bridge.clone()), Match::OutLink(network.bridge.clone())];
            rules.push(rule("from another network", matches, Act::Drop));
        }
    }
    rules
}

/// A network is open to itself, and to others if neither is isolated.
fn are_open(one: &Network, other: &Network) -> bool {
    one.bridge == other.bridge || !(one.isolated || other.isolated)
}

fn set_name(family: Family, by_address: bool) -> String {
    let number = if family == Family::Ipv4 { 4 } else { 6 };
    if by_address { format!("published_at{number}") } else { format!("published{number}") }
}

/// Linux takes no answer to ::1 from another link, whatever a rule says: better the host's own servers than silence.
fn own_loopback6() -> Rule {
    let loopback = Match::Destination(Prefix::host(Ipv6Addr::LOCALHOST.into()));
    rule("IPv6 does not leave loopback", vec![loopback], Act::Return)
}
