//! `dns.forward`: where names go that are not ours, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::{ClientTls, OneOrMany, Size, Span};

/// Where names go that are not ours. A resolver is an IP or IP:port for UDP and, where an answer is too large for that,
/// TCP; `tcp://IP` for TCP always; `tls://IP#NAME` for TLS, with the name that the resolver's certificate must have.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    /// Resolvers: one or a list; the fastest is preferred. Default: those of `resolv_conf`.
    pub(crate) servers: Option<OneOrMany>,
    /// The workload's original list of resolvers, read again when it changes. Where this sidecar itself listens, nobody
    /// is asked. Default: /etc/resolv.conf.
    pub(crate) resolv_conf: Option<String>,
    /// Resolvers for names in a domain, by the domain: one or a list. The longest domain that fits decides.
    pub(crate) domains: Option<BTreeMap<String, OneOrMany>>,
    /// How long is tried, with all resolvers together, before a question has failed. Default: 4s, since clients wait 5.
    pub(crate) timeout: Option<Span>,
    /// Asks with letters in random case and wants them back: harder to forge, but a few servers cannot. Default: false.
    pub(crate) random_case: Option<bool>,
    /// For resolvers with `tls://`, whose certificates are always checked.
    pub(crate) tls: Option<ClientTls>,
    /// Answers that are kept.
    pub(crate) cache: Option<DnsCache>,
}

/// Answers that are kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsCache {
    /// 0 keeps none. Default: 10000.
    pub(crate) entries_max: Option<usize>,
    /// Default: 4MiB.
    pub(crate) bytes_max: Option<Size>,
    /// Answers are kept for so long at least, whatever they say. Default: 0s.
    pub(crate) ttl_min: Option<Span>,
    /// Default: 24h.
    pub(crate) ttl_max: Option<Span>,
    /// For how long at most a name is taken not to exist. Default: 15m.
    pub(crate) negative_ttl_max: Option<Span>,
    /// How long after its end an answer may still be given, when no resolver answers; 0s: never. Default: 24h.
    pub(crate) stale: Option<Span>,
    /// Asks anew before an answer ends that is asked for again and again. Default: true.
    pub(crate) prefetch: Option<bool>,
}
