//! What is counted and logged about questions: by source, transport and code, with handles taken once.

use std::cell::{Cell, OnceCell};
use std::net::IpAddr;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::forward;
use super::name::as_text;
use super::wire::{Query, Transport};
use crate::metrics::Metrics;

/// Where a reply came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The snapshot.
    Local,
    Cache,
    Stale,
    Upstream,
    /// Nobody upstream could say.
    Failed,
    /// Malformed, not done here, or too many.
    Refused,
}

/// Why something was dropped without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    NoQuestion,
    Unsent,
    Connections,
    SlowClient,
}

const SOURCES: [&str; 6] = ["local", "cache", "stale", "upstream", "failed", "refused"];
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];
const CODES: [&str; 7] =
    ["no-error", "format-error", "failure", "no-such-name", "not-implemented", "refused", "other"];
const DROPPED: [&str; 4] = ["no-question", "unsent", "connections", "slow-client"];

#[derive(Debug)]
pub(super) struct Sight {
    /// By transport, source and code: made when first counted, since most never are.
    queries: Vec<OnceCell<IntCounter>>,
    metrics: Metrics,
    durations: [Histogram; SOURCES.len()],
    dropped: [IntCounter; DROPPED.len()],
    pub(super) connections: IntGauge,
    /// 0: none.
    log_one_in: u32,
    until_logged: Cell<u32>,
}

impl Sight {
    pub(super) fn new(metrics: &Metrics, log_one_in: u32) -> Self {
        let series = TRANSPORTS.len() * SOURCES.len() * CODES.len();
        Self {
            queries: (0..series).map(|_| OnceCell::new()).collect(),
            metrics: metrics.clone(),
            durations: SOURCES.map(|source| metrics.dns_duration.with_label_values(&[source])),
            dropped: DROPPED.map(|reason| metrics.dns_dropped.with_label_values(&[reason])),
            connections: metrics.dns_connections.clone(),
            log_one_in,
            until_logged: Cell::new(0),
        }
    }

    /// Once per reply. `reply` is what goes out.
    pub(super) fn replied(&self, via: Transport, source: Source, reply: &[u8], took_ns: u64) {
        let code = usize::from(reply.get(3).map_or(0, |flags| flags & 0x0f)).min(CODES.len() - 1);
        let index = (via as usize * SOURCES.len() + source as usize) * CODES.len() + code;
        let labels = || [TRANSPORTS[via as usize], SOURCES[source as usize], CODES[code]];
        self.queries[index].get_or_init(|| self.metrics.dns_queries.with_label_values(&labels())).inc();
        self.durations[source as usize].observe(took_ns as f64 / 1e9);
    }

    pub(super) fn dropped(&self, why: Dropped) {
        self.dropped[why as usize].inc();
    }

    /// One in so many, for operators who look for who asks what.
    pub(super) fn log(&self, query: &Query<'_>, client: IpAddr, source: Source) {
        if self.log_one_in == 0 {
            return;
        }
        match self.until_logged.get() {
            0 => {
                self.until_logged.set(self.log_one_in - 1);
                let (name, kind) = (as_text(query.name()), query.kind);
                tracing::info!(target: "outrigger::names", %client, name, kind, ?source, "question");
            }
            more => self.until_logged.set(more - 1),
        }
    }
}

impl From<forward::Source> for Source {
    fn from(source: forward::Source) -> Self {
        match source {
            forward::Source::Cache => Self::Cache,
            forward::Source::Stale => Self::Stale,
            forward::Source::Upstream => Self::Upstream,
            forward::Source::Failed => Self::Failed,
        }
    }
}
