//! A run from start to end: settings and store → namespaces → plan → write down → change → write down.
//!
//! `prepare` decides and changes nothing; `carry_out` acts. Both work on a copy of the record.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::NetError;
use super::ipam::{self, Lease, Wish};
use super::item::{Change, Inside, Item, Place};
use super::kernel::Kernels;
use super::namespace::Namespace;
use super::observe::Seen;
use super::plan::{self, Plan, Scope};
use super::settings::Settings;
use super::store::{Record, Store};
use super::target::{self, Below, Circumstances, Wanted};

mod status;

pub use status::{Status, WorkloadStatus, status};

/// What a run is asked to bring about.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The whole file, and nothing else of ours.
    Whole(Settings),
    /// One workload of the file; the others stay as they are.
    One(Settings, String),
    Nothing,
    Without(String),
}

/// What a run has done, or would do.
#[derive(Debug)]
pub struct Done {
    pub changes: Vec<Change>,
    /// Workloads whose namespace is gone, which were forgotten.
    pub gone: Vec<String>,
    /// Addresses by workload, afterwards.
    pub addresses: BTreeMap<String, Vec<String>>,
}

/// All that `carry_out` needs.
struct Prepared {
    kernels: Kernels,
    plan: Plan,
    /// As it will be when all is done.
    next: Record,
}

/// What `apply` would do now.
pub async fn plan(store: &Store, ask: Ask, collect: bool) -> Result<Done, NetError> {
    let record = store.load(own()?.number())?;
    let gone = if collect { Host::open().await?.gone(&record) } else { Vec::new() };
    let prepared = prepare(&record, &without(ask, &gone)).await?;
    Ok(done(&prepared, gone))
}

/// Does it, all or nothing. With `collect`, workloads whose namespace is gone are forgotten first.
pub async fn apply(store: &Store, ask: Ask, collect: bool) -> Result<Done, NetError> {
    let mut record = store.load(own()?.number())?;
    let gone = if collect { Host::open().await?.gone(&record) } else { Vec::new() };
    let mut changes = Vec::new();
    // In a step of their own: only then are their addresses free.
    for workload in &gone {
        let prepared = prepare(&record, &Ask::Without(workload.clone())).await?;
        carry_out(store, &record, &prepared).await?;
        changes.extend(prepared.plan.changes);
        record = prepared.next;
    }
    let prepared = prepare(&record, &without(ask, &gone)).await?;
    carry_out(store, &record, &prepared).await?;
    let mut done = done(&prepared, gone);
    changes.append(&mut done.changes);
    Ok(Done { changes, ..done })
}

fn done(prepared: &Prepared, gone: Vec<String>) -> Done {
    let next = &prepared.next;
    let shown = |id: &String| next.addresses(id).iter().map(ToString::to_string).collect();
    let addresses = next.settings.workloads.keys().map(|id| (id.clone(), shown(id))).collect();
    Done { changes: prepared.plan.changes.clone(), gone, addresses }
}

fn own() -> Result<Namespace, NetError> {
    Namespace::own().map_err(|source| NetError::Kernel { what: "the host's namespace".into(), source })
}

/// The host's kernel, and the links it has.
struct Host {
    kernels: Kernels,
    links: BTreeSet<String>,
}

impl Host {
    async fn open() -> Result<Self, NetError> {
        let mut kernels = Kernels::default();
        add(&mut kernels, Place::Host, own()?)?;
        let view = kernels.view(&Place::Host).await.map_err(|source| reading(&Place::Host, source))?;
        Ok(Self { kernels, links: view.dump.links.into_iter().map(|link| link.name).collect() })
    }

    /// Recorded workloads whose namespace cannot be found any more.
    fn gone(&self, record: &Record) -> Vec<String> {
        let is_gone = |id: &&String| {
            let inside = record.insides.get(*id);
            inside.and_then(|inside| self.reach(record, inside)).is_none()
        };
        record.settings.workloads.keys().filter(is_gone).cloned().collect()
    }

    /// The namespace of a recorded workload: by its path, or else by its number, which is its own for as long as its
    /// cable is there.
    fn reach(&self, record: &Record, inside: &Inside) -> Option<Namespace> {
        let path = record.settings.workloads.get(&inside.workload)?.namespace.path();
        let by_path = Namespace::open(&path).ok().filter(|found| found.number() == inside.namespace);
        by_path.or_else(|| Namespace::find(inside.namespace).filter(|_| self.has_cable(record, inside)))
    }

    /// Opens the other namespaces that we have made something in, as far as they live.
    fn add_staying(&mut self, record: &Record, scope: Scope<'_>) -> Result<(), NetError> {
        for place in record.made.iter().map(|made| &made.place) {
            let Place::Inside(inside) = place else { continue };
            if !scope.includes(Some(&inside.workload)) || self.kernels.places().any(|known| known == place) {
                continue;
            }
            if let Some(namespace) = self.reach(record, inside) {
                add(&mut self.kernels, place.clone(), namespace)?;
            }
        }
        Ok(())
    }

    fn has_cable(&self, record: &Record, inside: &Inside) -> bool {
        record.made.iter().any(|made| {
            matches!(&made.item, Item::Cable { name, at, .. } if at == inside && self.links.contains(name))
        })
    }
}

fn without(ask: Ask, gone: &[String]) -> Ask {
    match ask {
        Ask::Whole(mut settings) => {
            settings.workloads.retain(|id, _| !gone.contains(id));
            Ask::Whole(settings)
        }
        other => other,
    }
}

/// Which settings hold afterwards.
fn next_settings(record: &Record, ask: &Ask) -> Result<Settings, NetError> {
    match ask {
        Ask::Whole(settings) => Ok(settings.clone()),
        Ask::Nothing => Ok(Settings::default()),
        Ask::Without(workload) => {
            let mut settings = record.settings.clone();
            settings.workloads.remove(workload);
            Ok(settings)
        }
        Ask::One(file, id) => {
            let workload = file.workloads.get(id).ok_or_else(|| NetError::UnknownWorkload(id.clone()))?;
            let mut settings = record.settings.clone();
            for (name, network) in &file.networks {
                let in_force = settings.networks.entry(name.clone()).or_insert_with(|| network.clone());
                if in_force != network {
                    return Err(NetError::OtherNetwork(name.clone()));
                }
            }
            settings.workloads.insert(id.clone(), workload.clone());
            Ok(settings)
        }
    }
}

fn scope(ask: &Ask) -> Scope<'_> {
    match ask {
        Ask::Whole(_) | Ask::Nothing => Scope::Everything,
        Ask::One(_, workload) | Ask::Without(workload) => Scope::Workload(workload),
    }
}

async fn prepare(record: &Record, ask: &Ask) -> Result<Prepared, NetError> {
    let settings = next_settings(record, ask)?;
    let scope = scope(ask);
    let mut host = Host::open().await?;
    let has_networks = !settings.networks.is_empty() || !record.settings.networks.is_empty();
    let insides = arriving(&settings, scope, &mut host.kernels)?;
    let own = own()?.number();
    if let Some(inside) = insides.values().find(|inside| inside.namespace == own && has_networks) {
        // Two tables of one name cannot be.
        return Err(NetError::OwnNamespace(inside.workload.clone()));
    }
    host.add_staying(record, scope)?;
    let kernels = host.kernels;
    let (leases, last) = addresses(record, &settings, scope)?;
    let next = Record { leases, last, unfinished: false, ..record.clone() };
    let next = Record { insides: merged(record, &settings, &insides), settings, ..next };
    let (wanted, seen) = look(&kernels, record, &next, insides).await?;
    let plan = plan::plan(&wanted, &record.made, &seen, scope)?;
    let leases = next.leases.iter().filter(|lease| next.settings.is_plugged(&lease.workload, &lease.network));
    let leases = leases.cloned().collect();
    let next = Record { leases, made: plan.made.clone(), ..next };
    Ok(Prepared { kernels, plan, next })
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
        if let Some((other, _)) = insides.iter().find(|(_, other)| other.namespace == inside.namespace) {
            return Err(NetError::SameNamespace(other.clone(), id.clone()));
        }
        add(kernels, Place::Inside(inside.clone()), namespace)?;
        insides.insert(id.clone(), inside);
    }
    Ok(insides)
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

/// Reads all places, and says what should be in them.
async fn look(
    kernels: &Kernels,
    record: &Record,
    next: &Record,
    insides: BTreeMap<String, Inside>,
) -> Result<(Vec<Wanted>, Seen), NetError> {
    let mut seen = Seen::default();
    for place in kernels.places() {
        let view = kernels.view(place).await.map_err(|source| reading(place, source))?;
        seen.places.insert(place.clone(), view);
    }
    let below = seen.places.get(&Place::Host).map_or_else(Below::default, |host| Below::of(&host.dump));
    let wanted =
        target::wanted(&next.settings, &Circumstances { addresses: next.prefixes(), insides, below });
    for place in kernels.places() {
        let items = wanted.iter().map(|wanted| (&wanted.place, &wanted.item));
        let items = items.chain(record.made.iter().map(|made| (&made.place, &made.item)));
        let names: BTreeSet<String> = items
            .filter_map(|(at, item)| match item {
                Item::Sysctl { name, .. } if at == place => Some(name.clone()),
                _ => None,
            })
            .collect();
        let values = kernels.sysctls(place, &names).map_err(|source| reading(place, source))?;
        if let Some(view) = seen.places.get_mut(place) {
            view.sysctls = values;
        }
    }
    Ok((wanted, seen))
}

/// The record says what is about to happen before it does. On an error, everything is taken back.
async fn carry_out(store: &Store, record: &Record, prepared: &Prepared) -> Result<(), NetError> {
    let Prepared { kernels, plan, next } = prepared;
    if plan.changes.is_empty() {
        if record != next {
            store.save(next)?;
        }
        return Ok(());
    }
    let under_way = Record {
        made: plan.while_under_way.clone(),
        leases: union(&record.leases, &next.leases),
        unfinished: true,
        // What leaves is still looked for where it is recorded.
        settings: record.settings.clone().with(&next.settings),
        insides: record.insides.clone().into_iter().chain(next.insides.clone()).collect(),
        ..next.clone()
    };
    store.save(&under_way)?;
    for (index, change) in plan.changes.iter().enumerate() {
        if let Err(source) = kernels.apply(change).await {
            return Err(take_back(store, record, prepared, index, source).await);
        }
    }
    if let Err(source) = kernels.prove().await {
        return Err(take_back(store, record, prepared, plan.changes.len() - 1, source).await);
    }
    store.save(next)?;
    Ok(())
}

/// Backwards from the change that failed, which may have done a part of its work.
async fn take_back(
    store: &Store,
    record: &Record,
    prepared: &Prepared,
    failed: usize,
    source: io::Error,
) -> NetError {
    let change = prepared.plan.changes[failed].to_string();
    let mut rest = Vec::new();
    let renewed = prepared.kernels.renewed();
    let kernels = renewed.as_ref().unwrap_or(&prepared.kernels);
    // A setting is written whole or not at all.
    let is_setting = matches!(prepared.plan.changes[failed].to, Some(Item::Sysctl { .. }));
    let count = if is_setting { failed } else { failed + 1 };
    for done in prepared.plan.changes[..count].iter().rev() {
        if let Err(error) = kernels.apply(&done.inverse()).await {
            rest.push(format!("{}: {error}", done.inverse()));
        }
    }
    if let Err(error) = kernels.prove().await {
        rest.push(error.to_string());
    }
    if rest.is_empty()
        && let Err(error) = store.save(record)
    {
        rest.push(error.to_string());
    }
    if rest.is_empty() {
        NetError::TakenBack { change, source }
    } else {
        NetError::Stuck { change, source, rest: rest.join("; ") }
    }
}

fn union(one: &[Lease], other: &[Lease]) -> Vec<Lease> {
    let mut all = [one, other].concat();
    all.sort();
    all.dedup();
    all
}
