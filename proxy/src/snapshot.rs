//! The immutable, numbered world that workers and the names thread serve.
//!
//! Control builds a snapshot from the configuration, the catalogue and the compiled policies, and publishes it
//! whole; a request sees one snapshot from head to log line. The only parts that change are the counters in
//! `EndpointState`, which outlive snapshots and are shared between workers on purpose.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, PolicyUse, ServiceSettings};

pub mod route;
pub mod service;
pub mod shelf;

pub use route::{Route, RouteTable, RouteTarget, Router};
pub use service::{Catalogue, Delta, Endpoint, EndpointRecord, EndpointState, EndpointStatus, Records};
pub use shelf::Shelf;

/// One version of the world.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts from 1; each published snapshot has the next number.
    pub version: u64,
    pub config: Arc<Config>,
    /// All pools: first one per service (in name order), then those that routes name by labels.
    pub pools: Shelf<Arc<Pool>>,
    /// Service name to the index of its whole pool.
    pub services: Arc<HashMap<Arc<str>, usize>>,
    pub routes: Arc<RouteTable>,
    /// `None`: anything may differ from the version before.
    pub patch: Option<Patch>,
}

/// What is different when little is: the number of pools, their names and policies, services, routes and
/// configuration are those of `base`.
#[derive(Debug, Clone)]
pub struct Patch {
    pub base: u64,
    /// Indices of the pools that differ.
    pub pools: Vec<usize>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
        let services = Arc::new(HashMap::new());
        let routes = Arc::new(RouteTable::new(Vec::new(), Arc::clone(&services), &config.domain));
        Self { version: 0, config, pools: Shelf::default(), services, routes, patch: None }
    }
}
