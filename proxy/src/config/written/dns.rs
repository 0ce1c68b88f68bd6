//! `dns`: names for workloads, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OneOrMany, Span};

mod forward;

pub(crate) use forward::{DnsCache, Forward};

/// Names for workloads: services by name, everything else from other resolvers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dns {
    /// Where questions arrive, over UDP and TCP: one IP:port or a list. Never a wild card such as 0.0.0.0, since
    /// replies have to come from the address that was asked. Default: 127.0.0.1:15053 and, where the host has IPv6,
    /// [::1]:15053.
    pub(crate) listen: Option<OneOrMany>,
    /// How long clients may keep an answer about a service, and that there is no such service: 0s to 1h. Default: 5s.
    pub(crate) ttl: Option<Span>,
    /// Answers Consul's names as well: `SERVICE.service.consul` and its kin. Default: not.
    pub(crate) consul: Option<ConsulNames>,
    /// The workload's search suffixes (`search` in its resolv.conf), in order. A name that one of them was appended
    /// to in vain is answered at once with what the client would have found in the end. Default: none.
    pub(crate) search: Option<Vec<String>>,
    /// The ranges that services' virtual addresses are taken from.
    pub(crate) virtual_addresses: Option<VirtualAddresses>,
    /// Bounds on what clients can make the resolver do.
    pub(crate) limits: Option<DnsLimits>,
    /// Logs one in so many questions, at level info; 0 logs none. Default: 0.
    pub(crate) log_one_in: Option<u32>,
    /// Where names go that are not ours.
    pub(crate) forward: Option<Forward>,
}

/// How names in Consul's form are read.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsulNames {
    /// Default: consul.
    pub(crate) domain: Option<String>,
    /// The datacentre that names may say, since it is the one we know. Default: dc1.
    pub(crate) datacenter: Option<String>,
    /// The label whose value `TAG.SERVICE.service.consul` compares with, besides `tag-TAG`. Default: version.
    pub(crate) tag_label: Option<String>,
}

/// The ranges that services' virtual addresses are taken from. Nothing else may use them.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VirtualAddresses {
    /// /4 to /20. Default: 240.0.0.0/4.
    pub(crate) ipv4: Option<String>,
    /// /32 to /96. Default: fd6f:7574:7269::/64.
    pub(crate) ipv6: Option<String>,
}

/// Bounds on what clients can make the resolver do.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsLimits {
    /// Connections open at once. Default: 256.
    pub(crate) connections_max: Option<usize>,
    /// Questions of one connection that wait for an answer. Default: 32.
    pub(crate) in_flight_max: Option<usize>,
    /// A connection without a question is closed after this. Default: 10s.
    pub(crate) idle: Option<Span>,
    /// Questions per second and client address; more are refused. Default: not limited.
    pub(crate) queries_per_second: Option<u32>,
}

/// What a service's name resolves to.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceNames {
    /// What `SERVICE.<domain>` answers. Default: endpoints.
    pub(crate) answer: Option<Answer>,
    /// Every name below the service's is the service as well. Default: false.
    pub(crate) wildcard: Option<bool>,
}

/// Which addresses a name stands for.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Those of the endpoints: the client connects to one of them.
    Endpoints,
    /// The service's own: for clients whose connections are captured, or that speak HTTP to the sidecar.
    Virtual,
}
