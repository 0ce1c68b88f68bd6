//! Where services come from, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ClientTls, OneOrMany, Span};

/// Where services and their endpoints come from: one of `file`, `etcd` and `consul`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    /// A services file; it is watched. Relative to this file.
    pub(crate) file: Option<String>,
    /// An etcd cluster, 3.4 or later, through its JSON gateway.
    pub(crate) etcd: Option<Etcd>,
    /// A Consul agent, or a server that speaks its HTTP API.
    pub(crate) consul: Option<Consul>,
    /// Services to follow. Default: all.
    pub(crate) services: Option<Vec<String>>,
    /// What to do when the registry has not confirmed anything for a while.
    pub(crate) stale: Option<Stale>,
    /// When endpoints that the registry forgets all at once are kept while they answer.
    pub(crate) mass_removal: Option<MassRemoval>,
    /// The workload's own entry. Default: it is not registered.
    pub(crate) register: Option<Register>,
}

/// An etcd cluster.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Etcd {
    /// Client URLs of its members, such as http://10.0.0.1:2379: one or a list. With https, all of them.
    #[schemars(required)]
    pub(crate) endpoints: Option<OneOrMany>,
    /// What all keys begin with. Default: /outrigger.
    pub(crate) prefix: Option<String>,
    /// With authentication: the user.
    pub(crate) user: Option<String>,
    /// With authentication: file with the user's password.
    pub(crate) password_file: Option<String>,
    /// With https. An etcd that asks for clients' certificates has to have one itself that is good for a client, too:
    /// its gateway shows it.
    pub(crate) tls: Option<ClientTls>,
    /// For one exchange. Default: 2s.
    pub(crate) timeout: Option<Span>,
}

/// A Consul agent, or a server that speaks its HTTP API.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Consul {
    /// URLs, such as http://127.0.0.1:8500: one or a list. With https, all of them.
    #[schemars(required)]
    pub(crate) endpoints: Option<OneOrMany>,
    /// File with the ACL token.
    pub(crate) token_file: Option<String>,
    /// Default: the agent's.
    pub(crate) datacenter: Option<String>,
    /// With https.
    pub(crate) tls: Option<ClientTls>,
    /// For one exchange, beyond the time the server was asked to wait. Default: 2s.
    pub(crate) timeout: Option<Span>,
}

/// What to do when the registry has not confirmed anything for a while.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stale {
    /// How long is a while. Default: 5m.
    pub(crate) after: Option<Span>,
    /// Default: keep.
    pub(crate) then: Option<Then>,
}

/// What becomes of what a stale registry said.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Then {
    /// It serves on, and `/ready` says so.
    Keep,
    /// No service has endpoints until the registry is back.
    LeaveOut,
}

/// When endpoints that the registry forgets all at once are kept while they answer.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MassRemoval {
    /// More than this share of all endpoints gone within ten seconds, 0 to 1; 1 keeps none. Default: 0.5.
    pub(crate) share: Option<f64>,
    /// For how long at most they are kept. Default: 10m.
    pub(crate) hold: Option<Span>,
}

/// The workload's own entry in the registry.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    /// Where others reach the workload, IP:port. A port alone, as in `:8080`, is one of this network namespace's own
    /// address, by which its default route leads out, as it is when the file is read.
    #[schemars(required)]
    pub(crate) address: Option<String>,
    /// Default: `node.service`.
    pub(crate) service: Option<String>,
    /// Unique among the service's instances. Default: the address.
    pub(crate) id: Option<String>,
    /// Share of traffic relative to the others, 1 to 65535. Default: 1.
    pub(crate) weight: Option<u32>,
    /// Default: `node.zone`.
    pub(crate) zone: Option<String>,
    /// What routes and policies can choose by.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// Short for a label of this name.
    pub(crate) version: Option<String>,
    /// The entry vanishes when it has not been renewed for so long, 3s or more. Default: 10s.
    pub(crate) ttl: Option<Span>,
    /// How often the load of this machine is reported at most, 1s or more. Default: never.
    pub(crate) report_load: Option<Span>,
    /// Whether the workload is well. Default: it is taken to be.
    pub(crate) check: Option<Check>,
}

/// How the sidecar finds out whether the workload is well.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    /// What is tried.
    #[schemars(required)]
    pub(crate) kind: Option<CheckKind>,
    /// IP:port. Default: the workload's.
    pub(crate) address: Option<String>,
    /// With `http`. Default: /.
    pub(crate) path: Option<String>,
    /// With `grpc`: the service asked about. Default: the server as a whole.
    pub(crate) service: Option<String>,
    /// With `exec`: the program and its arguments.
    pub(crate) command: Option<Vec<String>>,
    /// Default: 2s.
    pub(crate) interval: Option<Span>,
    /// Default: 1s.
    pub(crate) timeout: Option<Span>,
    /// In a row, before the workload counts as unwell, 1 to 100. Default: 3.
    pub(crate) failures: Option<u32>,
    /// In a row, before it counts as well again, 1 to 100. Default: 1.
    pub(crate) successes: Option<u32>,
}

/// What is tried.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CheckKind {
    /// A connection can be made.
    Tcp,
    /// A GET is answered 2xx.
    Http,
    /// The gRPC health protocol says SERVING.
    Grpc,
    /// A program ends with 0.
    Exec,
}
