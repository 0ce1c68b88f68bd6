//! Sources of the catalogue, and the workload's own entry in it.
//!
//! Sources are a closed set. A file is watched by the control loop itself; each of the others is one task that tells
//! the loop its `News` through a bounded queue, and mends by itself whatever goes wrong between it and the registry.
//! Invariant: a source that is in trouble says so and changes nothing; only what a registry has said in full changes
//! the catalogue.

use tokio::sync::mpsc;

use crate::config::{Registry, RegistrySource};
use crate::metrics::Metrics;
use crate::snapshot::Delta;

pub mod consul;
pub mod etcd;
pub mod file;
pub mod guard;
pub mod instance;
pub mod kv;
pub mod saved;
pub mod visit;

pub use instance::Load;

/// News that may wait for the control loop; a source waits when the queue is full.
pub const NEWS_MAX: usize = 64;

/// From a source to control.
#[derive(Debug)]
pub enum News {
    /// Said by the registry just now; whatever is not named stands.
    Changed(Delta),
    /// Nothing else has changed until now.
    Confirmed,
    /// What instances say about themselves. No change of the catalogue.
    Loads(Vec<Load>),
    /// The registry cannot be asked or understood now.
    Trouble(String),
}

/// Starts the task that follows a registry over the network; `None` for a file.
pub fn follow(registry: &Registry, metrics: &Metrics) -> Option<mpsc::Receiver<News>> {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let (services, metrics) = (registry.services.clone(), metrics.clone());
    match &registry.source {
        RegistrySource::File(_) => return None,
        RegistrySource::Etcd(etcd) => {
            tokio::spawn(etcd::Follower::new(etcd, services, metrics, sender).run());
        }
        RegistrySource::Consul(consul) => {
            tokio::spawn(consul::follow(consul.clone(), services, metrics, sender));
        }
    }
    Some(news)
}
