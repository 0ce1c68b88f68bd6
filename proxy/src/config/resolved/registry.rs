//! Where services come from, and how the workload is told to others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::tls;

#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    pub source: RegistrySource,
    /// Services that are followed; `None`: all.
    pub services: Option<BTreeSet<String>>,
    pub stale: Stale,
    pub mass_removal: MassRemoval,
    /// Never with a file.
    pub register: Option<Register>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrySource {
    /// A services file, watched.
    File(PathBuf),
    Etcd(Etcd),
    Consul(Consul),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    pub servers: Vec<Server>,
    /// `None`: in the clear.
    pub tls: Option<tls::Client>,
    /// Begins with a slash and does not end with one.
    pub prefix: String,
    /// Name and password.
    pub user: Option<(String, Secret)>,
    /// For one exchange.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    pub servers: Vec<Server>,
    /// `None`: in the clear.
    pub tls: Option<tls::Client>,
    pub token: Option<Secret>,
    pub datacenter: Option<String>,
    /// For one exchange, beyond the time that the server was asked to wait.
    pub timeout: Duration,
}

/// Host and port; the host is looked up anew for each connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What to do when the registry has not confirmed anything for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub after: Duration,
    pub leave_out: bool,
}

/// When endpoints that the registry forgets are kept while they answer.
#[derive(Debug, Clone, PartialEq)]
pub struct MassRemoval {
    /// Of all endpoints, 0 to 1; 1 keeps none.
    pub share: f64,
    pub hold: Duration,
}

/// The workload's own entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    pub service: String,
    pub id: String,
    pub address: SocketAddr,
    pub weight: u32,
    pub zone: String,
    /// `version` included.
    pub labels: BTreeMap<String, String>,
    /// The entry vanishes when it has not been renewed for so long.
    pub ttl: Duration,
    /// `None`: no load is reported.
    pub report_load: Option<Duration>,
    /// `None`: the workload counts as healthy.
    pub check: Option<Check>,
}

/// How the sidecar finds out whether the workload is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub address: SocketAddr,
    pub interval: Duration,
    pub timeout: Duration,
    /// In a row, to change from well to unwell.
    pub failures: u32,
    /// In a row, to change from unwell to well.
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection can be made.
    Tcp,
    /// A GET for the path is answered 2xx.
    Http { path: String },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc { service: String },
    /// The program ends with 0.
    Exec { command: Vec<String> },
}
