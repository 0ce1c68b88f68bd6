//! The comparison against a kernel that is only a value, and a model of store, addresses and plan together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::net::firewall::kernel::Found;
use crate::net::ipam::{self, Wish};
use crate::net::item::{Inside, Mac};
use crate::net::links::{Dump, Kind, Link, Route};
use crate::net::observe::View;
use crate::net::prefix::Prefix;
use crate::net::settings::{NamespaceRef, Network, Plug, Settings, Workload};
use crate::net::store::{Record, Store};
use crate::net::target::{self, Circumstances};

/// A kernel of items: what is in each place.
#[derive(Debug, Clone, Default)]
struct Fake {
    items: Vec<(Place, Item)>,
    /// Namespaces that live.
    alive: BTreeSet<u64>,
    /// Links that somebody else made on the host.
    foreign: Vec<String>,
    sysctls: BTreeMap<(Place, String), String>,
}

impl Fake {
    fn apply(&mut self, change: &Change) {
        let Change { place, from, to } = change;
        if let Some(Item::Sysctl { name, value }) = to {
            self.sysctls.insert((place.clone(), name.clone()), value.clone());
            return;
        }
        // A link that stands where it should is put right, and keeps what hangs on it.
        let stays = matches!((from, to), (Some(from), Some(to)) if self.stands(place, from, to));
        match from {
            Some(from) if stays => self.items.retain(|(at, found)| at != place || found.key() != from.key()),
            Some(from) => self.remove(place, from),
            None => (),
        }
        if let Some(to) = to {
            self.items.push((place.clone(), to.clone()));
        }
    }

    fn stands(&self, place: &Place, from: &Item, to: &Item) -> bool {
        let same_ends = match (from, to) {
            (Item::Cable { peer, at, .. }, Item::Cable { peer: new_peer, at: new_at, .. }) => {
                peer == new_peer && at == new_at
            }
            (from, to) => from.key() == to.key(),
        };
        same_ends && self.items.iter().any(|(at, found)| at == place && found.key() == from.key())
    }

    /// What hangs on a link goes with it.
    fn remove(&mut self, place: &Place, item: &Item) {
        self.items.retain(|(at, found)| at != place || found.key() != item.key());
        if let Item::Cable { at, peer, .. } = item {
            let inside = Place::Inside(at.clone());
            self.items.retain(|(place, found)| *place != inside || !on_link(found, peer));
        }
        if let Item::Bridge { name, .. } = item {
            self.items.retain(|(at, found)| at != place || !on_link(found, name));
        }
    }

    fn kill(&mut self, namespace: u64) {
        self.alive.remove(&namespace);
        let dead = |place: &Place| matches!(place, Place::Inside(inside) if inside.namespace == namespace);
        self.items.retain(|(place, item)| {
            !dead(place) && !matches!(item, Item::Cable { at, .. } if at.namespace == namespace)
        });
    }

    fn seen(&self, insides: impl Iterator<Item = Inside>) -> Seen {
        let insides = insides.filter(|inside| self.alive.contains(&inside.namespace));
        let places = std::iter::once(Place::Host).chain(insides.map(Place::Inside));
        Seen { places: places.map(|place| (place.clone(), self.view(&place))).collect() }
    }

    fn view(&self, place: &Place) -> View {
        let mut dump = Dump::default();
        let mut table = None;
        for (index, (at, item)) in self.items.iter().enumerate() {
            let index = index as u32 + 1;
            match item {
                // The other end has a number far from all others.
                Item::Cable { name, mac, mtu, .. } if at == place => {
                    let bridge = self.index_of_bridge(item);
                    dump.links.push(link(
                        index,
                        name,
                        Kind::Veth,
                        (Some(*mac), *mtu),
                        bridge,
                        Some(index + 1000),
                    ));
                }
                Item::Cable { peer, at, mac, mtu, .. } if Place::Inside(at.clone()) == *place => {
                    dump.links.push(link(
                        index + 1000,
                        peer,
                        Kind::Veth,
                        (Some(*mac), *mtu),
                        None,
                        Some(index),
                    ));
                }
                _ if at != place => (),
                Item::Bridge { name, mac, mtu } => {
                    dump.links.push(link(index, name, Kind::Bridge, (Some(*mac), *mtu), None, None));
                }
                Item::Address { link, address } => dump.addresses.push((link.clone(), *address)),
                Item::Route { to, via, link, onlink } => {
                    let (to, via, link, onlink) = (*to, *via, link.clone(), *onlink);
                    let route = Route { to, via, link, onlink, is_advertised: false };
                    dump.routes.push(route);
                }
                Item::Table(installed) => table = Some(Found::of(installed)),
                Item::Up { link: name } => {
                    dump.links.push(link(1, name, Kind::Other, (None, 65536), None, None))
                }
                _ => (),
            }
        }
        if !dump.links.iter().any(|link| link.name == "lo") {
            let mut lo = link(1, "lo", Kind::Other, (None, 65536), None, None);
            lo.is_up = false;
            dump.links.push(lo);
        }
        for (index, name) in self.foreign.iter().enumerate().filter(|_| *place == Place::Host) {
            let mut link = link(5000 + index as u32, name, Kind::Bridge, (None, 1500), None, None);
            link.is_marked = false;
            dump.links.push(link);
        }
        let mut sysctls = BTreeMap::from([("net/ipv4/ip_forward".to_owned(), "0".to_owned())]);
        let own = self.sysctls.iter().filter(|((at, _), _)| at == place);
        sysctls.extend(own.map(|((_, name), value)| (name.clone(), value.clone())));
        View { dump, table, sysctls, ..View::default() }
    }

    fn index_of_bridge(&self, cable: &Item) -> Option<u32> {
        let Item::Cable { bridge, .. } = cable else { return None };
        let at = self
            .items
            .iter()
            .position(|(_, item)| matches!(item, Item::Bridge { name, .. } if name == bridge));
        at.map(|index| index as u32 + 1)
    }
}

fn on_link(item: &Item, name: &str) -> bool {
    matches!(item, Item::Address { link, .. } | Item::Route { link, .. } if link == name)
}

fn link(
    index: u32,
    name: &str,
    kind: Kind,
    (mac, mtu): (Option<Mac>, u32),
    bridge: Option<u32>,
    peer: Option<u32>,
) -> Link {
    let name = name.to_owned();
    Link {
        index,
        name,
        kind,
        mac,
        mtu,
        is_up: true,
        is_marked: true,
        bridge,
        is_hairpin: true,
        peer,
        tunnel: None,
    }
}

fn network() -> Network {
    Network {
        bridge: "or-web".into(),
        subnets: vec!["10.77.0.0/28".parse().unwrap()],
        mtu: None,
        masquerade: true,
        isolated: true,
        static_neighbours: false,
        overlay: None,
        whole: vec![],
    }
}

fn workload() -> Workload {
    let plug = Plug { network: "web".into(), interface: "eth0".into(), ..Plug::default() };
    Workload { namespace: NamespaceRef::Process(1), plug: Some(plug), capture: None, door: None }
}

/// The host with its store: everything but netlink.
struct Model {
    fake: Fake,
    store: Store,
    _folder: tempfile::TempDir,
    /// The namespace of each workload that lives, by id.
    living: BTreeMap<String, u64>,
    next_namespace: u64,
}

const HOST: u64 = 1;

impl Model {
    fn new() -> Self {
        // In memory where that can be had: the disk would be waited for some ten thousand times.
        let folder = tempfile::TempDir::new_in("/dev/shm").or_else(|_| tempfile::TempDir::new()).unwrap();
        let store = Store::to_read(folder.path());
        let fake = Fake::default();
        Self { fake, store, _folder: folder, living: BTreeMap::new(), next_namespace: 100 }
    }

    fn record(&self) -> Record {
        self.store.load(HOST).unwrap()
    }

    /// As `run` does it, up to `crash_after` changes; a run that ends returns true.
    fn apply(&mut self, ids: &[String], crash_after: usize) -> bool {
        let record = self.record();
        let settings = Settings {
            networks: if ids.is_empty() { BTreeMap::new() } else { [("web".to_owned(), network())].into() },
            workloads: ids.iter().map(|id| (id.clone(), workload())).collect(),
        };
        let (mut leases, mut last) = (record.leases.clone(), record.last.clone());
        let subnets = network().subnets;
        for id in ids {
            let wish = Wish { network: "web", workload: id, subnets: &subnets, fixed: &[] };
            if ipam::allocate(&wish, &mut leases, &mut last).is_err() {
                return true;
            }
        }
        let inside = |id: &String| Inside { workload: id.clone(), namespace: self.living[id] };
        let insides: BTreeMap<String, Inside> = ids.iter().map(|id| (id.clone(), inside(id))).collect();
        let insides_then = insides.clone();
        let mut next =
            Record { leases, last, settings, insides: insides_then, unfinished: false, ..record.clone() };
        let made = record.made.iter().filter_map(|made| match &made.place {
            Place::Inside(inside) => Some(inside),
            Place::Host => None,
        });
        let known = insides.values().chain(made).cloned();
        let seen = self.fake.seen(known);
        let circumstances = Circumstances { addresses: next.prefixes(), insides, ..Circumstances::default() };
        let wanted = target::wanted(&next.settings, &circumstances);
        let plan = plan(&wanted, &record.made, &seen, Scope::Everything).unwrap();
        let under_way = Record {
            made: plan.while_under_way.clone(),
            unfinished: true,
            insides: record.insides.clone().into_iter().chain(next.insides.clone()).collect(),
            ..next.clone()
        };
        self.store.save(&under_way).unwrap();
        for (index, change) in plan.changes.iter().enumerate() {
            if index == crash_after {
                return false;
            }
            self.fake.apply(change);
        }
        next.leases.retain(|lease| next.settings.is_plugged(&lease.workload, "web"));
        next.made = plan.made;
        self.store.save(&next).unwrap();
        true
    }

    fn start(&mut self, id: &str) {
        self.living.insert(id.into(), self.next_namespace);
        self.fake.alive.insert(self.next_namespace);
        self.next_namespace += 1;
    }

    fn die(&mut self, id: &str) {
        if let Some(namespace) = self.living.remove(id) {
            self.fake.kill(namespace);
        }
    }

    /// No two workloads with an address, and no address without its lease.
    fn check(&self, what: &str) {
        let record = self.record();
        let mut held: BTreeMap<IpAddr, &Place> = BTreeMap::new();
        for (place, item) in self.fake.items.iter().filter(|(place, _)| *place != Place::Host) {
            let (Item::Address { address, .. }, Place::Inside(inside)) = (item, place) else { continue };
            let other = held.insert(address.address(), place);
            assert!(other.is_none(), "{what}: {address} in {place} and {other:?}");
            let lease = record.leases.iter().find(|lease| lease.address == address.address());
            assert_eq!(lease.map(|lease| &lease.workload), Some(&inside.workload), "{what}: {record:#?}");
        }
        let addresses: BTreeSet<IpAddr> = record.leases.iter().map(|lease| lease.address).collect();
        assert_eq!(addresses.len(), record.leases.len(), "{what}: {:?}", record.leases);
    }
}

/// Numbers without a pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn a_thousand_random_sequences_leave_no_orphan_and_no_double() {
    let ids: Vec<String> = (0..6).map(|n| format!("w{n}")).collect();
    for seed in 1..=1000 {
        let mut model = Model::new();
        let mut dice = Dice(seed * 0x9e37_79b9);
        for step in 0..12 {
            let id = &ids[dice.below(6) as usize];
            let what = format!("seed {seed}, step {step}");
            match dice.below(8) {
                0 | 1 => model.start(id),
                2 => model.die(id),
                // Somebody flushes all rules.
                4 => model.fake.items.retain(|(_, item)| !matches!(item, Item::Table(_))),
                // One more beside those that are known, as a runtime adds it, with the record as it is by then; or one
                // less, which lives on.
                5 => {
                    let mut ids: BTreeSet<String> = model.record().settings.workloads.into_keys().collect();
                    ids.retain(|known| model.living.contains_key(known));
                    if model.living.contains_key(id) && !ids.insert(id.clone()) {
                        ids.remove(id);
                    }
                    model.apply(&ids.into_iter().collect::<Vec<_>>(), usize::MAX);
                }
                // Somebody takes a thing of ours away.
                3 if !model.fake.items.is_empty() => {
                    let victim = dice.below(model.fake.items.len() as u64) as usize;
                    let (place, item) = model.fake.items[victim].clone();
                    model.fake.remove(&place, &item);
                }
                _ => {
                    let living: Vec<String> = model.living.keys().cloned().collect();
                    let crash = if dice.below(2) == 0 { dice.below(12) as usize } else { usize::MAX };
                    model.apply(&living, crash);
                }
            }
            model.check(&what);
        }
        let living: Vec<String> = model.living.keys().cloned().collect();
        assert!(model.apply(&living, usize::MAX));
        model.check("settled");
        let again = model.fake.items.len();
        assert!(model.apply(&living, usize::MAX));
        assert_eq!(model.fake.items.len(), again, "seed {seed}: {:#?}", model.fake.items);
        // Undone: nothing is left in the kernel, in the store or of the settings.
        assert!(model.apply(&[], usize::MAX));
        assert_eq!(model.fake.items, [], "seed {seed}");
        let record = model.record();
        assert!(record.leases.is_empty() && record.made.is_empty() && !record.unfinished, "seed {seed}");
        let forward = model.fake.sysctls.get(&(Place::Host, "net/ipv4/ip_forward".to_owned()));
        assert!(forward.is_none_or(|value| value == "0"), "seed {seed}");
    }
}

fn made(item: Item, before: Option<Item>) -> Made {
    Made { place: Place::Host, owner: None, item, before }
}

fn forwarding(value: &str) -> Item {
    Item::Sysctl { name: "net/ipv4/ip_forward".into(), value: value.into() }
}

fn wanted(item: Item) -> Wanted {
    Wanted { place: Place::Host, owner: None, item, yields: false }
}

#[test]
fn a_setting_is_put_back_unless_somebody_else_has_changed_it() {
    let mut fake = Fake::default();
    let first = plan(&[wanted(forwarding("1"))], &[], &fake.seen([].into_iter()), Scope::Everything).unwrap();
    assert_eq!(first.changes.len(), 1);
    assert_eq!(first.made[0].before, Some(forwarding("0")));
    fake.apply(&first.changes[0]);
    let undo = plan(&[], &first.made, &fake.seen([].into_iter()), Scope::Everything).unwrap();
    assert_eq!(undo.changes, [first.changes[0].inverse()]);
    // It was so before us.
    let already =
        plan(&[wanted(forwarding("1"))], &[], &fake.seen([].into_iter()), Scope::Everything).unwrap();
    assert!(already.changes.is_empty() && already.made.is_empty());
    fake.apply(&Change { place: Place::Host, from: None, to: Some(forwarding("2")) });
    let undo = plan(&[], &first.made, &fake.seen([].into_iter()), Scope::Everything).unwrap();
    assert!(undo.changes.is_empty() && undo.made.is_empty());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let bridge = Item::Bridge { name: "br0".into(), mac: Mac([2; 6]), mtu: 1500 };
    let fake = Fake { foreign: vec!["br0".into()], ..Fake::default() };
    let seen = fake.seen([].into_iter());
    let conflict = plan(&[wanted(bridge.clone())], &[], &seen, Scope::Everything).unwrap_err();
    assert!(conflict.to_string().contains("br0 that is not ours"), "{conflict}");
    // A crash came between the link and its mark: the store knows better.
    let ours = [made(bridge.clone(), None)];
    assert_eq!(plan(&[], &ours, &seen, Scope::Everything).unwrap().changes.len(), 1);
    let repair = plan(&[wanted(bridge)], &ours, &seen, Scope::Everything).unwrap();
    assert_eq!(repair.changes[0].word(), "repair");
}

#[test]
fn a_narrow_plan_leaves_other_workloads_alone() {
    let address: Prefix = "10.77.0.2/28".parse().unwrap();
    let others = Made {
        place: Place::Inside(Inside { workload: "other".into(), namespace: 9 }),
        owner: Some("other".into()),
        item: Item::Address { link: "eth0".into(), address },
        before: None,
    };
    let seen = Fake::default().seen([].into_iter());
    let narrow = plan(&[], std::slice::from_ref(&others), &seen, Scope::Workload("mine")).unwrap();
    assert!(narrow.changes.is_empty());
    assert_eq!(narrow.made, [others]);
}

#[tokio::test]
async fn one_run_at_a_time() {
    let folder = tempfile::TempDir::new().unwrap();
    let first = Store::to_write(folder.path(), Duration::ZERO).await.unwrap();
    let busy = Store::to_write(folder.path(), Duration::from_millis(30)).await.unwrap_err();
    assert!(busy.to_string().contains("another run holds"), "{busy}");
    drop(first);
    Store::to_write(folder.path(), Duration::ZERO).await.unwrap();
}

#[test]
fn a_store_says_what_is_wrong_with_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::to_read(folder.path());
    let record = store.load(HOST).unwrap();
    assert_eq!(record, store.load(HOST).unwrap());
    store.save(&record).unwrap();
    let other = store.load(HOST + 1).unwrap_err().to_string();
    assert!(other.contains("another network namespace (net:[1], this is net:[2])"), "{other}");
    std::fs::write(folder.path().join("network.json"), "{").unwrap();
    assert!(store.load(HOST).unwrap_err().to_string().contains("restore it"), "broken");
    // Nothing outlives a boot.
    let old = Record { boot: "another".into(), ..record.clone() };
    store.save(&old).unwrap();
    assert_eq!(store.load(HOST).unwrap(), record);
}
