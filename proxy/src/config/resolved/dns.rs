//! Names for workloads: where they are asked for, and what they mean.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

mod forward;

pub use forward::{DnsCache, Forward, Resolver, ResolverVia, Resolvers};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of their own, no wild cards.
    pub listen: Vec<SocketAddr>,
    /// Nobody asked for these addresses, so one that the host lacks is left out.
    pub listen_default: bool,
    /// Up to an hour.
    pub ttl_s: u32,
    pub consul: Option<ConsulNames>,
    /// Lower case, without dots at the ends.
    pub search: Vec<String>,
    pub virtual_addresses: VirtualRanges,
    pub limits: DnsLimits,
    /// 0: none.
    pub log_one_in: u32,
    pub forward: Forward,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulNames {
    /// Lower case, without dots at the ends.
    pub domain: String,
    pub datacenter: String,
    pub tag_label: String,
}

/// Where virtual addresses come from: the first address and the bits that are the same in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualRanges {
    /// 4 to 20 bits.
    pub v4: (Ipv4Addr, u8),
    /// 32 to 96 bits.
    pub v6: (Ipv6Addr, u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsLimits {
    pub connections_max: usize,
    /// Per connection.
    pub in_flight_max: usize,
    pub idle: Duration,
    /// Per client address.
    pub queries_per_second: Option<u32>,
}

/// What a service's name resolves to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceNames {
    pub answer: Answer,
    /// Names below the service's own mean it as well.
    pub wildcard: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Endpoints,
    Virtual,
}
