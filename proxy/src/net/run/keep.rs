//! A run of the process that stays: what is recorded comes back, and what is missing now is no error.
//!
//! It differs from `apply` in two ways. A workload whose namespace is not there waits, and its neighbours are served;
//! and what others have added beside the file, workload by workload, stays until they remove it or it is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::NetError;
use super::super::item::{Change, Inside, Item, Place};
use super::super::kernel::Parting;
use super::super::links::notice::Interest;
use super::super::namespace::Namespace;
use super::super::observe::Seen;
use super::super::overlay;
use super::super::overlay::underlay::Underlay;
use super::super::plan::Made;
use super::super::settings::{Network, Settings};
use super::super::store::{Record, Store};
use super::ask::with_networks;
use super::{Ask, Host, Prepared, add, carry_out, decide, in_its_way, next_settings, own, prepare};

/// What is new since the last run.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// A file that is to come into force.
    pub file: Option<Settings>,
    /// What is known of networks on many hosts; `None` is that this host has no part in it any more.
    pub overlays: BTreeMap<String, Option<overlay::State>>,
}

/// What such a run has found and left.
#[derive(Debug)]
pub struct Kept {
    pub changes: Vec<Change>,
    /// Workloads beside the file whose namespace is gone, which were forgotten.
    pub gone: Vec<String>,
    /// What was left out, since something of somebody else's is there.
    pub yielded: Vec<Item>,
    /// Overlays whose ranges another network is in the way of: how.
    pub clashes: BTreeMap<String, String>,
    /// Where the other hosts are, by network, or why that cannot be told.
    pub underlays: BTreeMap<String, Result<Underlay, String>>,
    /// Workloads that are not served, and why.
    pub waiting: BTreeMap<String, String>,
    /// Workloads in whose namespace nothing was ours before.
    pub arrived: BTreeSet<String>,
    pub record: Record,
    pub grounds: Vec<Ground>,
}

/// A namespace in which something is ours, and what in it concerns us.
#[derive(Debug)]
pub struct Ground {
    pub place: Place,
    pub namespace: Namespace,
    pub interest: Interest,
    pub has_table: bool,
}

/// All or nothing, as ever.
pub async fn keep(store: &Store, update: Update) -> Result<Kept, NetError> {
    let mut record = store.load(own()?.number())?;
    let mut changes = Vec::new();
    let gone = Host::open().await?.gone(&record);
    let gone: Vec<String> = gone.into_iter().filter(|id| !record.from_file.workloads.contains(id)).collect();
    for workload in &gone {
        let prepared = prepare(&record, &Ask::Without(workload.clone())).await?;
        carry_out(store, &record, &prepared, Parting::Whole).await?;
        changes.extend(prepared.plan.changes);
        record = prepared.next;
    }
    let ask = update.file.map_or(Ask::Recorded, Ask::Follow);
    let settings = next_settings(&record, &ask)?;
    let (informed, clashes) = informed(&record, &settings, update.overlays);
    let mut host = Host::open().await?;
    let (insides, waiting) = present(&settings, &informed, &mut host)?;
    let prepared = decide(&informed, &ask, settings, (host, insides)).await?;
    // What is taken back is taken back to what was recorded.
    carry_out(store, &record, &prepared, Parting::Whole).await?;
    let grounds = grounds(&prepared)?;
    let is_new = |place: &&Place| !record.made.iter().any(|made| made.place == **place);
    let arrived = prepared.kernels.places().filter(is_new).filter_map(|place| match place {
        Place::Host => None,
        Place::Inside(inside) => Some(inside.workload.clone()),
    });
    let arrived = arrived.collect();
    let underlays = underlays(&prepared);
    let Prepared { plan, next, .. } = prepared;
    changes.extend(plan.changes);
    let yielded = plan.yielded;
    Ok(Kept { changes, gone, yielded, clashes, underlays, waiting, arrived, record: next, grounds })
}

/// The record with what has been learned of networks on many hosts. A plan that clashes with another network of this
/// host is not learned, and what was known before holds.
fn informed(
    record: &Record,
    settings: &Settings,
    news: BTreeMap<String, Option<overlay::State>>,
) -> (Record, BTreeMap<String, String>) {
    let (mut record, mut clashes) = (record.clone(), BTreeMap::new());
    for (network, state) in news {
        match state {
            Some(state) => {
                if let Some(clash) = overlay::clash(&network, &state.plan, settings, &record.overlays) {
                    clashes.insert(network, clash);
                    continue;
                }
                record.previous.insert(network.clone(), state.subnets);
                record.overlays.insert(network, state);
            }
            None => drop(record.overlays.remove(&network)),
        }
    }
    record.overlays = overlay::of(settings, &record);
    (record, clashes)
}

fn underlays(prepared: &Prepared) -> BTreeMap<String, Result<Underlay, String>> {
    let Some(host) = prepared.seen.places.get(&Place::Host) else { return BTreeMap::new() };
    let of_one = |(name, network): (&String, &Network)| {
        let overlay = network.overlay.as_ref()?;
        Some((name.clone(), Underlay::of(&host.dump, overlay.interface.as_deref())))
    };
    prepared.next.settings.networks.iter().filter_map(of_one).collect()
}

/// The file's entries, and those of the record that no file has named.
pub(super) fn followed(record: &Record, file: &Settings) -> Result<Settings, NetError> {
    let mut settings = record.settings.clone();
    let named = &record.from_file;
    settings.workloads.retain(|id, _| !file.workloads.contains_key(id) && !named.workloads.contains(id));
    let in_use: BTreeSet<String> = settings.networks_in_use().map(str::to_owned).collect();
    let stays = |name: &String| !named.networks.contains(name) || in_use.contains(name);
    settings.networks.retain(|name, _| !file.networks.contains_key(name) && stays(name));
    let mut settings = with_networks(&settings, file)?;
    settings.workloads.extend(file.workloads.clone());
    Ok(settings)
}

type Present = (BTreeMap<String, Inside>, BTreeMap<String, String>);

/// Opens the namespaces that are there. The others' workloads wait, each with its reason.
fn present(settings: &Settings, record: &Record, host: &mut Host) -> Result<Present, NetError> {
    let own = own()?.number();
    let has_networks = !settings.networks.is_empty() || !record.settings.networks.is_empty();
    let (mut insides, mut waiting) = (BTreeMap::<String, Inside>::new(), BTreeMap::new());
    for (id, workload) in &settings.workloads {
        let path = workload.namespace.path();
        let recorded = record.insides.get(id).and_then(|inside| host.reach(record, inside));
        let namespace = match Namespace::open(&path).or_else(|error| recorded.ok_or(error)) {
            Ok(namespace) => namespace,
            Err(error) => {
                waiting.insert(id.clone(), format!("its namespace, {}: {error}", path.display()));
                continue;
            }
        };
        let inside = Inside { workload: id.clone(), namespace: namespace.number() };
        if inside.namespace == own && has_networks {
            waiting.insert(id.clone(), NetError::OwnNamespace(id.clone()).to_string());
        } else if let Some(other) = in_its_way(&insides, &inside) {
            let same = NetError::SameNamespace(other.clone(), id.clone());
            waiting.insert(id.clone(), same.to_string());
        } else {
            add(&mut host.kernels, Place::Inside(inside.clone()), namespace)?;
            insides.insert(id.clone(), inside);
        }
        let network = workload.plug.as_ref().map(|plug| &plug.network);
        let is_leased = |name: &String| {
            let network = settings.networks.get(name);
            network.is_none_or(|network| network.overlay.is_none()) || record.overlays.contains_key(name)
        };
        if let Some(network) = network.filter(|network| !is_leased(network)) {
            waiting.entry(id.clone()).or_insert_with(|| NetError::NoSubnet(network.clone()).to_string());
        }
    }
    Ok((insides, waiting))
}

fn grounds(prepared: &Prepared) -> Result<Vec<Ground>, NetError> {
    let of_place = |place: &Place| {
        let namespace = prepared.kernels.namespace(place);
        let what = format!("the namespace of {place}");
        let namespace = namespace.map_err(|source| NetError::Kernel { what, source })?;
        let links = links(place, &prepared.next, &prepared.seen);
        let view = prepared.seen.places.get(place);
        let there = view.map_or(&[][..], |view| view.dump.links.as_slice()).iter();
        let indexes = there.filter(|link| links.contains(&link.name)).map(|link| link.index).collect();
        let is_here = |made: &&Made| made.place == *place;
        let mut made = prepared.next.made.iter().filter(is_here);
        let has_table = made.any(|made| matches!(made.item, Item::Table(_)));
        let mut made = prepared.next.made.iter().filter(is_here);
        let neighbours = made.any(|made| matches!(made.item, Item::Neighbour { .. } | Item::Forward { .. }));
        let interest = Interest { links, indexes, neighbours };
        Ok(Ground { place: place.clone(), namespace, interest, has_table })
    };
    prepared.kernels.places().map(of_place).collect()
}

/// Ours, those that something of ours is on, and those that lead out.
fn links(place: &Place, record: &Record, seen: &Seen) -> BTreeSet<String> {
    let mut links = BTreeSet::new();
    for made in &record.made {
        if made.place == *place {
            links.extend(made.item.link().map(str::to_owned));
        }
        if let Item::Cable { peer, at, .. } = &made.item
            && *place == Place::Inside(at.clone())
        {
            links.insert(peer.clone());
        }
    }
    let routes = seen.places.get(place).map_or(&[][..], |view| view.dump.routes.as_slice()).iter();
    links.extend(routes.filter(|route| route.to.length() == 0).map(|route| route.link.clone()));
    if *place == Place::Host {
        let overlays = record.settings.networks.values().filter_map(|network| network.overlay.as_ref());
        links.extend(overlays.filter_map(|overlay| overlay.interface.clone()));
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::settings::{NamespaceRef, Network, Plug, Workload};
    use crate::net::store::Names;

    fn settings(networks: &[&str], workloads: &[(&str, &str)]) -> Settings {
        let network = |name: &&str| {
            let network = Network {
                bridge: format!("or-{name}"),
                subnets: vec![format!("10.77.{}.0/24", name.as_bytes()[0]).parse().unwrap()],
                mtu: None,
                masquerade: true,
                isolated: true,
                static_neighbours: false,
                overlay: None,
                whole: vec![],
            };
            ((*name).to_owned(), network)
        };
        let workload = |(id, network): &(&str, &str)| {
            let plug = Plug {
                network: (*network).to_owned(),
                interface: "eth0".into(),
                addresses: vec![],
                unrouted: vec![],
                publish: vec![],
            };
            let namespace = NamespaceRef::Process(7);
            ((*id).to_owned(), Workload { namespace, plug: Some(plug), capture: None, door: None })
        };
        Settings {
            networks: networks.iter().map(network).collect(),
            workloads: workloads.iter().map(workload).collect(),
        }
    }

    fn names(settings: &Settings) -> String {
        let all = settings.networks.keys().chain(settings.workloads.keys());
        all.cloned().collect::<Vec<_>>().join(" ")
    }

    /// What came by itself goes by itself; what the file named goes with the file, but for networks in use.
    #[test]
    fn a_file_changes_what_it_named_and_nothing_else() {
        let first = settings(&["web", "db"], &[("a", "web"), ("b", "db")]);
        let beside = settings(&["cni"], &[("pod", "cni"), ("guest", "db")]);
        let record =
            Record { from_file: Names::of(&first), settings: first.with(&beside), ..Record::default() };
        let second = settings(&["web"], &[("c", "web")]);
        assert_eq!(names(&followed(&record, &second).unwrap()), "cni db web c guest pod");
        assert_eq!(names(&followed(&record, &Settings::default()).unwrap()), "cni db guest pod");
        assert_eq!(names(&followed(&Record::default(), &second).unwrap()), "web c");
    }
}
