//! From configuration, catalogue and policy pins to the next snapshot: a pure function.
//!
//! What has not changed is shared with the snapshot before, by pointer: endpoints, their counters, lists, pools and
//! the route table. Workers compare pointers, so the cost of a change follows the change, not the catalogue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::{Backend, Config, PolicyUse, RouteAction, ServiceSettings};
use crate::snapshot::{
    Addresses, Catalogue, Digest, Endpoint, Names, Owners, PolicyRef, Pool, Route, RouteTable, RouteTarget,
    Router, Shelf, Snapshot,
};

mod members;
mod owners;
mod patch;

pub use members::{Members, endpoint_id};

use members::same_items;

/// A snapshot and what the next one is built from.
#[derive(Debug)]
pub struct World {
    pub snapshot: Arc<Snapshot>,
    /// Parallel to the pools: what the catalogue says about the service of each, with the endpoints that no pool has
    /// because they are draining or down.
    members: Shelf<Arc<Members>>,
    /// Parallel to `Snapshot::parts`.
    parts: Arc<[Part]>,
    usual: Usual,
    /// Of all that `members` has, those included that no snapshot has been made for yet.
    owners: Owners,
}

/// A pool of those endpoints of a service that carry these labels.
#[derive(Debug)]
struct Part {
    service: usize,
    labels: BTreeMap<String, String>,
}

/// What a service gets that the configuration does not name; shared by all of them.
#[derive(Debug, Clone)]
struct Usual {
    settings: Arc<ServiceSettings>,
    balancer: PolicyRef,
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
        let nothing = Members::nothing();
        let members = |name: &str| {
            let old = previous.and_then(|world| world.members_of(name));
            match (catalogue.services.get(name), old) {
                (Some(records), Some(old)) => old.next(records),
                (Some(records), None) => nothing.next(records),
                (None, Some(old)) if old.records.is_empty() => Arc::clone(old),
                (None, _) => Arc::clone(&nothing),
            }
        };
        let mut pools = Pools::after(previous, config, pins)?;
        let named = named_services(config, catalogue);
        for name in &named {
            pools.add(name, &BTreeMap::new(), members(name))?;
        }
        pools.add_parts(&named)?;
        let parts = named.len()..pools.pools.len();
        // In the order in which they lay, so that a world in which nothing differs is the same.
        let lay = |name: &str| previous.is_some_and(|world| world.is_unnamed(name));
        let before = previous.into_iter().flat_map(Self::unnamed).filter_map(|name| {
            let known = catalogue.services.get_key_value(name);
            known.map(|(name, _)| name)
        });
        let new = catalogue.services.keys().filter(|name| !lay(name));
        for name in before.chain(new).filter(|name| !named.contains(*name)) {
            pools.add(name, &BTreeMap::new(), members(name))?;
        }
        let services = pools.services(&parts);
        let routes = pools.routes(&services)?;
        let Pools { pools, members, places, usual, .. } = pools;
        let snapshot = Arc::new(Snapshot {
            version: previous.map_or(0, |p| p.snapshot.version) + 1,
            config: Arc::clone(config),
            pools: pools.into_iter().collect(),
            parts,
            services,
            routes,
            addresses: Addresses::default(),
            owners: Owners::default(),
            patch: None,
        });
        let (members, owners) = (members.into_iter().collect(), Owners::default());
        Ok(Self { snapshot, members, parts: places.into(), usual, owners })
    }

    /// With addresses for its services. A snapshot that is in force already keeps those it has.
    pub fn addressed(mut self, addresses: impl FnOnce(&Snapshot) -> Addresses) -> Self {
        if let Some(snapshot) = Arc::get_mut(&mut self.snapshot) {
            snapshot.addresses = addresses(snapshot);
        }
        self
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
        self.members.get(self.snapshot.services.get(service)?)
    }

    /// Services that the configuration does not name, in the order of their pools.
    fn unnamed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.snapshot.pools.iter().skip(self.snapshot.parts.end).map(|pool| &pool.service)
    }

    fn is_unnamed(&self, service: &str) -> bool {
        self.snapshot.services.get(service).is_some_and(|at| at >= self.snapshot.parts.end)
    }

    /// Services and their endpoints, those included that no pool has.
    pub fn size(&self) -> (usize, usize) {
        let whole = self.members.iter().enumerate().filter(|(at, _)| !self.snapshot.parts.contains(at));
        whole.fold((0, 0), |(services, endpoints), (_, members)| {
            (services + 1, endpoints + members.endpoints.len())
        })
    }

    /// What picks for services that the configuration does not name.
    pub fn usual_balancer(&self) -> &PolicyRef {
        &self.usual.balancer
    }

    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.snapshot.pool(name)
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
    pools: Vec<Arc<Pool>>,
    /// Parallel to the pools.
    members: Vec<Arc<Members>>,
    places: Vec<Part>,
    /// Parts by name.
    labelled: HashMap<String, usize>,
    config: &'a Config,
    pins: &'a Pins,
    usual: Usual,
}

impl<'a> Pools<'a> {
    fn after(previous: Option<&'a World>, config: &'a Config, pins: &'a Pins) -> Result<Self, Unpinned> {
        let settings = match previous.map(|world| &world.usual.settings) {
            Some(old) if **old == config.defaults => Arc::clone(old),
            _ => Arc::new(config.defaults.clone()),
        };
        let usual = Usual { balancer: pinned(pins, &settings.balancer)?, settings };
        let (pools, members, places, labelled) = (Vec::new(), Vec::new(), Vec::new(), HashMap::new());
        Ok(Self { previous, pools, members, places, labelled, config, pins, usual })
    }

    fn add(
        &mut self,
        service: &Arc<str>,
        labels: &BTreeMap<String, String>,
        members: Arc<Members>,
    ) -> Result<usize, Unpinned> {
        let name = if labels.is_empty() { Arc::clone(service) } else { pool_name(service, labels).into() };
        let old = self.previous.and_then(|world| world.pool(&name));
        let Usual { settings, balancer } = self.settings(service, old)?;
        let endpoints = self.endpoints(&members, labels, old);
        let pool = match old {
            Some(old)
                if Arc::ptr_eq(&old.endpoints, &endpoints)
                    && Arc::ptr_eq(&old.settings, &settings)
                    && old.balancer == balancer =>
            {
                Arc::clone(old)
            }
            _ => {
                let name = old.map_or(name, |old| Arc::clone(&old.name));
                let service = old.map_or_else(|| Arc::clone(service), |old| Arc::clone(&old.service));
                Arc::new(Pool { name, service, settings, balancer, endpoints })
            }
        };
        self.pools.push(pool);
        self.members.push(members);
        Ok(self.pools.len() - 1)
    }

    /// A service's own, or what is usual.
    fn settings(&self, service: &str, old: Option<&Arc<Pool>>) -> Result<Usual, Unpinned> {
        let Some(own) = self.config.services.get(service) else { return Ok(self.usual.clone()) };
        let settings = match old {
            Some(old) if *old.settings == *own => Arc::clone(&old.settings),
            _ => Arc::new(own.clone()),
        };
        Ok(Usual { settings, balancer: pinned(self.pins, &own.balancer)? })
    }

    /// One pool for each part of a service that routes name by labels. The services' own come before, in order.
    fn add_parts(&mut self, named: &BTreeSet<Arc<str>>) -> Result<(), Unpinned> {
        for backend in backends(self.config).filter(|b| !b.labels.is_empty()) {
            let name = pool_name(&backend.service, &backend.labels);
            let service = named.iter().position(|n| **n == *backend.service);
            if let (Some(service), false) = (service, self.labelled.contains_key(&name)) {
                let (whole, members) =
                    (Arc::clone(&self.pools[service].service), Arc::clone(&self.members[service]));
                let pool = self.add(&whole, &backend.labels, members)?;
                self.places.push(Part { service, labels: backend.labels.clone() });
                self.labelled.insert(name, pool);
            }
        }
        Ok(())
    }

    /// The old ones, if they are the same.
    fn services(&self, parts: &std::ops::Range<usize>) -> Arc<Names> {
        let whole = || self.pools.iter().enumerate().filter(|(at, _)| !parts.contains(at));
        if let Some(old) = self.previous.map(|p| &p.snapshot.services)
            && old.len() == self.pools.len() - parts.len()
            && whole().all(|(at, pool)| old.get(&pool.name) == Some(at))
        {
            return Arc::clone(old);
        }
        Arc::new(whole().map(|(at, pool)| (Arc::clone(&pool.name), at)).collect())
    }

    /// The old table serves on if its routes and its policies are what they were, and their pools lie where they did.
    fn routes(&self, services: &Names) -> Result<Arc<RouteTable>, Unpinned> {
        let config = self.config;
        let routes = config.routes.iter().map(|route| {
            let target = self.target(&route.action, services)?;
            Ok(Route::new(&route.name, &route.matches, target))
        });
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        if let Some(old) = self.previous.map(|p| &p.snapshot) {
            let targets = old.routes.routes().iter().map(|r| &r.target);
            if old.config.routes == config.routes
                && old.config.domain == config.domain
                && targets.eq(routes.iter().map(|r| &r.target))
            {
                return Ok(Arc::clone(&old.routes));
            }
        }
        Ok(Arc::new(RouteTable::new(routes, &config.domain)))
    }

    fn target(&self, action: &RouteAction, services: &Names) -> Result<RouteTarget, Unpinned> {
        // `named_services` holds every backend's service, and `add_parts` has made every part.
        let pool_of = |backend: &Backend| {
            let part = self.labelled.get(&pool_name(&backend.service, &backend.labels));
            part.copied().or_else(|| services.get(&backend.service)).unwrap_or_default()
        };
        match action {
            RouteAction::Forward(backend) => Ok(RouteTarget::Pool(pool_of(backend))),
            RouteAction::Router { policy, backends, hash_key } => Ok(RouteTarget::Router(Router {
                policy: pinned(self.pins, policy)?,
                backends: backends.iter().map(pool_of).collect(),
                backend_names: backends.iter().map(|b| b.name.clone()).collect(),
                hash_key: hash_key.clone(),
            })),
        }
    }

    /// The old list, if the service's members or at least those in this pool are the same.
    fn endpoints(
        &self,
        members: &Arc<Members>,
        labels: &BTreeMap<String, String>,
        old: Option<&Arc<Pool>>,
    ) -> Arc<[Arc<Endpoint>]> {
        if let (Some(old), Some(previous)) = (old, self.previous)
            && previous.members_of(&old.service).is_some_and(|m| Arc::ptr_eq(m, members))
        {
            return Arc::clone(&old.endpoints);
        }
        members.fitting(labels, old)
    }
}

fn pinned(pins: &Pins, used: &PolicyUse) -> Result<PolicyRef, Unpinned> {
    let pin = pins.get(used.policy.as_str()).ok_or_else(|| Unpinned(used.policy.clone()))?;
    Ok(PolicyRef::new(used, pin.digest, pin.epoch, pin.configuration.as_ref()))
}

/// Of the configuration and all routes; in order. The names are the catalogue's where it has them.
fn named_services(config: &Config, catalogue: &Catalogue) -> BTreeSet<Arc<str>> {
    let written = config.services.keys().chain(backends(config).map(|b| &b.service));
    let shared = |name: &String| {
        let known = catalogue.services.get_key_value(name.as_str());
        known.map_or_else(|| name.as_str().into(), |(known, _)| Arc::clone(known))
    };
    written.map(shared).collect()
}

fn backends(config: &Config) -> impl Iterator<Item = &Backend> {
    config.routes.iter().flat_map(|route| match &route.action {
        RouteAction::Forward(backend) => std::slice::from_ref(backend),
        RouteAction::Router { backends, .. } => backends,
    })
}

#[cfg(test)]
mod tests;
