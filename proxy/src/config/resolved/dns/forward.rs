//! Where names go that are not ours.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::tls;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// By domain, lower case and without dots at the ends.
    pub domains: BTreeMap<String, Vec<Resolver>>,
    /// For all other names.
    pub others: Resolvers,
    /// For one question, whoever is asked.
    pub timeout: Duration,
    pub random_case: bool,
    /// There is one if a resolver needs it.
    pub tls: Option<tls::Client>,
    pub cache: DnsCache,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolvers {
    /// A file in the form of `/etc/resolv.conf`.
    System(PathBuf),
    Listed(Vec<Resolver>),
}

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    pub address: SocketAddr,
    pub via: ResolverVia,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolverVia {
    /// And TCP for what is too large.
    Udp,
    Tcp,
    Tls {
        /// The certificate's, or the address.
        server_name: String,
    },
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            ResolverVia::Udp => write!(f, "{}", self.address),
            ResolverVia::Tcp => write!(f, "tcp://{}", self.address),
            ResolverVia::Tls { server_name } => write!(f, "tls://{}#{server_name}", self.address),
        }
    }
}

/// Times in whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCache {
    pub entries_max: usize,
    pub bytes_max: usize,
    /// At most `ttl_max`.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    pub negative_ttl_max: Duration,
    /// Zero: never.
    pub stale: Duration,
    pub prefetch: bool,
}
