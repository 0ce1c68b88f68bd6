//! What forwarding counts, with handles that are looked up once: one thread counts here, so they are plain counters.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::forward::Lie;
use crate::metrics::Metrics;

/// Of one upstream.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    pub(super) up: IntGauge,
    pub(super) queries: IntCounter,
    pub(super) seconds: Histogram,
    /// Replies that had to be asked for over TCP.
    pub(super) truncated: IntCounter,
    all: Metrics,
    label: String,
}

impl UpstreamMetrics {
    pub(super) fn new(metrics: &Metrics, label: &str) -> Self {
        Self {
            up: metrics.dns_upstream_up.with_label_values(&[label]),
            queries: metrics.dns_upstream_queries.with_label_values(&[label]),
            seconds: metrics.dns_upstream_seconds.with_label_values(&[label]),
            truncated: metrics.dns_upstream_failures.with_label_values(&[label, "truncated"]),
            all: metrics.clone(),
            label: label.to_owned(),
        }
    }

    pub(super) fn failure(&self, reason: &str) {
        self.all.dns_upstream_failures.with_label_values(&[&self.label, reason]).inc();
    }

    /// A code that says that the upstream could not find out.
    pub(super) fn fail(&self, code: u16) {
        self.failure(match code {
            1 => "format-error",
            2 => "server-failure",
            4 => "not-implemented",
            5 => "refused-to-answer",
            _ => "other-code",
        });
    }

    pub(super) fn lie(&self, lie: Lie) {
        self.failure(match lie {
            Lie::Id => "wrong-id",
            Lie::Question => "wrong-question",
        });
    }
}

/// Of the forwarder and its cache.
#[derive(Debug)]
pub(super) struct ForwardMetrics {
    pub(super) merged: IntCounter,
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) prefetches: IntCounter,
    pub(super) entries: IntGauge,
    pub(super) bytes: IntGauge,
    pub(super) evictions: IntCounter,
    all: Metrics,
}

impl ForwardMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let cache = |result: &str| metrics.dns_cache.with_label_values(&[result]);
        Self {
            merged: metrics.dns_forward_merged.clone(),
            hits: cache("hit"),
            misses: cache("miss"),
            stale: cache("stale"),
            prefetches: cache("prefetch"),
            entries: metrics.dns_cache_entries.clone(),
            bytes: metrics.dns_cache_bytes.clone(),
            evictions: metrics.dns_cache_evictions.clone(),
            all: metrics.clone(),
        }
    }

    /// A question was turned away, by the limit that was reached.
    pub(super) fn turned_away(&self, limit: &str) {
        self.all.dns_forward_refused.with_label_values(&[limit]).inc();
    }
}
