//! Every metric that the program exports, declared in one table.
//!
//! Workers take local handles (`with_label_values(…).local()`) once per label set and flush them on their tick and at
//! scrape, so that a request neither looks up labels nor writes a shared line. No label value comes from a peer.
//! A handle taken before `forget_services` counts nowhere: take handles anew when a service reappears.

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    Error, Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use crate::policy::PolicyMetrics;

mod declare;
mod policies;
mod process;

pub(crate) use declare::Declare;
pub use declare::Family;
pub use policies::POLICY_DISTRIBUTION;
pub use process::Process;

/// All families; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

/// Declares `Families` with one field per line, and `FAMILIES`, the same as data. Each program has one table.
macro_rules! families {
    ($($field:ident: $kind:ty = $name:literal, [$($label:literal),*], $help:literal $(, $buckets:ident)?;)*) => {
        /// One field per family.
        #[derive(Debug)]
        pub struct Families {
            registry: Registry,
            process: Process,
            $(#[doc = $help] pub $field: $kind,)*
        }

        /// What the table declares, for documentation and tests.
        pub const FAMILIES: &[Family] = &[
            $(Family { name: $name, labels: &[$($label),*], help: $help, buckets: families!(@ $($buckets)?) },)*
        ];

        impl Families {
            pub fn new() -> Result<Self, Error> {
                let registry = Registry::new();
                let mut table = FAMILIES.iter();
                let mut next = || table.next().ok_or_else(|| Error::Msg("the table of metrics is short".into()));
                $(let $field = <$kind>::declare(next()?, &registry)?;)*
                Ok(Self { process: Process::declare(&registry)?, registry, $($field,)* })
            }

            /// Drops every label set in which `label` has one of these values.
            pub fn forget(&self, label: &str, values: &std::collections::HashSet<std::sync::Arc<str>>) {
                $(if [$($label),*].contains(&label) { self.$field.forget(label, values); })*
            }
        }
    };
    (@ $buckets:ident) => { $buckets };
    (@) => { &[] };
}
pub(crate) use families;

families! {
    requests: IntCounterVec = "outrigger_requests_total", ["direction", "service", "route", "code_class", "outcome"],
        "Requests finished, by how they ended.";
    request_duration: HistogramVec = "outrigger_request_duration_seconds", ["direction", "service"],
        "Time from a request's head to the last byte of its response.", LATENCY_SECONDS;
    first_byte: HistogramVec = "outrigger_first_byte_seconds", ["service"],
        "Time from a request's head to the first byte of its answer.", LATENCY_SECONDS;
    request_bytes: IntCounterVec = "outrigger_request_bytes_total", ["direction", "service"],
        "Bytes of request bodies received from clients.";
    response_bytes: IntCounterVec = "outrigger_response_bytes_total", ["direction", "service"],
        "Bytes of response bodies sent to clients.";

    connections: IntGaugeVec = "outrigger_connections", ["worker"],
        "Client connections open now.";
    worker_swap: HistogramVec = "outrigger_worker_swap_seconds", ["worker"],
        "Time that a worker's requests wait while it takes a new snapshot and its policies into use.", SWAP_SECONDS;
    bad_requests: IntCounterVec = "outrigger_bad_requests_total", ["reason"],
        "Requests refused because their head or body is malformed or too large.";

    captured: IntCounterVec = "outrigger_captured_connections_total", ["direction", "kind"],
        "Captured connections, by what they turned out to be: http, tcp, passed, refused.";
    captured_refused: IntCounterVec = "outrigger_captured_refused_total", ["direction", "reason"],
        "Captured connections that were reset at once, by why: unknown, unassigned, not-redirected, loop.";
    tcp_connections: IntCounterVec = "outrigger_tcp_connections_total", ["direction", "service", "outcome"],
        "Connections that were relayed, by how they ended. Those without a service went past the sidecar.";
    tcp_duration: HistogramVec = "outrigger_tcp_connection_duration_seconds", ["direction", "service"],
        "Time from a relayed connection's beginning to its end.", CONNECTION_SECONDS;
    tcp_received: IntCounterVec = "outrigger_tcp_received_bytes_total", ["direction", "service"],
        "Bytes received from clients on relayed connections.";
    tcp_sent: IntCounterVec = "outrigger_tcp_sent_bytes_total", ["direction", "service"],
        "Bytes sent to clients on relayed connections.";

    upstream_connects: IntCounterVec = "outrigger_upstream_connects_total", ["service"],
        "Connections made to endpoints.";
    upstream_connect_failures: IntCounterVec = "outrigger_upstream_connect_failures_total", ["service"],
        "Connections to endpoints that could not be made.";
    upstream_retries: IntCounterVec = "outrigger_upstream_retries_total", ["service"],
        "Attempts after the first one of a request.";
    upstream_reused: IntCounterVec = "outrigger_upstream_reused_total", ["service"],
        "Attempts that found an idle connection.";
    upstream_ejections: IntCounterVec = "outrigger_upstream_ejections_total", ["service"],
        "Times that an endpoint was left out because it failed.";
    upstream_connections: IntGaugeVec = "outrigger_upstream_connections", ["service"],
        "Connections to endpoints open now, idle and busy.";

    policy_calls: IntCounterVec = "outrigger_policy_calls_total", ["policy", "call"],
        "Calls into policies.";
    policy_failures: IntCounterVec = "outrigger_policy_failures_total", ["policy", "kind"],
        "Calls that ended in a trap, overran a limit or answered nonsense.";
    policy_fallbacks: IntCounterVec = "outrigger_policy_fallbacks_total", ["policy", "reason"],
        "Decisions that the proxy's own balancer took in a policy's place.";
    policy_duration: HistogramVec = "outrigger_policy_duration_seconds", ["policy", "call"],
        "Time of a sample of the calls into policies.", CALL_SECONDS;
    policy_swaps: IntCounterVec = "outrigger_policy_swaps_total", ["policy"],
        "Versions of a policy put in force.";
    policy_refusals: IntCounterVec = "outrigger_policy_refusals_total", ["policy"],
        "Versions of a policy refused; the one before stays in force.";
    policy_info: IntGaugeVec = "outrigger_policy_info", ["policy", "digest"],
        "Always 1: the component in force.";
    policy_release: IntGaugeVec = "outrigger_policy_release", ["policy"],
        "Version in force, of policies that are followed in the registry.";
    policy_release_wanted: IntGaugeVec = "outrigger_policy_release_wanted", ["policy"],
        "Version that the registry says should be in force; another one is if this one is refused.";
    policy_quarantined: IntGaugeVec = "outrigger_policy_quarantined", ["policy"],
        "1 if the policy failed too often and waits to be replaced.";
    policy_instances: IntGauge = "outrigger_policy_instances", [],
        "Instances of policies that workers hold now.";
    policy_evictions: IntCounter = "outrigger_policy_evictions_total", [],
        "Instances given up for others because there was no room; they are made anew when wanted.";
    policy_value: IntGaugeVec = "outrigger_policy_value", ["policy", "name"],
        "Numbers that policies keep.";

    endpoints: IntGaugeVec = "outrigger_endpoints", ["service", "state"],
        "Endpoints by state: ready, ejected, draining, down. Of services that are configured or have been asked for.";
    catalogue_services: IntGauge = "outrigger_catalogue_services", [],
        "Services known.";
    catalogue_endpoints: IntGauge = "outrigger_catalogue_endpoints", [],
        "Endpoints known, whatever their state.";
    registry_last_confirmed: Gauge = "outrigger_registry_last_confirmed_seconds", [],
        "Seconds since the registry last confirmed what it says.";
    registry_valid: IntGauge = "outrigger_registry_valid", [],
        "1 if the registry's last word could be used.";
    registry_failures: IntCounter = "outrigger_registry_failures_total", [],
        "Exchanges with the registry that failed.";
    registry_resyncs: IntCounterVec = "outrigger_registry_resyncs_total", ["reason"],
        "Times that the whole catalogue was fetched, by why.";
    registry_bad_entries: IntCounter = "outrigger_registry_bad_entries_total", [],
        "Entries of the registry that could not be read.";
    registry_held_endpoints: IntGauge = "outrigger_registry_held_endpoints", [],
        "Endpoints that the registry has forgotten and that are kept because they answer.";
    tls_reloads: IntCounterVec = "outrigger_tls_reloads_total", ["result"],
        "Times that certificates and keys were read again, by result: applied, refused.";
    registered: IntGauge = "outrigger_registered", [],
        "1 if the workload is registered.";
    registrations: IntCounter = "outrigger_registrations_total", [],
        "Times that the workload was registered, or registered again.";
    workload_healthy: IntGauge = "outrigger_workload_healthy", [],
        "1 if the workload passes its check.";
    dns_queries: IntCounterVec = "outrigger_dns_queries_total", ["transport", "source", "code"],
        "Questions answered, by where the answer came from: local, cache, stale, upstream, failed or refused.";
    dns_duration: HistogramVec = "outrigger_dns_duration_seconds", ["source"],
        "Time from a question to its reply.", DNS_SECONDS;
    dns_dropped: IntCounterVec = "outrigger_dns_dropped_total", ["reason"],
        "Questions, replies and connections dropped without a word, by why.";
    dns_connections: IntGauge = "outrigger_dns_connections", [],
        "Connections with questions open now.";
    dns_upstream_up: IntGaugeVec = "outrigger_dns_upstream_up", ["upstream"],
        "1 if the resolver is asked; 0 while it does not answer, or is this program itself.";
    dns_upstream_queries: IntCounterVec = "outrigger_dns_upstream_queries_total", ["upstream"],
        "Questions sent to resolvers.";
    dns_upstream_seconds: HistogramVec = "outrigger_dns_upstream_seconds", ["upstream"],
        "Time from a question to a resolver's reply.", LATENCY_SECONDS;
    dns_upstream_failures: IntCounterVec = "outrigger_dns_upstream_failures_total", ["upstream", "reason"],
        "What was wrong with resolvers' replies, or that there was none, by reason.";
    dns_forward_in_flight: IntGauge = "outrigger_dns_forward_in_flight", [],
        "Questions of clients that wait for resolvers now.";
    dns_forward_merged: IntCounter = "outrigger_dns_forward_merged_total", [],
        "Questions that waited for the answer to the same question of another client.";
    dns_forward_refused: IntCounterVec = "outrigger_dns_forward_refused_total", ["limit"],
        "Questions turned away because too many waited, by limit: all, client, domain, same-question.";
    dns_cache: IntCounterVec = "outrigger_dns_cache_total", ["result"],
        "Looks into the cache of others' names, by result: hit, miss, stale; and prefetch, of what was asked ahead.";
    dns_cache_entries: IntGauge = "outrigger_dns_cache_entries", [],
        "Answers kept now.";
    dns_cache_bytes: IntGauge = "outrigger_dns_cache_bytes", [],
        "Memory of the answers kept now.";
    dns_cache_evictions: IntCounter = "outrigger_dns_cache_evictions_total", [],
        "Answers dropped to make room for others.";
    config_valid: IntGauge = "outrigger_config_valid", [],
        "1 if the configuration as it is now on disk is in force.";
    config_reloads: IntCounterVec = "outrigger_config_reloads_total", ["result"],
        "Changed configurations seen, by what came of them.";
    snapshot_version: IntGauge = "outrigger_snapshot_version", [],
        "Number of the snapshot published last.";
    access_log_dropped: IntCounter = "outrigger_access_log_dropped_total", [],
        "Lines of the access log lost because its reader was too slow.";
    build_info: GaugeVec = "outrigger_build_info", ["version"],
        "Always 1: the program that runs.";
}

/// From half a millisecond to half a minute.
const LATENCY_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// From a question and its answer to a pool's connection that lives for a day.
const CONNECTION_SECONDS: &[f64] =
    &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86_400.0];
/// From a tenth of a microsecond to the budget of a call and beyond.
const CALL_SECONDS: &[f64] =
    &[1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 5e-5, 2.5e-4, 1e-3, 2.5e-3, 1e-2];

/// From an answer out of memory to a resolver that gives up.
const DNS_SECONDS: &[f64] = &[1e-6, 2.5e-6, 5e-6, 1e-5, 5e-5, 2.5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 2.5, 10.0];

/// From the handing over of ready instances to a list of thousands of endpoints taken in by many.
const SWAP_SECONDS: &[f64] = &[1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 1e-2, 1e-1];

impl Metrics {
    pub fn new() -> Result<Self, Error> {
        let families = Families::new()?;
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Self(Arc::new(families)))
    }

    /// Removes what is kept about services that have left the configuration and the catalogue. The cost follows all that
    /// is kept: do it for many at once.
    pub fn forget_services(&self, services: &HashSet<Arc<str>>) {
        self.forget("service", services);
    }

    /// Services about which something is kept.
    pub fn services_used(&self) -> BTreeSet<String> {
        declare::values_of(&self.upstream_connects, "service")
    }

    /// Removes what is kept about a policy that is no longer configured.
    pub fn forget_policy(&self, policy: &str) {
        self.forget("policy", &HashSet::from([Arc::from(policy)]));
    }

    /// The text format 0.0.4, with the process's and the policies' own numbers as of now.
    pub fn encode<'a>(
        &self,
        policies: impl Iterator<Item = &'a PolicyMetrics> + Clone,
    ) -> Result<String, Error> {
        self.process.sample();
        for policy in policies.clone() {
            for (name, value) in policy.counters() {
                self.policy_value.with_label_values(&[policy.policy(), name]).set(value);
            }
        }
        let mut text = String::with_capacity(16 * 1024);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        policies::write(&mut text, policies).map_err(|error| Error::Msg(error.to_string()))?;
        Ok(text)
    }
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

/// Seconds since 1970, as Prometheus counts time.
pub(crate) fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests;
