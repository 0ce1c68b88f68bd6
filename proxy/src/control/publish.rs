//! From configuration, catalogue and policy pins to the next snapshot: a pure function.
//!
//! What has not changed is shared with the snapshot before, by pointer: endpoints, their counters, lists, pools and
//! the route table. Workers compare pointers, so the cost of a change follows the change, not the catalogue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::{Backend, Config, PolicyUse, RouteAction, ServiceSettings};
use crate::link::Slot;
use crate::snapshot::{
    Catalogue, Digest, Endpoint, Patch, PolicyRef, Pool, Route, RouteTable, RouteTarget, Router, Shelf,
    Snapshot,
};

mod members;

pub use members::{Members, endpoint_id};

use members::same_items;

/// A snapshot and what the next one is built from.
#[derive(Debug)]
pub struct World {
    pub snapshot: Arc<Snapshot>,
    /// Parallel to the pools of whole services: with the endpoints that no pool has because they are draining or down.
    members: Shelf<Arc<Members>>,
    /// The other pools.
    parts: Arc<[Part]>,
}

/// A pool of those endpoints of a service that carry these labels.
#[derive(Debug)]
struct Part {
    pool: usize,
    service: usize,
    labels: BTreeMap<String, String>,
}

/// Which component serves a policy name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub digest: Digest,
    pub epoch: u64,
    /// Published with it, for uses that have none of their own.
    pub configuration: Option<Arc<str>>,
}

impl Pin {
    /// Of a release that has not come yet: no component has this digest, so no place gets an instance.
    pub fn absent() -> Self {
        Self { digest: Digest([0; 32]), epoch: 0, configuration: None }
    }
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
        let names = service_names(config, catalogue);
        let nothing = Arc::new(Members { records: Arc::from([]), endpoints: Vec::new() });
        let members = names.iter().map(|name| {
            let old = previous.and_then(|world| world.members_of(name));
            match (catalogue.services.get(name), old) {
                (Some(records), Some(old)) => old.next(records),
                (Some(records), None) => nothing.next(records),
                (None, Some(old)) if old.records.is_empty() => Arc::clone(old),
                (None, _) => Arc::clone(&nothing),
            }
        });
        let members = members.collect();
        let old = previous.map(|p| p.snapshot.pools.iter().map(|pool| (&*pool.name, pool)).collect());
        let old = old.unwrap_or_default();
        let mut pools =
            Pools { previous, old, pools: Vec::new(), parts: Vec::new(), config, pins, members: &members };
        for (index, name) in names.iter().enumerate() {
            pools.add(index, name, &BTreeMap::new())?;
        }
        let services = shared_services(previous, &names);
        let labelled = pools.add_labelled(&names)?;
        let routes = pools.routes(&services, &labelled)?;
        let (parts, pools) = (pools.parts.into(), pools.pools.into_iter().collect());
        let version = previous.map_or(0, |p| p.snapshot.version) + 1;
        let config = Arc::clone(config);
        let snapshot = Arc::new(Snapshot { version, config, pools, services, routes, patch: None });
        Ok(Self { snapshot, members, parts })
    }

    /// The world after this one, if nothing differs but the endpoints of these services. The cost follows their
    /// number. `None`: a service has come or gone, so only `next` will do.
    pub fn patched(&self, catalogue: &Catalogue, touched: &BTreeSet<Arc<str>>) -> Option<Self> {
        let (mut members, mut pools) = (Vec::new(), Vec::new());
        for name in touched {
            let (index, records) = match (self.snapshot.services.get(name), catalogue.services.get(name)) {
                (Some(index), Some(records)) => (*index, records),
                (None, None) => continue,
                _ => return None,
            };
            let next = self.members[index].next(records);
            let parts = self.parts.iter().filter(|part| part.service == index);
            let parts = parts.map(|part| (part.pool, &part.labels));
            for (pool, labels) in std::iter::once((index, &BTreeMap::new())).chain(parts) {
                let old = &self.snapshot.pools[pool];
                let endpoints = next.fitting(labels, Some(old));
                if !Arc::ptr_eq(&endpoints, &old.endpoints) {
                    pools.push((pool, Arc::new(Pool { endpoints, ..Pool::clone(old) })));
                }
            }
            members.push((index, next));
        }
        let members = self.members.with(members);
        let parts = Arc::clone(&self.parts);
        if pools.is_empty() {
            return Some(Self { snapshot: Arc::clone(&self.snapshot), members, parts });
        }
        let base = self.snapshot.version;
        let patch = Some(Patch { base, pools: pools.iter().map(|(index, _)| *index).collect() });
        let snapshot = Arc::new(Snapshot {
            version: base + 1,
            config: Arc::clone(&self.snapshot.config),
            pools: self.snapshot.pools.with(pools),
            services: Arc::clone(&self.snapshot.services),
            routes: Arc::clone(&self.snapshot.routes),
            patch,
        });
        Some(Self { snapshot, members, parts })
    }

    /// Whether a worker would notice no difference.
    pub fn same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.snapshot, &other.snapshot);
        Arc::ptr_eq(a, b)
            || a.patch.is_none()
                && *a.config == *b.config
                && Arc::ptr_eq(&a.routes, &b.routes)
                && Arc::ptr_eq(&a.services, &b.services)
                && same_items(a.pools.iter(), b.pools.iter())
    }

    /// The same world under the snapshot of another that is the same to workers.
    pub fn under(self, other: &Self) -> Self {
        Self { snapshot: Arc::clone(&other.snapshot), ..self }
    }

    /// What the catalogue says about a service; `None` if nobody names it.
    pub fn members_of(&self, service: &str) -> Option<&Arc<Members>> {
        self.members.get(*self.snapshot.services.get(service)?)
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

/// The pools of one snapshot as they are put together.
struct Pools<'a> {
    previous: Option<&'a World>,
    /// By name.
    old: HashMap<&'a str, &'a Arc<Pool>>,
    pools: Vec<Arc<Pool>>,
    parts: Vec<Part>,
    config: &'a Config,
    pins: &'a Pins,
    members: &'a Shelf<Arc<Members>>,
}

impl Pools<'_> {
    /// `of` is the place of the service among all.
    fn add(
        &mut self,
        of: usize,
        service: &Arc<str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<usize, Unpinned> {
        let name = pool_name(service, labels);
        let settings = settings_of(self.config, service);
        let balancer = self.pinned(&settings.balancer)?;
        let old = self.old.get(name.as_str()).copied();
        let endpoints = self.endpoints(of, labels, old);
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
                let pool = self.add(service, &names[service], &backend.labels)?;
                self.parts.push(Part { pool, service, labels: backend.labels.clone() });
                labelled.insert(name, pool);
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
        Ok(PolicyRef::new(used, pin.digest, pin.epoch, pin.configuration.as_ref()))
    }

    /// The old list, if the service's members or at least those in this pool are the same.
    fn endpoints(
        &self,
        service: usize,
        labels: &BTreeMap<String, String>,
        old: Option<&Arc<Pool>>,
    ) -> Arc<[Arc<Endpoint>]> {
        let members = &self.members[service];
        if let (Some(old), Some(previous)) = (old, self.previous)
            && previous.members_of(&old.service).is_some_and(|m| Arc::ptr_eq(m, members))
        {
            return Arc::clone(&old.endpoints);
        }
        members.fitting(labels, old)
    }
}

/// Of the configuration, the catalogue and all routes; in order.
fn service_names(config: &Config, catalogue: &Catalogue) -> Vec<Arc<str>> {
    let written = config.services.keys().chain(backends(config).map(|b| &b.service));
    let mut names: BTreeSet<Arc<str>> = catalogue.services.keys().cloned().collect();
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

#[cfg(test)]
mod tests;
