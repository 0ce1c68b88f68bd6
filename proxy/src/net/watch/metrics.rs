//! Every metric of `outrigger net run`, declared in one table. Labels are names from the network file, or from those
//! who add workloads on this host; none comes from a peer.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use prometheus::{Error, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use tokio::time::Instant;

use super::super::store::Record;
use crate::metrics::{Declare, Family, Process, families};

/// All families; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

families! {
    applies: IntCounterVec = "outrigger_net_applies_total", ["result"],
        "Times that a file or news of other hosts were to come into force, by result: changed, unchanged, failed.";
    repairs: IntCounterVec = "outrigger_net_repairs_total", ["place"],
        "Times that something was put right that others had changed, by place: host, workload.";
    looks: IntCounter = "outrigger_net_looks_total", [],
        "Times that the kernel was compared with what should be.";
    failures: IntCounter = "outrigger_net_failures_total", [],
        "Looks and repairs that failed; each is tried again.";
    drift: IntGauge = "outrigger_net_drift", [],
        "Differences that could not be put right; 0 is in order.";
    file_refused: IntGauge = "outrigger_net_file_refused", [],
        "1 while the file on disk cannot come into force, and the last good one holds.";
    fights: IntGauge = "outrigger_net_places_fought_over", [],
        "Places where somebody undoes what is put right, so that repairs are held back.";
    workloads: IntGaugeVec = "outrigger_net_workloads", ["state"],
        "Workloads by state: served, waiting (its namespace is not there).";
    addresses: IntGaugeVec = "outrigger_net_addresses", ["network"],
        "Addresses given to workloads.";
    overlay_leased: IntGaugeVec = "outrigger_net_overlay_leased", ["network"],
        "1 while this host has a subnet of the network.";
    overlay_peers: IntGaugeVec = "outrigger_net_overlay_peers", ["network"],
        "Other hosts of the network.";
    overlay_left_out: IntGaugeVec = "outrigger_net_overlay_hosts_left_out", ["network"],
        "Hosts that etcd names and that cannot be believed or reached.";
    overlay_confirmed: GaugeVec = "outrigger_net_overlay_confirmed_seconds", ["network"],
        "Seconds since etcd last said that this host's subnet is its own.";
    overlay_lost: IntCounterVec = "outrigger_net_overlay_lost_total", ["network", "outcome"],
        "Times that the lease of this host's subnet had ended, by outcome: regained, renumbered (another host has it).";
    passed: IntGaugeVec = "outrigger_net_passed_udp_flows", ["workload"],
        "Flows of UDP that passed a captured workload's table untouched, since the table came.";
    build_info: GaugeVec = "outrigger_net_build_info", ["version"],
        "Always 1: the program that runs.";
}

impl Metrics {
    pub fn new() -> Result<Self, Error> {
        let families = Families::new()?;
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        for result in ["changed", "unchanged", "failed"] {
            families.applies.with_label_values(&[result]);
        }
        for place in ["host", "workload"] {
            families.repairs.with_label_values(&[place]);
        }
        Ok(Self(Arc::new(families)))
    }

    /// The text format 0.0.4.
    pub(super) fn encode(&self) -> Result<String, Error> {
        self.process.sample();
        let mut text = String::with_capacity(8 * 1024);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// What is in force now, and who is not served.
    pub(super) fn show(&self, record: &Record, waiting: usize) {
        self.workloads.with_label_values(&["waiting"]).set(number(waiting));
        let served = record.settings.workloads.len().saturating_sub(waiting);
        self.workloads.with_label_values(&["served"]).set(number(served));
        self.addresses.reset();
        for network in record.settings.networks.keys() {
            let count = record.leases.iter().filter(|lease| lease.network == *network).count();
            self.addresses.with_label_values(&[network]).set(number(count));
        }
    }

    pub(super) fn forget_overlays(&self) {
        self.overlay_leased.reset();
        self.overlay_peers.reset();
        self.overlay_left_out.reset();
        self.overlay_confirmed.reset();
    }

    /// `peers` is of a network that is leased.
    pub(super) fn show_overlay(
        &self,
        network: &str,
        peers: Option<usize>,
        left_out: usize,
        confirmed: Option<Instant>,
    ) {
        self.overlay_leased.with_label_values(&[network]).set(peers.is_some().into());
        self.overlay_peers.with_label_values(&[network]).set(number(peers.unwrap_or(0)));
        self.overlay_left_out.with_label_values(&[network]).set(number(left_out));
        if let Some(confirmed) = confirmed {
            let seconds = confirmed.elapsed().as_secs_f64();
            self.overlay_confirmed.with_label_values(&[network]).set(seconds);
        }
    }

    /// Workloads that are gone take their numbers with them.
    pub(super) fn show_passed(&self, passed: &BTreeMap<String, u64>) {
        self.passed.reset();
        for (workload, flows) in passed {
            let flows = i64::try_from(*flows).unwrap_or(i64::MAX);
            self.passed.with_label_values(&[workload]).set(flows);
        }
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
