//! From configuration, catalogue and policy pins to the next snapshot: a pure function.
//!
//! What has not changed is shared with the snapshot before, by pointer: endpoints, their counters, lists, pools and
//! the route table. Workers compare pointers, so the cost of a change follows the change, not the catalogue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::config::{Backend, Config, PolicyUse, RouteAction, ServiceSettings};
use crate::link::Slot;
use crate::snapshot::{
    Catalogue, Digest, Endpoint, EndpointRecord, EndpointState, EndpointStatus, PolicyRef, Pool, Route,
    RouteTable, RouteTarget, Router, Snapshot,
};

/// A snapshot and what the next one is built from.
#[derive(Debug)]
pub struct World {
    pub snapshot: Arc<Snapshot>,
    /// Of every service of the catalogue, with the endpoints that no pool has because they are draining or down.
    pub members: BTreeMap<Arc<str>, Arc<Members>>,
}

/// What the catalogue says about one service. Both lists are in order of endpoint id and parallel.
#[derive(Debug)]
pub struct Members {
    pub records: Vec<EndpointRecord>,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Which component serves a policy name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub digest: Digest,
    pub epoch: u64,
}

/// By policy name.
pub type Pins = HashMap<Arc<str>, Pin>;

/// A policy in use has no pin: control has not loaded it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy `{0}` is not loaded")]
pub struct Unpinned(pub String);

impl World {
    /// The world after `previous`. Its version is one higher, even if nothing else differs.
    pub fn next(
        previous: Option<&Self>,
        config: &Arc<Config>,
        catalogue: &Catalogue,
        pins: &Pins,
    ) -> Result<Self, Unpinned> {
        let members = members(previous, catalogue);
        let names = service_names(config, &members);
        let old =
            previous.map_or(&[][..], |p| &p.snapshot.pools).iter().map(|pool| (&*pool.name, pool)).collect();
        let mut pools = Pools { previous, old, pools: Vec::new(), config, pins, members: &members };
        for name in &names {
            pools.add(name, &BTreeMap::new())?;
        }
        let services = shared_services(previous, &names);
        let labelled = pools.add_labelled(&names)?;
        let routes = pools.routes(&services, &labelled)?;
        let pools = pools.pools;
        let version = previous.map_or(0, |p| p.snapshot.version) + 1;
        let snapshot = Arc::new(Snapshot { version, config: Arc::clone(config), pools, services, routes });
        Ok(Self { snapshot, members })
    }

    /// Whether a worker would notice no difference.
    pub fn same_as(&self, other: &Self) -> bool {
        let (a, b) = (&*self.snapshot, &*other.snapshot);
        *a.config == *b.config
            && Arc::ptr_eq(&a.routes, &b.routes)
            && Arc::ptr_eq(&a.services, &b.services)
            && same_items(&a.pools, &b.pools)
    }

    /// Every place that a policy's instance may fill.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let pools = self.snapshot.pools.iter().map(|pool| Slot::Balancer(Arc::clone(&pool.name)));
        let routes = self.snapshot.routes.routes().iter();
        let routers = routes.filter(|route| matches!(route.target, RouteTarget::Router(_)));
        pools.chain(routers.map(|route| Slot::Router(Arc::clone(&route.name))))
    }

    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.snapshot.pools.iter().find(|pool| &*pool.name == name)
    }
}

/// Of a service's settings: its own, or the defaults.
pub fn settings_of<'a>(config: &'a Config, service: &str) -> &'a ServiceSettings {
    config.services.get(service).unwrap_or(&config.defaults)
}

/// `web`, or `web{version=v2,zone=a}`.
pub fn pool_name(service: &str, labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return service.to_owned();
    }
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{service}{{{}}}", labels.join(","))
}

/// Stable over updates, workers and restarts: the first bytes of the SHA-256 of the address as text.
pub fn endpoint_id(address: &str) -> u64 {
    let hash = Sha256::digest(address.as_bytes());
    hash.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// The pools of one snapshot as they are put together.
struct Pools<'a> {
    previous: Option<&'a World>,
    /// By name.
    old: HashMap<&'a str, &'a Arc<Pool>>,
    pools: Vec<Arc<Pool>>,
    config: &'a Config,
    pins: &'a Pins,
    members: &'a BTreeMap<Arc<str>, Arc<Members>>,
}

impl Pools<'_> {
    fn add(&mut self, service: &Arc<str>, labels: &BTreeMap<String, String>) -> Result<usize, Unpinned> {
        let name = pool_name(service, labels);
        let settings = settings_of(self.config, service);
        let balancer = self.pinned(&settings.balancer)?;
        let old = self.old.get(name.as_str()).copied();
        let endpoints = self.endpoints(service, labels, old);
        let index = self.pools.len();
        let pool = match old {
            Some(old)
                if Arc::ptr_eq(&old.endpoints, &endpoints)
                    && *old.settings == *settings
                    && old.balancer == balancer =>
            {
                Arc::clone(old)
            }
            _ => Arc::new(Pool {
                name: old.map_or_else(|| name.into(), |o| Arc::clone(&o.name)),
                service: Arc::clone(service),
                settings: match old {
                    Some(old) if *old.settings == *settings => Arc::clone(&old.settings),
                    _ => Arc::new(settings.clone()),
                },
                balancer,
                endpoints,
            }),
        };
        self.pools.push(pool);
        Ok(index)
    }

    /// One pool for each part of a service that routes name by labels.
    fn add_labelled(&mut self, names: &[Arc<str>]) -> Result<HashMap<String, usize>, Unpinned> {
        let mut labelled = HashMap::new();
        for backend in backends(self.config).filter(|b| !b.labels.is_empty()) {
            let name = pool_name(&backend.service, &backend.labels);
            let service = names.binary_search_by(|n| (**n).cmp(backend.service.as_str()));
            if let (Ok(service), false) = (service, labelled.contains_key(&name)) {
                let index = self.add(&names[service], &backend.labels)?;
                labelled.insert(name, index);
            }
        }
        Ok(labelled)
    }

    /// The old table serves on if its routes, its services and its policies are what they were. The places of
    /// labelled pools follow from the first two.
    fn routes(
        &self,
        services: &Arc<HashMap<Arc<str>, usize>>,
        labelled: &HashMap<String, usize>,
    ) -> Result<Arc<RouteTable>, Unpinned> {
        let config = self.config;
        let routes = config.routes.iter().map(|route| {
            let target = self.target(&route.action, services, labelled)?;
            Ok(Route::new(&route.name, &route.matches, target))
        });
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        if let Some(old) = self.previous.map(|p| &p.snapshot) {
            let targets = old.routes.routes().iter().map(|r| &r.target);
            if old.config.routes == config.routes
                && old.config.domain == config.domain
                && Arc::ptr_eq(&old.services, services)
                && targets.eq(routes.iter().map(|r| &r.target))
            {
                return Ok(Arc::clone(&old.routes));
            }
        }
        Ok(Arc::new(RouteTable::new(routes, Arc::clone(services), &config.domain)))
    }

    fn target(
        &self,
        action: &RouteAction,
        services: &HashMap<Arc<str>, usize>,
        labelled: &HashMap<String, usize>,
    ) -> Result<RouteTarget, Unpinned> {
        // `service_names` holds every backend's service, and `add_labelled` has made every labelled pool.
        let pool_of = |backend: &Backend| {
            let labelled = labelled.get(&pool_name(&backend.service, &backend.labels));
            labelled.or_else(|| services.get(backend.service.as_str())).copied().unwrap_or_default()
        };
        match action {
            RouteAction::Forward(backend) => Ok(RouteTarget::Pool(pool_of(backend))),
            RouteAction::Router { policy, backends, hash_key } => Ok(RouteTarget::Router(Router {
                policy: self.pinned(policy)?,
                backends: backends.iter().map(pool_of).collect(),
                backend_names: backends.iter().map(|b| b.name.clone()).collect(),
                hash_key: hash_key.clone(),
            })),
        }
    }

    fn pinned(&self, used: &PolicyUse) -> Result<PolicyRef, Unpinned> {
        let pin = self.pins.get(used.policy.as_str()).ok_or_else(|| Unpinned(used.policy.clone()))?;
        Ok(PolicyRef::new(used, pin.digest, pin.epoch))
    }

    /// The old list, if the service's members or at least those in this pool are the same.
    fn endpoints(
        &self,
        service: &Arc<str>,
        labels: &BTreeMap<String, String>,
        old: Option<&Arc<Pool>>,
    ) -> Arc<[Arc<Endpoint>]> {
        let Some(members) = self.members.get(service) else {
            return old
                .filter(|o| o.endpoints.is_empty())
                .map_or_else(|| Arc::from([]), |o| Arc::clone(&o.endpoints));
        };
        if let (Some(old), Some(previous)) = (old, self.previous)
            && previous.members.get(service).is_some_and(|m| Arc::ptr_eq(m, members))
        {
            return Arc::clone(&old.endpoints);
        }
        let fits = |r: &EndpointRecord| {
            r.status == EndpointStatus::Ready
                && labels.iter().all(|(key, value)| r.labels.get(key) == Some(value))
        };
        let fitting = members.records.iter().zip(&members.endpoints).filter(|(r, _)| fits(r));
        let fitting: Vec<Arc<Endpoint>> = fitting.map(|(_, e)| Arc::clone(e)).collect();
        match old {
            Some(old) if same_items(&old.endpoints, &fitting) => Arc::clone(&old.endpoints),
            _ => fitting.into(),
        }
    }
}

fn members(previous: Option<&World>, catalogue: &Catalogue) -> BTreeMap<Arc<str>, Arc<Members>> {
    let entries = catalogue.services.iter().map(|(name, records)| {
        match previous.and_then(|p| p.members.get_key_value(name.as_str())) {
            Some((name, old)) => (Arc::clone(name), old.next(records)),
            None => (Arc::from(name.as_str()), Arc::new(Members::new(records, &HashMap::new()))),
        }
    });
    entries.collect()
}

impl Members {
    fn next(self: &Arc<Self>, records: &[EndpointRecord]) -> Arc<Self> {
        let old: HashMap<SocketAddr, (&EndpointRecord, &Arc<Endpoint>)> =
            self.records.iter().zip(&self.endpoints).map(|(r, e)| (r.address, (r, e))).collect();
        let same = |r: &EndpointRecord| old.get(&r.address).is_some_and(|(record, _)| *record == r);
        if records.len() == self.records.len() && records.iter().all(same) {
            return Arc::clone(self);
        }
        Arc::new(Self::new(records, &old))
    }

    fn new(records: &[EndpointRecord], old: &HashMap<SocketAddr, (&EndpointRecord, &Arc<Endpoint>)>) -> Self {
        let endpoint = |record: &EndpointRecord| match old.get(&record.address) {
            Some((before, endpoint)) if same_facts(before, record) => Arc::clone(endpoint),
            Some((_, endpoint)) => Arc::new(endpoint_of(record, Arc::clone(&endpoint.state))),
            None => Arc::new(endpoint_of(record, Arc::default())),
        };
        let mut pairs: Vec<_> = records.iter().map(|record| (record.clone(), endpoint(record))).collect();
        pairs.sort_by_key(|(record, endpoint)| (endpoint.id, record.address));
        let (records, endpoints) = pairs.into_iter().unzip();
        Self { records, endpoints }
    }
}

/// All but the status, which is no part of an endpoint.
fn same_facts(a: &EndpointRecord, b: &EndpointRecord) -> bool {
    a.weight == b.weight && a.zone == b.zone && a.labels == b.labels
}

fn endpoint_of(record: &EndpointRecord, state: Arc<EndpointState>) -> Endpoint {
    let text: Arc<str> = record.address.to_string().into();
    Endpoint {
        id: endpoint_id(&text),
        address: record.address,
        text,
        weight: record.weight,
        zone: record.zone.as_str().into(),
        labels: record.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
        state,
    }
}

/// Of the configuration, the catalogue and all routes; in order.
fn service_names(config: &Config, members: &BTreeMap<Arc<str>, Arc<Members>>) -> Vec<Arc<str>> {
    let written = config.services.keys().chain(backends(config).map(|b| &b.service));
    let mut names: BTreeSet<Arc<str>> = members.keys().cloned().collect();
    for name in written {
        if !names.contains(name.as_str()) {
            names.insert(name.as_str().into());
        }
    }
    names.into_iter().collect()
}

fn shared_services(previous: Option<&World>, names: &[Arc<str>]) -> Arc<HashMap<Arc<str>, usize>> {
    if let Some(old) = previous.map(|p| &p.snapshot.services)
        && old.len() == names.len()
        && names.iter().enumerate().all(|(index, name)| old.get(name) == Some(&index))
    {
        return Arc::clone(old);
    }
    Arc::new(names.iter().enumerate().map(|(index, name)| (Arc::clone(name), index)).collect())
}

fn backends(config: &Config) -> impl Iterator<Item = &Backend> {
    config.routes.iter().flat_map(|route| match &route.action {
        RouteAction::Forward(backend) => std::slice::from_ref(backend),
        RouteAction::Router { backends, .. } => backends,
    })
}

fn same_items<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests;
