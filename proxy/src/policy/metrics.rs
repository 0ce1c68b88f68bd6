//! Numbers that a policy keeps for itself: counters and distributions, shared by all its instances.
//!
//! There is one `PolicyMetrics` per policy name. It outlives instances and swaps, and the exporter reads it at any
//! time. Slots are filled once and never emptied, so reading and counting take no lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Counters of one policy; those over the cap count nowhere.
pub const COUNTERS_MAX: usize = 32;
/// Histograms of one policy; those over the cap count nowhere.
pub const HISTOGRAMS_MAX: usize = 8;
/// Buckets of a histogram: values up to 1, 4, 16, …, 4^31; the last is open.
pub const BUCKETS: usize = 33;
/// Longest name.
pub const NAME_BYTES_MAX: usize = 64;

/// The counters and histograms of one policy.
#[derive(Debug)]
pub struct PolicyMetrics {
    policy: Arc<str>,
    counters: [OnceLock<(String, AtomicI64)>; COUNTERS_MAX],
    histograms: [OnceLock<(String, Histogram)>; HISTOGRAMS_MAX],
}

/// A distribution in powers of four.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl PolicyMetrics {
    pub fn new(policy: &str) -> Self {
        Self { policy: policy.into(), counters: Default::default(), histograms: Default::default() }
    }

    /// The policy's name, as configured.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Name and value, in order of first use.
    pub fn counters(&self) -> impl Iterator<Item = (&str, i64)> {
        self.counters
            .iter()
            .filter_map(OnceLock::get)
            .map(|(name, value)| (name.as_str(), value.load(Relaxed)))
    }

    pub fn histograms(&self) -> impl Iterator<Item = (&str, &Histogram)> {
        self.histograms.iter().filter_map(OnceLock::get).map(|(name, histogram)| (name.as_str(), histogram))
    }

    /// The slot of the counter; `None` over the cap.
    pub(super) fn counter_slot(&self, name: &str) -> Option<usize> {
        slot(&self.counters, name)
    }

    pub(super) fn histogram_slot(&self, name: &str) -> Option<usize> {
        slot(&self.histograms, name)
    }

    pub(super) fn counter(&self, slot: usize) -> Option<&AtomicI64> {
        self.counters.get(slot)?.get().map(|(_, value)| value)
    }

    pub(super) fn histogram(&self, slot: usize) -> Option<&Histogram> {
        self.histograms.get(slot)?.get().map(|(_, histogram)| histogram)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(super) fn observe(&self, value: u64) {
        self.buckets[bucket(value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Upper bound and count of each bucket, not cumulated; the last bound is `None`.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.buckets.iter().enumerate().map(|(i, n)| (1u64.checked_shl(2 * i as u32), n.load(Relaxed)))
    }

    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }
}

/// Letters, digits and `_`, not beginning with a digit.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The slot that has the name, or the first free one. Two threads may race for a free slot: the loser looks at what
/// the winner wrote, and goes on if it is another name.
fn slot<T: Default>(slots: &[OnceLock<(String, T)>], name: &str) -> Option<usize> {
    slots.iter().position(|slot| slot.get_or_init(|| (name.to_owned(), T::default())).0 == name)
}

/// Index of the smallest power of four that is not below the value.
fn bucket(value: u64) -> usize {
    let bits = 64 - value.saturating_sub(1).leading_zeros() as usize;
    bits.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_names_are_found_again() {
        let metrics = PolicyMetrics::new("p");
        for i in 0..COUNTERS_MAX {
            assert_eq!(metrics.counter_slot(&format!("c{i}")), Some(i));
        }
        assert_eq!(metrics.counter_slot("one_more"), None);
        assert_eq!(metrics.counter_slot("c3"), Some(3));
        assert_eq!(metrics.counters().count(), COUNTERS_MAX);
    }

    #[test]
    fn buckets_are_powers_of_four() {
        for (value, expected) in [(0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (16, 2), (17, 3), (u64::MAX, 32)] {
            assert_eq!(bucket(value), expected, "{value}");
        }
        let histogram = Histogram::default();
        histogram.observe(5);
        assert_eq!(histogram.buckets().find(|(_, n)| *n == 1), Some((Some(16), 1)));
        assert_eq!(histogram.buckets().last(), Some((None, 0)));
    }

    #[test]
    fn names_are_checked() {
        assert!(is_name("hits_total"));
        assert!(
            !is_name("") && !is_name("1st") && !is_name("a-b") && !is_name("ü") && !is_name(&"x".repeat(65))
        );
    }
}
