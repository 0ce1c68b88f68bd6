//! The host's table: published ports, masquerade and the walls between networks.
//!
//! A pure function of the networks and of what their workloads publish. The whole table is replaced on every change:
//! one transaction, which established connections do not notice.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::capture::rule;
use super::{Act, Chain, ChainKind, Family, Hook, Match, Protocol, Publication, Rule, Set, TABLE, Table};
use crate::net::prefix::Prefix;
use crate::net::settings::Network;

/// Where destinations and sources are usually translated, and where forwarding is usually decided.
const DESTINATION: i32 = -100;
const SOURCE: i32 = 100;
const FORWARD: i32 = 0;
/// Behind connection tracking, before any translation.
const BEFORE_DESTINATION: i32 = -150;
const BRIDGES: &str = "bridges";
const LOOPBACK4: Prefix = Prefix::ipv4(Ipv4Addr::new(127, 0, 0, 0), 8);
/// What the kernel gives a loopback link that comes up.
pub const LOOPBACK_ADDRESS: Prefix = Prefix::ipv4(Ipv4Addr::LOCALHOST, 8);

/// `None` if there is nothing to do.
pub fn table(networks: &[&Network], publications: &[Publication]) -> Option<Table> {
    if networks.is_empty() {
        return None;
    }
    let mut sets =
        vec![Set::Links { name: BRIDGES.into(), links: networks.iter().map(|n| n.bridge.clone()).collect() }];
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
    Some(Table { name: TABLE.into(), sets, chains: chains(networks, publishing, publications), forget })
}

fn chains(networks: &[&Network], publishing: Vec<Rule>, publications: &[Publication]) -> Vec<Chain> {
    let nat = ChainKind::Nat;
    let mut chains = Vec::new();
    let mut chain = |name: &str, kind: ChainKind, (hook, priority): (Hook, i32), rules: Vec<Rule>| {
        if !rules.is_empty() {
            chains.push(Chain { name: name.into(), kind, hook, priority, rules });
        }
    };
    let guard = if publications.is_empty() { Vec::new() } else { vec![loopback_guard()] };
    chain("guard", ChainKind::Filter, (Hook::Prerouting, BEFORE_DESTINATION), guard);
    chain("published", nat, (Hook::Prerouting, DESTINATION), publishing.clone());
    let here = publications.iter().any(|entry| !entry.to.is_ipv4()).then(own_loopback6);
    let here = here.into_iter().chain(publishing).collect();
    chain("published_here", nat, (Hook::Output, DESTINATION), here);
    chain("sources", nat, (Hook::Postrouting, SOURCE), sources(networks, publications));
    chain("walls", ChainKind::Filter, (Hook::Forward, FORWARD), walls(networks));
    chains
}

/// To let the host reach published ports from its own loopback, a bridge has to route 127.0.0.0/8, which would open the
/// host's loopback to the workloads.
fn loopback_guard() -> Rule {
    let loopback = Match::Destination(LOOPBACK4);
    rule("loopback is the host's own", vec![Match::InLinks(BRIDGES.into()), loopback], Act::Drop)
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

fn set_name(family: Family, by_address: bool) -> String {
    let number = if family == Family::Ipv4 { 4 } else { 6 };
    if by_address { format!("published_at{number}") } else { format!("published{number}") }
}

/// Linux takes no answer to ::1 from another link, whatever a rule says: better the host's own servers than silence.
fn own_loopback6() -> Rule {
    let loopback = Match::Destination(Prefix::host(Ipv6Addr::LOCALHOST.into()));
    rule("IPv6 does not leave loopback", vec![loopback], Act::Return)
}
