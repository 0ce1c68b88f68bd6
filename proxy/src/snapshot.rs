//! The immutable, numbered world that workers and the names thread serve.
//!
//! Control builds a snapshot from the configuration, the catalogue and the compiled policies, and publishes it
//! whole; a request sees one snapshot from head to log line. The only parts that change are the counters in
//! `EndpointState`, which outlive snapshots and are shared between workers on purpose.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::config::{Config, PolicyUse, ServiceSettings};

pub mod addresses;
pub mod names;
pub mod owners;
pub mod route;
pub mod service;
pub mod shelf;

pub use addresses::Addresses;
pub use names::Names;
pub use owners::Owners;
pub use route::{Route, RouteTable, RouteTarget, Router};
pub use service::{Catalogue, Delta, Endpoint, EndpointRecord, EndpointState, EndpointStatus, Records};
pub use shelf::Shelf;

/// One version of the world.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts from 1; each published snapshot has the next number.
    pub version: u64,
    pub config: Arc<Config>,
    /// All pools: first those of services that the configuration names, then parts of them, which routes name by labels,
    /// then those of all other services. The last come and go, and move when others go; the first two stay in place
    /// for as long as the configuration does.
    pub pools: Shelf<Arc<Pool>>,
    /// The pools that are parts of a service.
    pub parts: Range<usize>,
    /// Service name to the index of its whole pool.
    pub services: Arc<Names>,
    pub routes: Arc<RouteTable>,
    /// Virtual addresses of services.
    pub addresses: Addresses,
    /// Services by the addresses of their endpoints; empty unless connections are captured.
    pub owners: Owners,
    /// `None`: anything may differ from the version before.
    pub patch: Option<Patch>,
}

/// What a connection was meant for, by the address that was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant<'a> {
    /// One of these services, in order of name; hardly ever is it more than one.
    Services(&'a [Arc<str>]),
    /// A virtual address that no service has, so nobody is there.
    Nobody,
    Unknown,
}

/// What is different when little is: routes, configuration and each pool's policy are those of `base`.
#[derive(Debug, Clone)]
pub struct Patch {
    pub base: u64,
    /// Indices at which another pool lies than before: it has other endpoints, is new, or has moved.
    pub pools: Vec<usize>,
    /// Services that are gone.
    pub gone: Vec<Arc<str>>,
}

/// A set of endpoints with the balancer that picks among them.
#[derive(Debug, Clone)]
pub struct Pool {
    /// `service`, or `service{version=v2}`: the key under which instances are kept from one snapshot to the next.
    pub name: Arc<str>,
    pub service: Arc<str>,
    pub settings: Arc<ServiceSettings>,
    pub balancer: PolicyRef,
    /// In order of id. Draining and down endpoints are left out already.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// A policy in use, pinned to the component that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyRef {
    /// As configured, for metrics and messages.
    pub policy: Arc<str>,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// JSON text given to `configure`.
    pub config: Arc<str>,
    /// Goes up when the same digest is published anew, so that a quarantined policy gets another chance.
    pub epoch: u64,
}

/// SHA-256 of a component's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl PolicyRef {
    /// `released` is the configuration for uses that have none of their own.
    pub fn new(used: &PolicyUse, digest: Digest, epoch: u64, released: Option<&Arc<str>>) -> Self {
        let config = match (&used.config, released) {
            (Some(own), _) => own.as_str().into(),
            (None, Some(released)) => Arc::clone(released),
            (None, None) => "{}".into(),
        };
        Self { policy: used.policy.as_str().into(), digest, config, epoch }
    }
}

impl Snapshot {
    /// Before the first: no services, no routes.
    pub fn empty(config: Arc<Config>) -> Self {
        let routes = Arc::new(RouteTable::new(Vec::new(), &config.domain));
        let (pools, services) = (Shelf::default(), Arc::default());
        Self {
            version: 0,
            config,
            pools,
            parts: 0..0,
            services,
            routes,
            addresses: Addresses::default(),
            owners: Owners::default(),
            patch: None,
        }
    }

    /// The pool of the service that an authority names, or whose virtual address it is.
    pub fn service_of(&self, authority: &str) -> Option<usize> {
        let at_address = || {
            let address = route::host_of(authority).parse().ok()?;
            self.services.get(self.addresses.service_at(address)?)
        };
        self.routes.service_of(authority, &self.services).or_else(at_address)
    }

    /// Whose address a captured connection was made to.
    pub fn meant_by(&self, dialled: SocketAddr) -> Meant<'_> {
        let ip = dialled.ip().to_canonical();
        match (self.addresses.service_at(ip), self.owners.at(dialled)) {
            (Some(service), _) => Meant::Services(std::slice::from_ref(service)),
            (None, services @ [_, ..]) => Meant::Services(services),
            (None, []) if self.addresses.ranges().is_some_and(|ranges| ranges.hold(ip)) => Meant::Nobody,
            (None, []) => Meant::Unknown,
        }
    }

    /// Where the pool of this name lies.
    pub fn place_of(&self, pool: &str) -> Option<usize> {
        let part = || self.parts.clone().find(|at| self.pools.get(*at).is_some_and(|p| &*p.name == pool));
        self.services.get(pool).or_else(part)
    }

    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(self.place_of(name)?)
    }
}
