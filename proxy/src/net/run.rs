//! A run from start to end: settings and store → namespaces → plan → write down → change → write down.
//!
//! `prepare` decides and changes nothing; `carry_out` acts. Both work on a copy of the record.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::NetError;
use super::ipam::{self, Lease, Wish};
use super::item::{Change, Inside, Item, Place};
use super::kernel::{Kernels, Parting};
use super::namespace::Namespace;
use super::observe::Seen;
use super::overlay;
use super::plan::{self, Plan, Scope};
use super::settings::{Settings, is_attached};
use super::store::{Record, Store};
use super::target::{self, Below, Circumstances, Wanted};

mod ask;
mod carry;
mod host;
mod keep;
mod status;

pub use ask::Ask;
use ask::{from_file, next_settings, overlays_asked_for, scope, without};
use carry::carry_out;
use host::Host;
pub use keep::{Ground, Kept, Update, keep};
pub use status::{Status, WorkloadStatus, status};

/// What a run has done, or would do.
#[derive(Debug)]
pub struct Done {
    pub changes: Vec<Change>,
    /// Workloads whose namespace is gone, which were forgotten.
    pub gone: Vec<String>,
    /// Addresses by workload, afterwards.
    pub addresses: BTreeMap<String, Vec<String>>,
    /// As it is afterwards.
    pub record: Record,
    /// Subnets of this host in networks that it has left, which etcd could not be told of, and why.
    pub unreleased: BTreeMap<String, String>,
}

/// All that `carry_out` needs.
struct Prepared {
    kernels: Kernels,
    plan: Plan,
    /// As it will be when all is done.
    next: Record,
    /// As it is now.
    seen: Seen,
}

/// What `apply` would do now.
pub async fn plan(store: &Store, ask: Ask, collect: bool) -> Result<Done, NetError> {
    let record = store.load(own()?.number())?;
    let gone = if collect { Host::open().await?.gone(&record) } else { Vec::new() };
    let prepared = prepare(&record, &without(ask, &gone)).await?;
    Ok(done(&prepared, gone))
}

/// Does it, all or nothing, for a process that ends soon. With `collect`, workloads whose namespace is gone are
/// forgotten first. A capture that goes is waited for up to `drain`, until the connections by it have ended.
pub async fn apply(store: &Store, ask: Ask, collect: bool, drain: Duration) -> Result<Done, NetError> {
    let mut record = store.load(own()?.number())?;
    let gone = if collect { Host::open().await?.gone(&record) } else { Vec::new() };
    let mut changes = Vec::new();
    // In a step of their own: only then are their addresses free.
    for workload in &gone {
        let prepared = prepare(&record, &Ask::Without(workload.clone())).await?;
        carry_out(store, &record, &prepared, Parting::AT_ONCE).await?;
        changes.extend(prepared.plan.changes);
        record = prepared.next;
    }
    let mut done = apply_by(store, &record, &without(ask, &gone), Parting::Brief { drain }).await?;
    changes.append(&mut done.changes);
    let unreleased = overlay::release(&record, &done.record).await;
    Ok(Done { changes, gone, unreleased, ..done })
}

/// The same from a record that was loaded under the lock that is still held.
pub async fn apply_to(store: &Store, record: &Record, ask: &Ask) -> Result<Done, NetError> {
    apply_by(store, record, ask, Parting::AT_ONCE).await
}

async fn apply_by(store: &Store, record: &Record, ask: &Ask, parting: Parting) -> Result<Done, NetError> {
    let prepared = prepare(record, ask).await?;
    carry_out(store, record, &prepared, parting).await?;
    Ok(done(&prepared, Vec::new()))
}

fn done(prepared: &Prepared, gone: Vec<String>) -> Done {
    let next = &prepared.next;
    let shown = |id: &String| next.addresses(id).iter().map(ToString::to_string).collect();
    let addresses = next.settings.workloads.keys().map(|id| (id.clone(), shown(id))).collect();
    Done {
        changes: prepared.plan.changes.clone(),
        gone,
        addresses,
        record: next.clone(),
        unreleased: BTreeMap::new(),
    }
}

/// Recorded workloads of which nothing is left: neither a namespace nor a link on the host.
pub async fn gone(store: &Store) -> Result<Vec<String>, NetError> {
    let record = store.load(own()?.number())?;
    let host = Host::open().await?;
    let has_link = |id: &String| record.insides.get(id).is_some_and(|inside| host.has_cable(&record, inside));
    Ok(host.gone(&record).into_iter().filter(|id| !has_link(id)).collect())
}

fn own() -> Result<Namespace, NetError> {
    Namespace::own().map_err(|source| NetError::Kernel { what: "the host's namespace".into(), source })
}

async fn prepare(record: &Record, ask: &Ask) -> Result<Prepared, NetError> {
    let settings = next_settings(record, ask)?;
    let is_leased = |network: &&String| record.overlays.contains_key(*network);
    if let Some(network) = overlays_asked_for(&settings, ask).find(|network| !is_leased(network)) {
        return Err(NetError::NoSubnet(network.clone()));
    }
    let mut host = Host::open().await?;
    let insides = arriving(&settings, scope(ask), &mut host.kernels)?;
    decide(record, ask, settings, (host, insides)).await
}

/// What is to be done, once the namespaces of those who come are open.
async fn decide(
    record: &Record,
    ask: &Ask,
    settings: Settings,
    (mut host, insides): (Host, BTreeMap<String, Inside>),
) -> Result<Prepared, NetError> {
    if let Some((port, one, other)) = settings.port_of_two() {
        let (one, other) = (one.to_owned(), other.to_owned());
        return Err(NetError::SamePort { port: port.host, protocol: port.protocol, one, other });
    }
    let scope = scope(ask);
    let has_networks = !settings.networks.is_empty() || !record.settings.networks.is_empty();
    let own = own()?.number();
    if let Some(inside) = insides.values().find(|inside| inside.namespace == own && has_networks) {
        // Two tables of one name cannot be.
        return Err(NetError::OwnNamespace(inside.workload.clone()));
    }
    host.add_staying(record, scope)?;
    let (leases, last) = addresses(record, &overlay::effective(&settings, &record.overlays), scope)?;
    let from_file = from_file(record, ask);
    let overlays = overlay::of(&settings, record);
    let next = Record { leases, last, from_file, overlays, unfinished: false, ..record.clone() };
    let next = Record { insides: merged(record, &settings, &insides), settings, ..next };
    let (kernels, wanted, seen) = look(host, record, &next, insides).await?;
    let plan = plan::plan(&wanted, &record.made, &seen, scope)?;
    let networks = next.effective().networks;
    let stays = |lease: &&Lease| {
        // What has been leased anew has none of the old addresses in it.
        let subnets = networks.get(&lease.network).map(|network| &network.subnets);
        let fits = subnets.is_none_or(|subnets| subnets.iter().any(|subnet| subnet.contains(lease.address)));
        fits && next.settings.is_plugged(&lease.workload, &lease.network)
    };
    let leases = next.leases.iter().filter(stays).cloned().collect();
    let next = Record { leases, made: plan.made.clone(), ..next };
    Ok(Prepared { kernels, plan, next, seen })
}

/// Opens the namespaces of the workloads that should be there.
fn arriving(
    settings: &Settings,
    scope: Scope<'_>,
    kernels: &mut Kernels,
) -> Result<BTreeMap<String, Inside>, NetError> {
    let mut insides: BTreeMap<String, Inside> = BTreeMap::new();
    for (id, workload) in settings.workloads.iter().filter(|(id, _)| scope.includes(Some(id))) {
        let path = workload.namespace.path();
        let failed = |source| NetError::Namespace { workload: id.clone(), path: path.clone(), source };
        let namespace = Namespace::open(&path).map_err(failed)?;
        let inside = Inside { workload: id.clone(), namespace: namespace.number() };
        if let Some(other) = in_its_way(&insides, &inside) {
            return Err(NetError::SameNamespace(other.clone(), id.clone()));
        }
        add(kernels, Place::Inside(inside.clone()), namespace)?;
        insides.insert(id.clone(), inside);
    }
    Ok(insides)
}

/// Another workload that has the namespace already. A runtime attaches a container to several networks.
fn in_its_way<'a>(insides: &'a BTreeMap<String, Inside>, inside: &Inside) -> Option<&'a String> {
    let apart = |other: &String| !is_attached(&inside.workload) || !is_attached(other);
    let mut same = insides.iter().filter(|(_, known)| known.namespace == inside.namespace);
    same.find(|(other, _)| apart(other)).map(|(other, _)| other)
}

fn add(kernels: &mut Kernels, place: Place, namespace: Namespace) -> Result<(), NetError> {
    let what = format!("sockets for {place}");
    kernels.add(place, namespace).map_err(|source| NetError::Kernel { what, source })
}

fn reading(place: &Place, source: io::Error) -> NetError {
    NetError::Kernel { what: format!("reading {place}"), source }
}

/// Leases of all who come, besides those of all who are there: an address is free once its holder has left.
fn addresses(
    record: &Record,
    settings: &Settings,
    scope: Scope<'_>,
) -> Result<(Vec<Lease>, BTreeSet<std::net::IpAddr>), NetError> {
    let (mut leases, mut last) = (record.leases.clone(), record.last.clone());
    for (id, workload) in settings.workloads.iter().filter(|(id, _)| scope.includes(Some(id))) {
        let Some(plug) = &workload.plug else { continue };
        // The settings name no network that they do not have.
        let Some(network) = settings.networks.get(&plug.network) else { continue };
        let wish =
            Wish { network: &plug.network, workload: id, subnets: &network.subnets, fixed: &plug.addresses };
        ipam::allocate(&wish, &mut leases, &mut last)?;
    }
    Ok((leases, last))
}

/// The namespaces of all workloads afterwards.
fn merged(
    record: &Record,
    settings: &Settings,
    arriving: &BTreeMap<String, Inside>,
) -> BTreeMap<String, Inside> {
    let known = |id: &String| arriving.get(id).or_else(|| record.insides.get(id)).cloned();
    settings.workloads.keys().filter_map(|id| Some((id.clone(), known(id)?))).collect()
}

/// Reads all other places, and says what should be in them.
async fn look(
    host: Host,
    record: &Record,
    next: &Record,
    insides: BTreeMap<String, Inside>,
) -> Result<(Kernels, Vec<Wanted>, Seen), NetError> {
    let Host { kernels, view } = host;
    let mut seen = Seen { places: [(Place::Host, view)].into() };
    for place in kernels.places().filter(|place| **place != Place::Host) {
        let view = kernels.view(place).await.map_err(|source| reading(place, source))?;
        seen.places.insert(place.clone(), view);
    }
    let below = seen.places.get(&Place::Host).map_or_else(Below::default, |host| Below::of(&host.dump));
    let (addresses, overlays) = (next.prefixes(), overlay::without_strangers(next, &seen));
    let circumstances = Circumstances { addresses, insides, below, overlays };
    let wanted = target::wanted(&next.effective(), &circumstances);
    for place in kernels.places() {
        let items = wanted.iter().map(|wanted| (&wanted.place, &wanted.item));
        let items = items.chain(record.made.iter().map(|made| (&made.place, &made.item)));
        let (mut names, mut links) = (BTreeSet::new(), BTreeSet::new());
        let (mut has_neighbours, mut has_steering) = (false, false);
        for (_, item) in items.filter(|(at, _)| *at == place) {
            match item {
                Item::Sysctl { name, .. } => drop(names.insert(name.clone())),
                Item::Checksums { link } => drop(links.insert(link.clone())),
                Item::Neighbour { .. } | Item::Forward { .. } => has_neighbours = true,
                Item::MarkRule(_) | Item::WayIn { .. } => has_steering = true,
                _ => (),
            }
        }
        let Some(view) = seen.places.get_mut(place) else { continue };
        let failed = |source| reading(place, source);
        view.sysctls = kernels.sysctls(place, &names).map_err(failed)?;
        view.offloads = kernels.offloads(place, &links).map_err(failed)?;
        if has_neighbours {
            view.neighbours = kernels.neighbours(place).await.map_err(failed)?;
        }
        if has_steering {
            view.steering = kernels.steering(place).await.map_err(failed)?;
        }
    }
    Ok((kernels, wanted, seen))
}
