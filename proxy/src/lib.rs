//! Outrigger: a sidecar proxy whose balancing and routing policies are WebAssembly components.

pub mod app;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
#[cfg(test)]
mod docs;
pub mod etcd;
pub mod handover;
pub mod head;
pub mod http_client;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod net;
pub mod policy;
pub mod registry_server;
pub mod release;
mod shared_map;
pub mod snapshot;
pub mod tcp;
pub mod tls;
pub mod watch;
pub mod worker;
