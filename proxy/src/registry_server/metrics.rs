//! Every metric of the embedded registry, declared in one table. No label value comes from a client.

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{
    Error, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use super::state::State;
use crate::metrics::{Declare, Family, Process, families};

/// All families; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

families! {
    requests: IntCounterVec = "outrigger_registry_server_requests_total", ["endpoint", "code_class"],
        "Requests answered, by the part of the interface they asked.";
    request_duration: HistogramVec = "outrigger_registry_server_request_duration_seconds", ["kind"],
        "Time to answer, by kind: read, write. Blocking reads are left out.", SECONDS;
    refused: IntCounterVec = "outrigger_registry_server_refused_total", ["limit"],
        "Requests and connections refused, by the limit that was reached.";
    denied: IntCounterVec = "outrigger_registry_server_denied_total", ["reason"],
        "Requests refused for want of a right, by reason: anonymous, unknown-token, read-only, foreign-host, origin.";
    handshake_failures: IntCounter = "outrigger_registry_server_handshake_failures_total", [],
        "TLS handshakes that came to nothing.";
    tls_reloads: IntCounterVec = "outrigger_registry_server_tls_reloads_total", ["result"],
        "Times that certificates and keys were read, by result: applied, refused.";
    connections: IntGauge = "outrigger_registry_server_connections", [],
        "Connections open now.";
    waiters: IntGauge = "outrigger_registry_server_waiters", [],
        "Blocking reads that wait now.";
    rows: IntGaugeVec = "outrigger_registry_server_rows", ["table"],
        "Entries by table: nodes, services, instances, checks, kv, sessions.";
    kv_bytes: IntGauge = "outrigger_registry_server_kv_bytes", [],
        "Bytes of keys and values.";
    checks: IntGaugeVec = "outrigger_registry_server_checks", ["status"],
        "Checks by status.";
    check_runs: IntCounterVec = "outrigger_registry_server_check_runs_total", ["kind", "result"],
        "Checks that the registry carried out, by what came of them.";
    index: IntGauge = "outrigger_registry_server_index", [],
        "Number of the last change.";
    changes: IntCounter = "outrigger_registry_server_changes_total", [],
        "Changes written to disk since the start.";
    commit_duration: HistogramVec = "outrigger_registry_server_commit_duration_seconds", [],
        "Time to write a batch of changes to disk.", SECONDS;
    commit_failures: IntCounter = "outrigger_registry_server_commit_failures_total", [],
        "Batches of changes that could not be written; none of them was acknowledged.";
    dns_queries: IntCounterVec = "outrigger_registry_server_dns_queries_total", ["transport", "code"],
        "DNS questions answered, by what was answered.";
    build_info: GaugeVec = "outrigger_registry_server_build_info", ["version"],
        "Always 1: the program that runs.";
}

/// From a tenth of a millisecond to some seconds: an `fdatasync` takes anything between them.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

impl Metrics {
    pub fn new() -> Result<Self, Error> {
        let families = Families::new()?;
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Self(Arc::new(families)))
    }

    /// The text format 0.0.4, with the numbers of this state.
    pub(crate) fn encode(&self, state: &State) -> Result<String, Error> {
        self.process.sample();
        let rows = [
            ("nodes", state.nodes.len()),
            ("services", state.services.len()),
            ("instances", state.counts.instances),
            ("checks", state.counts.checks),
            ("kv", state.kv.len()),
            ("sessions", state.sessions.len()),
        ];
        for (table, count) in rows {
            self.rows.with_label_values(&[table]).set(number(count));
        }
        self.kv_bytes.set(number(state.counts.kv_bytes));
        self.index.set(i64::try_from(state.index).unwrap_or(i64::MAX));
        for status in super::model::Status::ALL {
            let count = state.checks().filter(|check| check.status == status).count();
            self.checks.with_label_values(&[status.as_str()]).set(number(count));
        }
        let mut text = String::with_capacity(8 * 1024);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
