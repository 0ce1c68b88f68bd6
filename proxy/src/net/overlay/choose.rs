//! Which subnet a host asks for: its own if it has one, the one it had, or one that is free. Pure.

use std::net::IpAddr;

use super::flannel::{Attributes, Range};
use super::hosts::Hosts;
use super::{Plan, Subnets};
use crate::net::prefix::Prefix;

/// Places looked at before a range counts as full.
const LOOKS_MAX: u128 = 1 << 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A key that says our address: of this host before a restart, or a reservation.
    Take {
        key: String,
        subnets: Subnets,
        modified: i64,
        lease: i64,
    },
    New(Subnets),
    Full,
}

/// `random` spreads hosts that choose at once; what they then ask for is compared and swapped.
pub fn choose(
    plan: &Plan,
    hosts: &Hosts,
    me: &Attributes,
    previous: Option<&Subnets>,
    random: u64,
) -> Choice {
    let mine = hosts.iter().filter(|(_, host)| plan.allows(&host.subnets));
    let mine = mine.filter(|(_, host)| host.attributes.as_ref().is_ok_and(|other| is_same_host(other, me)));
    // The one we had, if it is among them.
    let mine =
        mine.max_by_key(|(_, host)| (Some(&host.subnets) == previous, std::cmp::Reverse(host.created)));
    if let Some((key, host)) = mine {
        let (subnets, modified, lease) = (host.subnets, host.modified, host.lease);
        return Choice::Take { key: key.clone(), subnets, modified, lease };
    }
    match previous.filter(|previous| plan.allows(previous) && hosts.is_free(previous, plan)) {
        Some(previous) => Choice::New(*previous),
        None => free(plan, hosts, random).map_or(Choice::Full, Choice::New),
    }
}

/// By the address that flannel knows hosts by, or by the other one where there is none.
pub fn is_same_host(one: &Attributes, other: &Attributes) -> bool {
    match (&one.ipv4, &other.ipv4) {
        (Some(one), Some(other)) => one.address == other.address,
        (None, None) => one
            .ipv6
            .as_ref()
            .zip(other.ipv6.as_ref())
            .is_some_and(|(one, other)| one.address == other.address),
        _ => false,
    }
}

fn free(plan: &Plan, hosts: &Hosts, random: u64) -> Option<Subnets> {
    let ipv4 = Places::of(&plan.ipv4);
    let ipv6 = plan.ipv6.as_ref().map(Places::of);
    (0..ipv4.count.min(LOOKS_MAX)).find_map(|step| {
        let place = (u128::from(random) + step) % ipv4.count;
        let subnets = Subnets { ipv4: ipv4.nth(place)?, ipv6: None };
        if !hosts.is_free(&subnets, plan) {
            return None;
        }
        let Some(ipv6) = &ipv6 else { return Some(subnets) };
        // At the same place, if it is free: hosts that want the same then want the same key.
        (0..ipv6.count.min(LOOKS_MAX)).find_map(|step| {
            let paired = Subnets { ipv6: Some(ipv6.nth((place + step) % ipv6.count)?), ..subnets };
            hosts.is_free(&paired, plan).then_some(paired)
        })
    })
}

/// Subnets of a range that may be leased.
struct Places<'a> {
    range: &'a Range,
    first: u128,
    count: u128,
}

impl<'a> Places<'a> {
    fn of(range: &'a Range) -> Self {
        let place =
            |address: IpAddr| Prefix::new(address, range.length).map_or(0, |subnet| range.index(subnet));
        let (first, last) = (place(range.first), place(range.last));
        Self { range, first, count: last.saturating_sub(first) + 1 }
    }

    fn nth(&self, place: u128) -> Option<Prefix> {
        self.range.nth(self.first + place)
    }
}

#[cfg(test)]
mod tests;
