//! What the demo takes from the sidecar's `/metrics`.

use std::ops::Sub;

/// Counters since the start of the sidecar, or between two times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Readings {
    /// Picks whose time was taken: a sample.
    pub(super) timed_picks: f64,
    pub(super) timed_seconds: f64,
    pub(super) fallbacks: f64,
    pub(super) failures: f64,
    pub(super) swaps: f64,
    pub(super) retries: f64,
    pub(super) ejections: f64,
}

impl Readings {
    /// From the text format: what belongs to this policy and this service.
    pub(super) fn of(text: &str, policy: &str, service: &str) -> Self {
        let policy = format!("policy=\"{policy}\"");
        let service = format!("service=\"{service}\"");
        let mut readings = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value: f64 = value.parse().unwrap_or(0.0);
            let counter = match name {
                "outrigger_policy_duration_seconds_count" if labels.contains("call=\"pick\"") => {
                    &mut readings.timed_picks
                }
                "outrigger_policy_duration_seconds_sum" if labels.contains("call=\"pick\"") => {
                    &mut readings.timed_seconds
                }
                "outrigger_policy_fallbacks_total" => &mut readings.fallbacks,
                "outrigger_policy_failures_total" => &mut readings.failures,
                "outrigger_policy_swaps_total" => &mut readings.swaps,
                "outrigger_upstream_retries_total" => &mut readings.retries,
                "outrigger_upstream_ejections_total" => &mut readings.ejections,
                _ => continue,
            };
            if labels.contains(&policy) || labels.contains(&service) {
                *counter += value;
            }
        }
        readings
    }

    /// Mean time of a pick; `None` if none was timed.
    pub(super) fn pick_ns(&self) -> Option<f64> {
        (self.timed_picks > 0.0).then(|| self.timed_seconds / self.timed_picks * 1e9)
    }
}

impl Sub for Readings {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            timed_picks: self.timed_picks - before.timed_picks,
            timed_seconds: self.timed_seconds - before.timed_seconds,
            fallbacks: self.fallbacks - before.fallbacks,
            failures: self.failures - before.failures,
            swaps: self.swaps - before.swaps,
            retries: self.retries - before.retries,
            ejections: self.ejections - before.ejections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_belongs_to_policy_and_service() {
        let text = "# HELP outrigger_policy_swaps_total x\n\
            outrigger_policy_swaps_total{policy=\"demo\"} 3\n\
            outrigger_policy_swaps_total{policy=\"other\"} 7\n\
            outrigger_policy_fallbacks_total{policy=\"demo\",reason=\"failed\"} 2\n\
            outrigger_policy_fallbacks_total{policy=\"demo\",reason=\"tried\"} 1\n\
            outrigger_policy_duration_seconds_sum{call=\"pick\",policy=\"demo\"} 0.000004\n\
            outrigger_policy_duration_seconds_count{call=\"pick\",policy=\"demo\"} 8\n\
            outrigger_policy_duration_seconds_count{call=\"route\",policy=\"demo\"} 100\n\
            outrigger_upstream_retries_total{service=\"shop\"} 5\n\
            outrigger_snapshot_version 9\n";
        let readings = Readings::of(text, "demo", "shop");
        assert_eq!((readings.swaps, readings.fallbacks, readings.retries), (3.0, 3.0, 5.0));
        assert!((readings.pick_ns().unwrap() - 500.0).abs() < 1e-6);
        assert_eq!((readings - readings).pick_ns(), None);
    }
}
