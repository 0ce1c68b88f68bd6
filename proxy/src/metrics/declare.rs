//! How a line of the table becomes a registered family.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Error, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets; empty for the other kinds.
    pub buckets: &'static [f64],
}

/// A kind of metric that the table may name.
pub(crate) trait Declare: Sized {
    fn declare(family: &Family, registry: &Registry) -> Result<Self, Error>;

    /// Drops the label sets in which `label` has one of these values.
    fn forget(&self, _label: &str, _values: &HashSet<Arc<str>>) {}
}

macro_rules! declare {
    ($($kind:ty: $opts:ty;)*) => {$(
        impl Declare for $kind {
            fn declare(family: &Family, registry: &Registry) -> Result<Self, Error> {
                let metric = Self::new(<$opts>::from(family), family.labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            }

            fn forget(&self, label: &str, values: &HashSet<Arc<str>>) {
                forget(self, label, values);
            }
        }
    )*};
    ($($kind:ty;)*) => {$(
        impl Declare for $kind {
            fn declare(family: &Family, registry: &Registry) -> Result<Self, Error> {
                let metric = Self::with_opts(Opts::from(family))?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            }
        }
    )*};
}

declare! { IntCounterVec: Opts; IntGaugeVec: Opts; GaugeVec: Opts; HistogramVec: HistogramOpts; }
declare! { IntCounter; IntGauge; Gauge; }

impl From<&Family> for Opts {
    fn from(family: &Family) -> Self {
        Self::new(family.name, family.help)
    }
}

impl From<&Family> for HistogramOpts {
    fn from(family: &Family) -> Self {
        Self::new(family.name, family.help).buckets(family.buckets.to_vec())
    }
}

/// All values that a label has.
pub(super) fn values_of<B: MetricVecBuilder>(vec: &MetricVec<B>, label: &str) -> BTreeSet<String> {
    let families = vec.collect();
    let labels = families.iter().flat_map(|family| family.get_metric()).flat_map(|m| m.get_label());
    labels.filter(|pair| pair.name() == label).map(|pair| pair.value().to_owned()).collect()
}

/// The crate removes a label set only by all of its values, so they are collected first.
fn forget<B: MetricVecBuilder>(vec: &MetricVec<B>, label: &str, values: &HashSet<Arc<str>>) {
    for family in vec.collect() {
        for metric in family.get_metric() {
            let labels: HashMap<&str, &str> =
                metric.get_label().iter().map(|l| (l.name(), l.value())).collect();
            if labels.get(label).is_some_and(|value| values.contains(*value)) {
                // It exists: it has just been collected, and control alone removes.
                let _ = vec.remove(&labels);
            }
        }
    }
}
