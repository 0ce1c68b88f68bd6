//! The configuration as the program uses it: valid by construction, every default filled in.
//!
//! `config::load` is the only maker. Control turns it, with the catalogue, into snapshots; workers never see the
//! written form. Invariant: every name here refers to something that exists in the same value.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::release::Trust;
use crate::tls;

mod capture;
mod dns;
mod registry;

pub use capture::{Capture, Listen, Mode, Ports, Unknown};
pub use dns::{
    Answer, ConsulNames, Dns, DnsCache, DnsLimits, Forward, Resolver, ResolverVia, Resolvers, ServiceNames,
    VirtualRanges,
};
pub use registry::{
    Check, CheckKind, Consul, Etcd, MassRemoval, Register, Registry, RegistrySource, Server, Stale,
};

/// Everything one `outrigger run` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub node: Node,
    /// Worker threads, 1 to 256.
    pub workers: usize,
    /// Where the workload's requests arrive that are meant for us.
    pub outbound: Vec<SocketAddr>,
    /// What is led here without the workload's knowledge, if that is taken.
    pub capture: Option<Capture>,
    pub admin: Admin,
    pub registry: Registry,
    /// The last good catalogue and releases are kept here; `None` keeps none.
    pub state_dir: Option<PathBuf>,
    pub log: Log,
    /// `SERVICE.<domain>` names the service as well as `SERVICE`.
    pub domain: String,
    /// Names for workloads, if they are offered.
    pub dns: Option<Dns>,
    pub forwarded: ForwardedFields,
    pub limits: Limits,
    pub policy_host: PolicyHost,
    /// Policies that do not come with the program. Keys never clash with built-in names.
    pub policies: BTreeMap<String, NamedPolicy>,
    /// For services without an entry of their own.
    pub defaults: ServiceSettings,
    pub services: BTreeMap<String, ServiceSettings>,
    /// Tried in order; the first whose match fits and whose router does not say `next` decides.
    pub routes: Vec<Route>,
}

impl Config {
    /// All that connections with TLS are made with, each with the field that says so.
    pub fn tls_clients(&self) -> impl Iterator<Item = (&'static str, &tls::Client)> {
        let registry = match &self.registry.source {
            RegistrySource::File(_) => None,
            RegistrySource::Etcd(etcd) => etcd.tls.as_ref().map(|tls| ("registry.etcd.tls", tls)),
            RegistrySource::Consul(consul) => consul.tls.as_ref().map(|tls| ("registry.consul.tls", tls)),
        };
        let dns = self.dns.as_ref().and_then(|dns| dns.forward.tls.as_ref());
        registry.into_iter().chain(dns.map(|tls| ("dns.forward.tls", tls)))
    }

    /// Policies that are followed in the registry, by the names they have here.
    pub fn releases(&self) -> impl Iterator<Item = (&str, &Release)> {
        self.policies.iter().filter_map(|(name, policy)| match &policy.origin {
            PolicyOrigin::Release(release) => Some((name.as_str(), release)),
            PolicyOrigin::File(_) => None,
        })
    }

    /// Every place that names a policy.
    pub fn policy_uses(&self) -> impl Iterator<Item = &PolicyUse> {
        let services = self.services.values().map(|settings| &settings.balancer);
        let routes = self.routes.iter().filter_map(|route| match &route.action {
            RouteAction::Router { policy, .. } => Some(policy),
            RouteAction::Forward(_) => None,
        });
        std::iter::once(&self.defaults.balancer).chain(services).chain(routes)
    }
}

/// Who this sidecar is, as policies and metrics see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub service: String,
    pub zone: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub listen: AdminListen,
    /// What a request that changes state must carry (`Authorization: Bearer`); required off loopback.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminListen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// Filter as `tracing` has it: `info`, `outrigger=debug`.
    pub filter: String,
    /// One JSON line per request, on standard output.
    pub access: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which fields tell the upstream about the client. Members that came in are kept, ours is added at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedFields {
    None,
    /// `X-Forwarded-For`, `-Proto` and, where the authority is rewritten, `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    Both,
}

impl ForwardedFields {
    pub fn x_forwarded(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    pub fn forwarded(self) -> bool {
        matches!(self, Self::Forwarded | Self::Both)
    }
}

/// Bounds on what a peer can make us hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Client connections per worker and way in; above it, new ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Request or response head, in bytes (431 above it).
    pub head_bytes_max: usize,
    /// Header fields of one head.
    pub headers_max: usize,
    /// Idle connections kept per endpoint and worker.
    pub pool_idle_max: usize,
    /// Connections per endpoint and worker, idle and busy; above it a request is answered 503.
    pub endpoint_connections_max: usize,
}

/// How policies are kept in check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyHost {
    /// Compiled code is kept here; `None` compiles afresh at each start.
    pub cache_dir: Option<PathBuf>,
    /// Linear memory of one instance, in bytes.
    pub memory_bytes_max: usize,
    /// Size of a component, in bytes.
    pub component_bytes_max: usize,
    /// In this process, all workers together.
    pub instances_max: usize,
    /// CPU time of one `pick` or `route`.
    pub call_budget: Duration,
    /// CPU time of `configure`, `update` and state hand-off.
    pub update_budget: Duration,
    /// Whether policies are called without the component around them where that is possible.
    pub direct_calls: bool,
    /// This many failures within `quarantine_window` take a policy out of service until it is replaced.
    pub quarantine_failures: u32,
    pub quarantine_window: Duration,
}

/// A policy of the operator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPolicy {
    pub origin: PolicyOrigin,
    pub place: Place,
}

/// Where its component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyOrigin {
    /// Watched.
    File(PathBuf),
    /// Followed in the registry, which is not a file then.
    Release(Release),
}

/// A release that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// As it was published.
    pub name: String,
    pub trust: Trust,
}

/// Where in a file something was written, for messages.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

/// Places say where, not what: moving a line changes no configuration.
impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Place {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What nobody wrote has no place.
        if self.line == 0 {
            return f.write_str("default settings");
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// How traffic to one service is treated.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    pub balancer: PolicyUse,
    pub hash_key: HashKey,
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub ejection: Ejection,
    pub dns: ServiceNames,
}

/// A policy at work: which one, and with which configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyUse {
    /// A built-in name or a key of `Config::policies`.
    pub policy: String,
    /// JSON text, an object. `None`: what was published with the policy, or an empty one.
    pub config: Option<String>,
    /// Of the policy's name or configuration: the place shown when the policy refuses it.
    pub place: Place,
}

/// What the hash given to policies is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// Random for each request.
    None,
    Header(String),
    Cookie(String),
    SourceAddress,
    /// Without the query.
    Path,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request's head to the response's head, all attempts together. What follows is bounded by `idle`, so
    /// that a long answer lives for as long as it moves.
    pub request: Duration,
    /// A connection without a request is closed after this, on either side; so is one on which an answer or a
    /// tunnel has stopped moving.
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, 1 to 10. A failed connect is always safe to repeat; other failures only for idempotent
    /// methods, without a body, before the first byte of an answer.
    pub attempts: u32,
    /// Statuses that count as a failed attempt.
    pub statuses: Vec<u16>,
}

/// Passive health: endpoints that fail are left out for a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Consecutive failures (5xx, reset, refused, timeout) that eject; 0 turns ejection off.
    pub consecutive_failures: u32,
    /// First ejection; doubles with each further one, to at most `time_max`.
    pub time: Duration,
    pub time_max: Duration,
    /// Below this share of usable endpoints (0 to 1), all are used: better slow than nobody.
    pub panic_threshold: f64,
}

/// One entry of `routes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Unique; a metric label.
    pub name: String,
    pub matches: RouteMatch,
    pub action: RouteAction,
    pub place: Place,
}

/// All that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Authorities without port, lower case; `*.` as a first label matches one or more labels. Empty: any.
    pub hosts: Vec<String>,
    /// Whole path segments: `/api` fits `/api` and `/api/x`, not `/apiary`.
    pub path_prefix: Option<String>,
    /// Upper case; empty: any.
    pub methods: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RouteAction {
    /// Straight to a backend.
    Forward(Backend),
    /// A policy decides among the backends.
    Router { policy: PolicyUse, backends: Vec<Backend>, hash_key: HashKey },
}

/// A service, or the part of its endpoints that carry all the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// What the router policy calls it.
    pub name: String,
    pub service: String,
    pub labels: BTreeMap<String, String>,
}
