//! The hosts of a network, as etcd has them: who they are, and which of them can be believed. Pure.
//!
//! Whoever can write to etcd can write here, so a host is a peer only if its subnets are ones that a host may have,
//! nobody had them before it, and its address is not ours.

use std::collections::BTreeMap;

use super::flannel::{Attributes, read_attributes, read_key};
use super::underlay::Underlay;
use super::{Peer, Plan, Subnets};
use crate::etcd::wire::KeyValue;

/// Beyond it, hosts are not seen.
pub const HOSTS_MAX: usize = 10_000;

#[derive(Debug, Clone, Default)]
pub struct Hosts {
    by_key: BTreeMap<String, Host>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub subnets: Subnets,
    /// How it is reached, or why we do not know.
    pub attributes: Result<Attributes, String>,
    /// Revisions of the key.
    pub created: i64,
    pub modified: i64,
    pub lease: i64,
}

/// How it stands with what we have leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Held,
    /// The key is gone.
    Missing,
    /// Another host has it, or a part of it: its key.
    Taken(String),
}

impl Hosts {
    /// Takes over what a key says. An error is a key that names no subnets, which is nobody's business here.
    pub fn put(&mut self, key: &str, kv: &KeyValue, vni: u32) -> Result<(), String> {
        let subnets = read_key(key).ok_or_else(|| "it does not name a subnet".to_owned())?;
        if self.by_key.len() >= HOSTS_MAX && !self.by_key.contains_key(key) {
            return Err(format!("there are {HOSTS_MAX} hosts already"));
        }
        let attributes = read_attributes(&kv.value, vni);
        let KeyValue { create_revision: created, mod_revision: modified, lease, .. } = *kv;
        self.by_key.insert(key.to_owned(), Host { subnets, attributes, created, modified, lease });
        Ok(())
    }

    pub fn remove(&mut self, key: &str) {
        self.by_key.remove(key);
    }

    pub fn get(&self, key: &str) -> Option<&Host> {
        self.by_key.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Host)> {
        self.by_key.iter()
    }

    /// A free place overlaps with nobody's.
    pub fn is_free(&self, subnets: &Subnets, plan: &Plan) -> bool {
        !self.by_key.values().any(|host| is_within(host, plan) && host.subnets.overlaps(subnets))
    }

    pub fn standing(&self, key: &str, lease: i64, plan: &Plan) -> Standing {
        let Some(own) = self.by_key.get(key) else { return Standing::Missing };
        if own.lease != lease {
            return Standing::Taken(key.to_owned());
        }
        let before_us = |(other, host): &(&String, &Host)| {
            let is_earlier = *other != key && host.created < own.created;
            is_earlier && is_within(host, plan) && host.subnets.overlaps(&own.subnets)
        };
        match self.by_key.iter().find(before_us) {
            Some((other, _)) => Standing::Taken(other.clone()),
            None => Standing::Held,
        }
    }

    /// The other hosts, and why some are left out.
    pub fn peers(
        &self,
        key: &str,
        plan: &Plan,
        underlay: &Underlay,
    ) -> (Vec<Peer>, BTreeMap<String, String>) {
        let (mut peers, mut left_out) = (BTreeMap::<&String, (i64, Peer)>::new(), BTreeMap::new());
        let mut others: Vec<(&String, &Host)> =
            self.by_key.iter().filter(|(other, _)| *other != key).collect();
        // Whoever came first, is first.
        others.sort_by_key(|(_, host)| host.created);
        let own = self.by_key.get(key).map(|host| host.subnets);
        for (other, host) in others {
            let taken = own.iter().chain(peers.values().map(|(_, peer)| &peer.subnets));
            let is_taken = taken.into_iter().any(|taken| taken.overlaps(&host.subnets));
            let peer = match &host.attributes {
                _ if !plan.allows(&host.subnets) => Err("no host may have these subnets".to_owned()),
                _ if is_taken => Err("another host had a part of it before".to_owned()),
                Ok(attributes) if is_inside(attributes, host.subnets) => {
                    Err("its own address is in its subnets".to_owned())
                }
                Ok(attributes) if has_own(attributes, underlay) => Err("it has our own address".to_owned()),
                Ok(attributes) => Ok(attributes.peer(host.subnets)),
                Err(reason) => Err(reason.clone()),
            };
            match peer {
                Ok(peer) => drop(peers.insert(other, (host.created, peer))),
                Err(reason) => drop(left_out.insert(other.clone(), reason)),
            }
        }
        (peers.into_values().map(|(_, peer)| peer).collect(), left_out)
    }
}

/// What is wider than the network is no host's, and takes nothing from anybody.
fn is_within(host: &Host, plan: &Plan) -> bool {
    let (whole, subnet) = (plan.ipv4.whole, host.subnets.ipv4);
    whole.contains(subnet.first()) && subnet.length() >= whole.length()
}

/// A route to the subnets would lead the tunnel into itself.
fn is_inside(attributes: &Attributes, subnets: Subnets) -> bool {
    let mut vteps = attributes.ipv4.iter().chain(&attributes.ipv6);
    vteps.any(|vtep| subnets.list().iter().any(|subnet| subnet.contains(vtep.address)))
}

fn has_own(attributes: &Attributes, underlay: &Underlay) -> bool {
    let mut vteps = attributes.ipv4.iter().chain(&attributes.ipv6);
    vteps.any(|vtep| underlay.has(vtep.address))
}
