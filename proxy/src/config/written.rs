//! The configuration as written in YAML.
//!
//! No logic: what is optional is `Option`, and `resolve` fills in defaults and checks. The comments on fields are the
//! descriptions in the JSON schema, so they speak to the author of a file. Every field is optional for serde, even
//! where the schema requires it: reading goes on without fields that are wrong (see `yaml`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

mod capture;
mod dns;
mod forms;
mod registry;
mod tls;
mod units;

pub(crate) use capture::{Capture, Mode, Unknown};
pub(crate) use dns::{
    Answer, ConsulNames, Dns, DnsCache, DnsLimits, Forward, ServiceNames, VirtualAddresses,
};
pub(crate) use forms::{OneOrMany, Ordered, Short};
pub(crate) use registry::{Check, CheckKind, Consul, Etcd, Register, Registry, Then};
pub(crate) use tls::{ClientTls, ServerTls};
pub(crate) use units::{Size, Span};

/// Configuration of one Outrigger sidecar.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outrigger configuration")]
pub(crate) struct Config {
    /// Who this sidecar is.
    pub(crate) node: Option<Node>,
    /// Worker threads, 1 to 256. Default: the number of cores, but at most 2.
    pub(crate) workers: Option<usize>,
    /// Where the workload's requests arrive that are meant for the sidecar: one IP:port or a list. Default:
    /// 127.0.0.1:15001, or nowhere with `capture.outbound`.
    pub(crate) outbound: Option<OneOrMany>,
    /// Takes the traffic that a capture table leads here (see `outrigger net`); `{}` takes all of it at the usual ports.
    /// Default: not taken.
    pub(crate) capture: Option<Capture>,
    /// The administration interface.
    pub(crate) admin: Option<Admin>,
    /// Where services and their endpoints come from.
    #[schemars(required)]
    pub(crate) registry: Option<Registry>,
    /// Where the last good catalogue and releases of a network registry are kept, for a start without it; `none` keeps
    /// none. Default: /var/lib/outrigger for root, otherwise $XDG_STATE_HOME/outrigger or ~/.local/state/outrigger.
    pub(crate) state_dir: Option<String>,
    /// `SERVICE.<domain>` names a service as well as `SERVICE`. Default: mesh.internal.
    pub(crate) domain: Option<String>,
    /// Names for workloads, over UDP and TCP; `{}` offers them as they come. Default: not offered.
    pub(crate) dns: Option<Dns>,
    /// What is logged, and how.
    pub(crate) log: Option<Log>,
    /// Which fields tell a service about the client. Default: x-forwarded.
    pub(crate) forwarded: Option<ForwardedFields>,
    /// Bounds on connections and heads.
    pub(crate) limits: Option<Limits>,
    /// How policies are kept in check.
    pub(crate) policy_host: Option<PolicyHost>,
    /// Policies of your own, by name.
    pub(crate) policies: Option<BTreeMap<String, Policy>>,
    /// Settings of every service, unless it has its own.
    pub(crate) defaults: Option<Service>,
    /// Settings by service; what is left out comes from `defaults`.
    pub(crate) services: Option<BTreeMap<String, Service>>,
    /// Tried in order: the first that fits, and whose router does not pass, decides. A request that fits no route
    /// goes to the service its host names.
    pub(crate) routes: Option<Vec<Route>>,
}

/// Who this sidecar is, as policies and metrics see it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// The service that the workload belongs to.
    pub(crate) service: Option<String>,
    /// The zone it runs in.
    pub(crate) zone: Option<String>,
}

/// The administration interface.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    /// IP:port, or `unix:` and the path of a socket. Default: 127.0.0.1:15020.
    pub(crate) listen: Option<String>,
    /// File with the bearer token that changes need. A token is required unless `listen` is loopback or a socket.
    pub(crate) token_file: Option<String>,
    /// The bearer token itself; prefer `token_file`.
    pub(crate) token: Option<String>,
}

/// What is logged, and how.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    /// Default: text.
    pub(crate) format: Option<LogFormat>,
    /// Levels, as in `info` or `info,outrigger=debug`. Default: info.
    pub(crate) filter: Option<String>,
    /// One JSON line per request, or per connection that is relayed, on standard output. Default: false.
    pub(crate) access: Option<bool>,
}

/// Form of log lines.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Which fields tell a service about the client. Members that came in are kept, ours is added at the end.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardedFields {
    /// No fields are added.
    None,
    /// `X-Forwarded-For`, `-Proto` and, where the authority is rewritten, `-Host`.
    XForwarded,
    /// `Forwarded`, as RFC 7239 has it.
    Forwarded,
    /// Both kinds.
    Both,
}

/// Bounds on what a peer can make the proxy hold.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Client connections per worker; captured ones are counted apart, by direction. Default: 16384.
    pub(crate) connections_max: Option<usize>,
    /// Size of a request's or response's head. Default: 64KiB.
    pub(crate) head_bytes_max: Option<Size>,
    /// Header fields of one head. Default: 128.
    pub(crate) headers_max: Option<usize>,
    /// Idle connections kept per endpoint and worker. Default: 256.
    pub(crate) pool_idle_max: Option<usize>,
    /// Connections per endpoint and worker. Default: 1024.
    pub(crate) endpoint_connections_max: Option<usize>,
}

/// How policies are kept in check.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyHost {
    /// Directory for compiled policies; `none` compiles afresh at each start. Default: $XDG_CACHE_HOME/outrigger,
    /// ~/.cache/outrigger, or /var/cache/outrigger for root.
    pub(crate) cache_dir: Option<String>,
    /// Memory of one policy instance. Default: 16MiB.
    pub(crate) memory_bytes_max: Option<Size>,
    /// Size of a policy's component. Default: 32MiB.
    pub(crate) component_bytes_max: Option<Size>,
    /// Instances of policies in this process, all workers together. A service that the configuration does not name has
    /// one from its first request on; where there is no room, the service not asked for longest gives its up.
    /// Default: 4096.
    pub(crate) instances_max: Option<usize>,
    /// CPU time of one decision. Default: 2ms.
    pub(crate) call_budget: Option<Span>,
    /// CPU time to take in configuration or a new list of endpoints. Default: 50ms.
    pub(crate) update_budget: Option<Span>,
    /// Calls the core module of a policy directly where its component has the usual shape, at a third of the cost;
    /// `false` goes through the component always. Default: true.
    pub(crate) direct_calls: Option<bool>,
    /// Files with public keys (`outrigger policy keygen`), one or a list: releases that none of them has signed are
    /// refused. Files and what comes through the admin interface need no signature. Default: releases need none.
    pub(crate) trusted_keys: Option<OneOrMany>,
    /// When a failing policy is taken out of service.
    pub(crate) quarantine: Option<Quarantine>,
}

/// When a failing policy is taken out of service, until it is replaced.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quarantine {
    /// So many failures within `window`. Default: 5.
    pub(crate) failures: Option<u32>,
    /// Default: 30s.
    pub(crate) window: Option<Span>,
}

/// A policy of your own: either a file, or a release in the registry.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// A WebAssembly component, or a core module made for Outrigger; it is watched. Relative to this file.
    pub(crate) file: Option<String>,
    /// What `outrigger policy push --name` published in the registry under this name: the version in force there is
    /// followed. Until it has come, the proxy's own balancer serves in its place.
    pub(crate) release: Option<String>,
    /// With `release`: the lowest version that is accepted. Default: 0.
    pub(crate) at_least: Option<u64>,
    /// With `release`: files with public keys, one or a list, one of which must have signed it. Default:
    /// `policy_host.trusted_keys`.
    pub(crate) keys: Option<OneOrMany>,
}

/// A policy and its configuration.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyUse {
    /// A built-in policy or one of `policies`.
    #[schemars(required)]
    pub(crate) policy: Option<String>,
    /// Given to the policy as it is. Default: what was published with its release, or an empty mapping.
    pub(crate) config: Option<Map<String, Value>>,
}

/// How traffic to a service is treated.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// The policy that picks an endpoint: its name, or name and configuration. Default: p2c.
    pub(crate) balancer: Option<Short<PolicyUse>>,
    /// What the hash given to the policy is made of. Default: none.
    pub(crate) hash_key: Option<HashKey>,
    /// How long is waited for what.
    pub(crate) timeouts: Option<Timeouts>,
    /// When a request is sent again.
    pub(crate) retry: Option<Retry>,
    /// When an endpoint that fails is left out for a while.
    pub(crate) ejection: Option<Ejection>,
    /// What its name resolves to, with `dns`.
    pub(crate) dns: Option<ServiceNames>,
}

/// What the hash given to policies is made of.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HashKey {
    /// Random for each request.
    None,
    /// The client's IP address.
    SourceAddress,
    /// The path, without the query.
    Path,
    /// A header's value, by its name.
    Header(String),
    /// A cookie's value, by its name.
    Cookie(String),
}

/// How long is waited for what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// To reach an endpoint. Default: 1s.
    pub(crate) connect: Option<Span>,
    /// From a request's head to its response's head, all attempts together. Default: 30s.
    pub(crate) request: Option<Span>,
    /// A connection without a request is closed after this; so is one on which an answer or a tunnel has stopped
    /// moving. Default: 300s.
    pub(crate) idle: Option<Span>,
}

/// When a request is sent again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    /// Attempts in all, 1 to 10. Default: 2.
    pub(crate) attempts: Option<u32>,
    /// Statuses, 400 to 599, that count as a failed attempt. Default: none.
    pub(crate) statuses: Option<Vec<u16>>,
}

/// When an endpoint that fails is left out for a while.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ejection {
    /// So many failures without a success between them; 0 turns ejection off. Default: 5.
    pub(crate) consecutive_failures: Option<u32>,
    /// How long at first; doubles each time. Default: 1s.
    pub(crate) time: Option<Span>,
    /// How long at most. Default: 60s.
    pub(crate) time_max: Option<Span>,
    /// Below this share of usable endpoints, 0 to 1, all are used. Default: 0.5.
    pub(crate) panic_threshold: Option<f64>,
}

/// Where a request goes: to a service, or to the backend that a router policy chooses.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Unique; names the route in metrics. Default: route- and its index.
    pub(crate) name: Option<String>,
    /// Which requests; left out: all.
    #[serde(rename = "match")]
    pub(crate) matches: Option<Match>,
    /// Where they go. Either this or `router`.
    pub(crate) service: Option<String>,
    /// With `service`: only to endpoints that carry all these labels.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// The policy that chooses among `backends`: its name, or name and configuration.
    pub(crate) router: Option<Short<PolicyUse>>,
    /// With `router`: by the names it knows them by, in this order.
    pub(crate) backends: Option<Ordered<Short<Backend>>>,
    /// With `router`: what the hash given to it is made of. Default: none.
    pub(crate) hash_key: Option<HashKey>,
}

/// Which requests a route takes: all that is given must fit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Match {
    /// Hosts, without port; `*.` as the first label stands for one or more labels.
    pub(crate) hosts: Option<Vec<String>>,
    /// Whole segments: /api fits /api and /api/x, not /apiary. A slash at the end makes no difference.
    pub(crate) path_prefix: Option<String>,
    /// Such as GET.
    pub(crate) methods: Option<Vec<String>>,
}

/// A service, or part of its endpoints. The short form is the service's name.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backend {
    /// The service.
    #[schemars(required)]
    pub(crate) service: Option<String>,
    /// Only endpoints that carry all these labels.
    pub(crate) labels: Option<BTreeMap<String, String>>,
}
