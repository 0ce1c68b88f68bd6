//! The part of a capture table that takes TCP without translating it (TPROXY), and the numbers that steer it.
//!
//! What comes to the workload meets the sidecar's socket before routing. What the workload sends is marked on its way
//! out; a rule and a route of `target` then lead it back in by loopback, where the same is done. Whole flows are marked
//! at their first packet, so answers of the workload and connections older than the table go their way untouched.
//! Names are redirected all the same: the answer has to come from the address that was asked.

use super::capture::{DNS, exceptions, rule};
use super::{Act, Chain, ChainKind, Hook, Match, Protocol, Rule};
use crate::net::links::LOOPBACK;
use crate::net::settings::Capture;

/// Of flows and packets that go to the sidecar. Its upper half is zero, where others keep bits of theirs.
pub const MARK: u32 = 0x4f75;
/// Table of routes for them, and the priority of the rule that says so: before those of any other program by default.
pub const ROUTES: u32 = 0x4f75;

/// nftables calls it `mangle`: after tracking, before any translation.
const PRIORITY: i32 = -150;

pub(super) fn chains(capture: &Capture) -> Vec<Chain> {
    let mut chains = Vec::new();
    if capture.outbound.is_some() {
        chains.push(chain("steered", ChainKind::Route, Hook::Output, steered(capture)));
    }
    chains.push(chain("taken", ChainKind::Filter, Hook::Prerouting, taken(capture)));
    chains
}

/// Captured flows keep their way while the table is away: their sockets are known by then.
pub(super) fn held() -> Chain {
    chain("steered", ChainKind::Route, Hook::Output, vec![forth()])
}

fn steered(capture: &Capture) -> Vec<Rule> {
    let mut rules = exceptions(&capture.except_outbound, Match::Destination, Match::OutLink);
    if capture.dns.is_some() {
        let matches = vec![tcp(), Match::DestinationPort(DNS, DNS)];
        rules.push(rule("DNS is redirected", matches, Act::Return));
    }
    rules.push(rule("loopback is the workload's own", vec![Match::OutLink(LOOPBACK.into())], Act::Return));
    rules.push(rule("a new flow for the sidecar", vec![tcp(), Match::Opening], Act::MarkFlow(MARK)));
    rules.push(forth());
    rules
}

fn forth() -> Rule {
    rule("by loopback to the sidecar", vec![tcp(), Match::ForthOfFlow(MARK)], Act::MarkPacket(MARK))
}

fn taken(capture: &Capture) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(port) = capture.outbound {
        let steered = || vec![Match::InLink(LOOPBACK.into()), Match::Mark(MARK), tcp()];
        rules.push(rule("what the workload sends", steered(), Act::Take(port)));
        // Otherwise it would reach whoever listens at every address here.
        rules.push(rule("nobody takes it", steered(), Act::Reset));
    }
    let Some(port) = capture.inbound else { return rules };
    rules.push(rule("loopback is the workload's own", vec![Match::InLink(LOOPBACK.into())], Act::Return));
    // By a table that redirected: it is the translation's to go on with.
    rules.push(rule("a flow from before this table", vec![Match::Translated], Act::Return));
    rules.extend(exceptions(&capture.except_inbound, Match::Source, Match::InLink));
    let arrives = || vec![tcp(), Match::ToThisHost];
    rules.push(rule("what comes to the workload", arrives(), Act::Take(port)));
    let opening = [arrives(), vec![Match::Opening]].concat();
    rules.push(rule("nobody takes it", opening, Act::Reset));
    rules
}

fn tcp() -> Match {
    Match::Protocol(Protocol::Tcp)
}

fn chain(name: &str, kind: ChainKind, hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind, hook, priority: PRIORITY, rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::firewall::capture::table;
    use crate::net::settings::{Except, Mode};

    fn capture() -> Capture {
        Capture {
            mode: Mode::Tproxy,
            outbound: Some(15001),
            inbound: Some(15006),
            dns: Some(15053),
            except_outbound: Except { users: vec![1337], ..Except::default() },
            except_inbound: Except { ports: vec![(22, 22)], ..Except::default() },
        }
    }

    fn text(capture: &Capture) -> Vec<String> {
        let table = table(capture);
        let rules = table.chains.iter().flat_map(|chain| &chain.rules);
        rules.map(|rule| rule.to_string().split(" comment").next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_sidecar_s_own_comes_first_and_nothing_is_translated_but_names() {
        assert_eq!(
            text(&capture()),
            [
                "meta skuid 1337 return",
                "meta l4proto udp th dport 53 redirect to :15053",
                "meta l4proto tcp th dport 53 redirect to :15053",
                "oifname \"lo\" return",
                "meta l4proto udp counter return",
                "meta skuid 1337 return",
                "meta l4proto tcp th dport 53 return",
                "oifname \"lo\" return",
                "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn ct mark set 0x4f75",
                "meta l4proto tcp ct direction original ct mark 0x4f75 meta mark set 0x4f75",
                "iifname \"lo\" meta mark 0x4f75 meta l4proto tcp tproxy to :15001 accept",
                "iifname \"lo\" meta mark 0x4f75 meta l4proto tcp reject with tcp reset",
                "iifname \"lo\" return",
                "ct status dnat return",
                "meta l4proto tcp th dport 22 return",
                "meta l4proto tcp fib daddr type local tproxy to :15006 accept",
                "meta l4proto tcp fib daddr type local tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset",
            ]
        );
    }

    #[test]
    fn what_is_not_captured_has_no_chain() {
        let names =
            |capture: &Capture| table(capture).chains.into_iter().map(|chain| chain.name).collect::<Vec<_>>();
        assert_eq!(names(&Capture { outbound: None, dns: None, ..capture() }), ["taken"]);
        let only_out = Capture { inbound: None, ..capture() };
        assert_eq!(names(&only_out), ["outbound", "steered", "taken"]);
        assert!(!text(&only_out).iter().any(|rule| rule.contains("fib")));
    }
}
