use std::collections::BTreeSet;

use super::super::flannel;
use super::super::hosts::Standing;
use super::super::underlay::Underlay;
use super::*;
use crate::etcd::wire::KeyValue;

fn plan(ipv4: &str, length: u8, ipv6: Option<&str>) -> Plan {
    let ipv6 = ipv6.map(|whole| Range::of(whole.parse().unwrap(), None).unwrap());
    let ipv4 = Range::of(ipv4.parse().unwrap(), Some(length)).unwrap();
    Plan { ipv4, ipv6, vni: 1, port: 8472, direct_routing: false }
}

fn underlay(host: u32) -> Underlay {
    let address = std::net::Ipv4Addr::from(0x0a4d_0000 + host);
    Underlay { link: "eth0".into(), mtu: 1500, addresses: vec![Prefix::new(address.into(), 16).unwrap()] }
}

/// etcd as far as this goes: keys with revisions, compared and swapped.
#[derive(Default)]
struct Store {
    revision: i64,
    hosts: Hosts,
}

impl Store {
    fn put(&mut self, plan: &Plan, subnets: &Subnets, host: u32, lease: i64) {
        self.revision += 1;
        let key = flannel::key(subnets);
        let created = self.hosts.get(&key).map_or(self.revision, |host| host.created);
        let value = flannel::write_attributes(&plan.attributes(&underlay(host)), plan.vni).into_bytes();
        let (mod_revision, create_revision) = (self.revision, created);
        let kv = KeyValue { key: vec![], value, mod_revision, create_revision, lease };
        self.hosts.put(&key, &kv, plan.vni).unwrap();
    }

    /// Only while no key begins with the IPv4 part.
    fn create(&mut self, plan: &Plan, subnets: &Subnets, host: u32) -> bool {
        let guard = flannel::key(&Subnets { ipv6: None, ..*subnets });
        if self.hosts.iter().any(|(key, _)| key.split('&').next() == Some(&guard)) {
            return false;
        }
        self.put(plan, subnets, host, host.into());
        true
    }
}

fn me(plan: &Plan, host: u32) -> Attributes {
    plan.attributes(&underlay(host))
}

#[test]
fn a_host_takes_what_is_its_own() {
    let plan = plan("10.5.0.0/16", 24, Some("fd05::/48"));
    let mut store = Store::default();
    let Choice::New(first) = choose(&plan, &store.hosts, &me(&plan, 1), None, 33) else { panic!() };
    assert_eq!(first.to_string(), "10.5.34.0/24 and fd05:0:0:22::/64", "both at one place");
    assert!(store.create(&plan, &first, 1));
    // After a restart that forgot everything, and with a memory of another one.
    for previous in [None, Some(Subnets { ipv4: "10.5.9.0/24".parse().unwrap(), ..first })] {
        let choice = choose(&plan, &store.hosts, &me(&plan, 1), previous.as_ref(), 99);
        assert!(matches!(choice, Choice::Take { subnets, .. } if subnets == first), "{choice:?}");
    }
    // Its lease has ended while nobody else came: the same again. Somebody came: another one.
    let before = store.hosts.clone();
    store.hosts.remove(&flannel::key(&first));
    assert_eq!(choose(&plan, &store.hosts, &me(&plan, 1), Some(&first), 99), Choice::New(first));
    assert!(store.create(&plan, &first, 2));
    let Choice::New(other) = choose(&plan, &store.hosts, &me(&plan, 1), Some(&first), 33) else { panic!() };
    assert_eq!(other.to_string(), "10.5.35.0/24 and fd05:0:0:23::/64");
    assert_eq!(store.hosts.standing(&flannel::key(&first), 1, &plan), Standing::Taken(flannel::key(&first)));
    assert_eq!(before.standing(&flannel::key(&first), 1, &plan), Standing::Held);
}

#[test]
fn what_overlaps_is_not_free_and_its_host_is_no_peer() {
    let plan = plan("10.5.0.0/16", 24, None);
    let mut store = Store::default();
    let subnet = |text: &str| Subnets { ipv4: text.parse().unwrap(), ipv6: None };
    // Of an earlier plan, of strangers, and of everything.
    for (host, text) in [(2, "10.5.32.0/20"), (3, "10.9.0.0/24"), (4, "0.0.0.0/0"), (5, "10.5.50.0/24")] {
        store.put(&plan, &subnet(text), host, 9);
    }
    let Choice::New(own) = choose(&plan, &store.hosts, &me(&plan, 1), None, 33) else { panic!() };
    assert_eq!(own.to_string(), "10.5.48.0/24", "behind the /20");
    store.put(&plan, &own, 1, 1);
    let key = flannel::key(&own);
    let (peers, left_out) = store.hosts.peers(&key, &plan, &underlay(1));
    assert_eq!(peers.iter().map(|peer| peer.subnets.to_string()).collect::<Vec<_>>(), ["10.5.50.0/24"]);
    assert_eq!(left_out.len(), 3, "{left_out:?}");
    // Whoever had it first keeps it, whatever comes later.
    store.put(&plan, &subnet("10.5.48.0/22"), 6, 9);
    assert_eq!(store.hosts.standing(&key, 1, &plan), Standing::Held);
    assert_eq!(store.hosts.peers(&key, &plan, &underlay(1)).0.len(), 1);
    assert_eq!(store.hosts.peers(&key, &plan, &underlay(5)).0.len(), 0, "that one has our address");
}

/// Each reads, then all choose, then they write one after the other; who is too late reads again.
#[test]
fn twenty_hosts_at_once_get_twenty_subnets() {
    for seed in 0..200_u64 {
        // 15 of 16 may be leased in the first, 31 of 32 in the second.
        for (whole, length, has_room) in [("10.5.0.0/24", 28, false), ("10.5.0.0/23", 28, true)] {
            let plan = plan(whole, length, Some("fd05::/48"));
            let mut store = Store::default();
            let (mut open, mut full, mut rounds): (Vec<u32>, Vec<u32>, u64) = ((0..20).collect(), vec![], 0);
            while !open.is_empty() {
                let snapshot = store.hosts.clone();
                let random = |host: u32| {
                    (seed + 1).wrapping_mul(0x9e37_79b9).wrapping_mul(u64::from(host) + rounds + 1)
                };
                let choices: Vec<(u32, Choice)> = open
                    .iter()
                    .map(|host| (*host, choose(&plan, &snapshot, &me(&plan, *host), None, random(*host))))
                    .collect();
                open.clear();
                for (host, choice) in choices {
                    match choice {
                        Choice::New(subnets) if store.create(&plan, &subnets, host) => (),
                        Choice::New(_) => open.push(host),
                        Choice::Full => full.push(host),
                        Choice::Take { .. } => panic!("host {host} has none yet"),
                    }
                }
                rounds += 1;
                assert!(rounds < 100, "seed {seed}: {open:?} go on for ever");
            }
            let subnets: Vec<Subnets> = store.hosts.iter().map(|(_, host)| host.subnets).collect();
            let places: BTreeSet<_> = subnets.iter().map(|subnets| (subnets.ipv4, subnets.ipv6)).collect();
            assert_eq!(places.len(), if has_room { 20 } else { 15 }, "seed {seed}");
            assert_eq!(full.len(), 20 - places.len());
            for (at, one) in subnets.iter().enumerate() {
                assert!(subnets[at + 1..].iter().all(|other| !one.overlaps(other)), "seed {seed}: {one}");
            }
        }
    }
}
