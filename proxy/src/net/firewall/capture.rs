//! The table of a workload's namespace: what it sends, what comes to it and what it asks of DNS goes to the sidecar.
//!
//! Order is the meaning here. The sidecar's own traffic and what the operator lets through come first; DNS comes before
//! the loopback exemption, since resolvers such as 127.0.0.11 are on loopback and are captured all the same.

use super::transparent;
use super::{ANCHOR, Act, Chain, ChainKind, Hook, Match, Protocol, Rule, TABLE, Table};
use crate::net::prefix::Prefix;
use crate::net::settings::{Capture, Except, Mode};

/// Before the -100 at which others translate (Docker's resolver, for one): the first decision on a flow stands.
const PRIORITY: i32 = -110;
pub(super) const DNS: u16 = 53;

pub fn table(capture: &Capture) -> Table {
    let mut chains = Vec::new();
    let redirects = capture.mode == Mode::Redirect;
    if capture.outbound.is_some() || capture.dns.is_some() {
        chains.push(chain("outbound", Hook::Output, outbound(capture)));
    }
    if let (Some(port), true) = (capture.inbound, redirects) {
        let mut rules = exceptions(&capture.except_inbound, Match::Source, Match::InLink);
        rules.push(to_the_sidecar(port));
        chains.push(chain("inbound", Hook::Prerouting, rules));
    }
    if !redirects {
        chains.extend(transparent::chains(capture));
    }
    let forget = if capture.dns.is_some() { vec![DNS] } else { Vec::new() };
    Table { name: TABLE.into(), sets: Vec::new(), chains, forget }
}

/// In the place of a table whose capture ends: what it has decided goes on, and nothing else is captured.
pub fn draining() -> Table {
    Table { name: TABLE.into(), ..anchor(true) }
}

/// A table that decides nothing: a chain and a rule that need translation and connection tracking. In a workload's
/// namespace, captured flows keep their way, too.
pub(super) fn anchor(in_workload: bool) -> Table {
    let rule = rule("flows go on while the table is away", vec![Match::Translated], Act::Return);
    let mut chains = vec![chain("flows", Hook::Prerouting, vec![rule])];
    chains.extend(in_workload.then(transparent::held));
    Table { name: ANCHOR.into(), sets: Vec::new(), chains, forget: Vec::new() }
}

fn chain(name: &str, hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind: ChainKind::Nat, hook, priority: PRIORITY, rules }
}

fn outbound(capture: &Capture) -> Vec<Rule> {
    let mut rules = exceptions(&capture.except_outbound, Match::Destination, Match::OutLink);
    if let Some(port) = capture.dns {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let matches = vec![Match::Protocol(protocol), Match::DestinationPort(DNS, DNS)];
            rules.push(rule("DNS, before loopback", matches, Act::Redirect(port)));
        }
    }
    rules.push(rule("loopback is the workload's own", vec![Match::OutLink("lo".into())], Act::Return));
    if let (Some(port), Mode::Redirect) = (capture.outbound, capture.mode) {
        rules.push(to_the_sidecar(port));
    }
    rules.push(rule("flows that pass untouched", vec![Match::Protocol(Protocol::Udp)], Act::CountAndReturn));
    rules
}

/// Only what begins. Connections that are older than connection tracking here look new in the middle, and the sidecar
/// would know nothing of them.
fn to_the_sidecar(port: u16) -> Rule {
    rule("to the sidecar", vec![Match::Protocol(Protocol::Tcp), Match::Opening], Act::Redirect(port))
}

pub(super) fn exceptions(
    except: &Except,
    address: fn(Prefix) -> Match,
    interface: fn(String) -> Match,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut pass = |comment: &str, matches: Vec<Match>| rules.push(rule(comment, matches, Act::Return));
    except.users.iter().for_each(|user| pass("the sidecar, or a user let through", vec![Match::User(*user)]));
    except
        .groups
        .iter()
        .for_each(|group| pass("the sidecar, or a group let through", vec![Match::Group(*group)]));
    except.marks.iter().for_each(|mark| pass("the sidecar, or a mark let through", vec![Match::Mark(*mark)]));
    except.interfaces.iter().for_each(|name| pass("an interface let through", vec![interface(name.clone())]));
    except.ranges.iter().for_each(|range| pass("addresses let through", vec![address(*range)]));
    for (first, last) in &except.ports {
        let matches = vec![Match::Protocol(Protocol::Tcp), Match::DestinationPort(*first, *last)];
        pass("ports let through", matches);
    }
    rules
}

pub(super) fn rule(comment: &str, matches: Vec<Match>, act: Act) -> Rule {
    Rule { comment: comment.into(), matches, act }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture() -> Capture {
        Capture {
            mode: Mode::Redirect,
            outbound: Some(15001),
            inbound: Some(15006),
            dns: Some(15053),
            except_outbound: Except { users: vec![1337], ..Except::default() },
            except_inbound: Except { ports: vec![(22, 22)], ..Except::default() },
        }
    }

    fn text(table: &Table) -> Vec<String> {
        let rules = table.chains.iter().flat_map(|chain| &chain.rules);
        rules.map(|rule| rule.to_string().split(" comment").next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_sidecar_comes_first_and_dns_before_loopback() {
        let table = table(&capture());
        assert_eq!(
            text(&table),
            [
                "meta skuid 1337 return",
                "meta l4proto udp th dport 53 redirect to :15053",
                "meta l4proto tcp th dport 53 redirect to :15053",
                "oifname \"lo\" return",
                "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn redirect to :15001",
                "meta l4proto udp counter return",
                "meta l4proto tcp th dport 22 return",
                "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn redirect to :15006",
            ]
        );
        assert_eq!(table.forget, [53]);
    }

    #[test]
    fn what_is_not_captured_has_no_rules() {
        let only_in = Capture { outbound: None, dns: None, ..capture() };
        assert_eq!(table(&only_in).chains.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["inbound"]);
        assert!(table(&only_in).forget.is_empty());
        let only_dns = Capture { outbound: None, inbound: None, ..capture() };
        assert!(!table(&only_dns).to_string().contains("15001"));
    }
}
