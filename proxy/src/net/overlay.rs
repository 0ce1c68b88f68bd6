//! One network on many hosts: each leases a subnet in etcd, and reaches the others' by VXLAN or directly.
//!
//! The schema is flannel's (`flannel`), so hosts of both kinds can share a network. `lease` is the task that talks to
//! etcd: it finds a subnet (`choose`), keeps it, and knows the other hosts (`hosts`). What it has found is a `State`,
//! which the store keeps; `items` says purely what that makes of this host. Invariants: a subnet has one host, so what
//! another has leased before is given up; nothing is flooded and nothing is learned, since every host is known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::item::{Mac, Place};
use super::observe::Seen;
use super::prefix::Prefix;
use super::settings::Settings;
use super::store::Record;

pub mod choose;
pub mod flannel;
pub mod hosts;
pub mod items;
pub mod lease;
pub mod source;
pub mod underlay;

use flannel::{Attributes, Range};
use underlay::Underlay;

/// What all hosts have agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub ipv4: Range,
    pub ipv6: Option<Range>,
    pub vni: u32,
    pub port: u16,
    /// Where hosts share a link, nothing is packed.
    pub direct_routing: bool,
}

/// Of one host, which leases them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnets {
    pub ipv4: Prefix,
    pub ipv6: Option<Prefix>,
}

/// An end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vtep {
    /// Of the host, as others reach it.
    pub address: IpAddr,
    pub mac: Mac,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub subnets: Subnets,
    /// By way of IPv4, and of IPv6.
    pub ipv4: Option<Vtep>,
    pub ipv6: Option<Vtep>,
}

/// A network that this host is part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub plan: Plan,
    pub subnets: Subnets,
    /// etcd's number of our lease; 0 is a reservation, which does not end.
    pub lease: i64,
    pub underlay: Underlay,
    pub peers: Vec<Peer>,
}

impl Subnets {
    pub fn list(&self) -> Vec<Prefix> {
        [Some(self.ipv4), self.ipv6].into_iter().flatten().collect()
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let both = self.ipv6.zip(other.ipv6);
        self.ipv4.overlaps(other.ipv4) || both.is_some_and(|(one, other)| one.overlaps(other))
    }
}

impl std::fmt::Display for Subnets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ipv6 {
            Some(ipv6) => write!(f, "{} and {ipv6}", self.ipv4),
            None => write!(f, "{}", self.ipv4),
        }
    }
}

impl Peer {
    /// Where it is reached.
    pub fn addresses(&self) -> Vec<String> {
        self.ipv4.iter().chain(&self.ipv6).map(|vtep| vtep.address.to_string()).collect()
    }
}

impl Plan {
    /// A host may have these.
    pub fn allows(&self, subnets: &Subnets) -> bool {
        let ipv6 = match (&self.ipv6, subnets.ipv6) {
            (Some(range), Some(subnet)) => range.has(subnet),
            (None, None) => true,
            _ => false,
        };
        ipv6 && self.ipv4.has(subnets.ipv4)
    }

    pub fn wholes(&self) -> Vec<Prefix> {
        [Some(self.ipv4.whole), self.ipv6.as_ref().map(|range| range.whole)].into_iter().flatten().collect()
    }

    /// How a host with this below it is reached. flannel goes by way of IPv6 only for subnets of IPv6; so do we, unless
    /// there is no IPv4 below.
    pub fn attributes(&self, underlay: &Underlay) -> Attributes {
        let vtep = |address: IpAddr| Vtep { address, mac: vtep_mac(address, self.vni) };
        let (ipv4, ipv6) = (underlay.ipv4(), underlay.ipv6());
        let needs_ipv6 = self.ipv6.is_some() || ipv4.is_none();
        Attributes { ipv4: ipv4.map(vtep), ipv6: ipv6.filter(|_| needs_ipv6).map(vtep) }
    }
}

/// Made from the address: a host that comes back is reached by what others still know.
fn vtep_mac(address: IpAddr, vni: u32) -> Mac {
    let digest = Sha256::digest(format!("{address} {vni}"));
    // Locally administered.
    Mac([2, 0x56, digest[0], digest[1], digest[2], digest[3]])
}

/// What each network is, without peers whose subnet is on a link of this host that is not ours: a route there would
/// lead its neighbours astray.
pub fn without_strangers(record: &Record, seen: &Seen) -> BTreeMap<String, State> {
    let host = seen.places.get(&Place::Host);
    let ours: BTreeSet<String> = record.made.iter().filter_map(|made| made.item.made_link()).collect();
    let addresses = host.map_or(&[][..], |host| host.dump.addresses.as_slice()).iter();
    let foreign: BTreeSet<Prefix> =
        addresses.filter(|(link, _)| !ours.contains(link)).map(|(_, address)| address.network()).collect();
    let mut states = record.overlays.clone();
    for state in states.values_mut() {
        state.peers.retain(|peer| !peer.subnets.list().iter().any(|subnet| foreign.contains(subnet)));
    }
    states
}

/// Another network of this host whose addresses the plan would take.
pub fn clash(
    name: &str,
    plan: &Plan,
    settings: &Settings,
    states: &BTreeMap<String, State>,
) -> Option<String> {
    let others = settings.networks.iter().filter(|(other, _)| *other != name);
    let taken = others.flat_map(|(other, network)| {
        let leased = states.get(other).filter(|_| network.overlay.is_some()).map(|state| state.plan.wholes());
        let subnets = network.subnets.iter().copied().chain(leased.unwrap_or_default());
        subnets.map(move |subnet| (other, subnet)).collect::<Vec<_>>()
    });
    let mut overlapping =
        taken.flat_map(|(other, subnet)| plan.wholes().into_iter().map(move |whole| (whole, other, subnet)));
    let (whole, other, subnet) = overlapping.find(|(whole, _, subnet)| whole.overlaps(*subnet))?;
    Some(format!("{whole} overlaps {subnet} of network `{other}`"))
}

/// What is known of the overlays in these settings.
pub fn of(settings: &Settings, record: &Record) -> BTreeMap<String, State> {
    let is_one = |name: &String| settings.networks.get(name).is_some_and(|network| network.overlay.is_some());
    let known = record.overlays.iter().filter(|(name, _)| is_one(name));
    known.map(|(name, state)| (name.clone(), state.clone())).collect()
}

/// Other hosts may have the subnets of networks that this one has left. Why not, if etcd could not be told.
pub async fn release(before: &Record, after: &Record) -> BTreeMap<String, String> {
    let mut unreleased = BTreeMap::new();
    for (name, state) in before.overlays.iter().filter(|(name, _)| !after.overlays.contains_key(*name)) {
        let network = before.settings.networks.get(name).and_then(|network| network.overlay.as_ref());
        let Some(overlay) = network else { continue };
        if let Err(why) = lease::release(&overlay.source, &state.subnets, state.lease).await {
            unreleased.insert(name.clone(), why);
        }
    }
    unreleased
}

/// The settings with what has been leased. A network without a subnet on this host is as if it were not in the file.
#[must_use]
pub fn effective(settings: &Settings, states: &BTreeMap<String, State>) -> Settings {
    let mut settings = settings.clone();
    settings.networks.retain(|name, network| network.overlay.is_none() || states.contains_key(name));
    for (name, network) in &mut settings.networks {
        if let Some(state) = states.get(name).filter(|_| network.overlay.is_some()) {
            network.subnets = state.subnets.list();
            network.whole = state.plan.wholes();
        }
    }
    for workload in settings.workloads.values_mut() {
        workload.plug = workload.plug.take().filter(|plug| settings.networks.contains_key(&plug.network));
    }
    settings
}
