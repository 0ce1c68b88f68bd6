//! What an attempt's end teaches us about its endpoint: moving averages and passive ejection.
//!
//! The state is shared by all workers with relaxed atomics. Two workers that settle at once may lose one sample of an
//! average; they cannot corrupt it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::config::Ejection;
use crate::policy::Outcome;
use crate::snapshot::EndpointState;

/// Averages move by this part of the difference: the last 8 samples weigh most.
const AVERAGE_SHARE: i64 = 8;

/// Whether the outcome says that the endpoint itself is at fault.
pub(in crate::worker) fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::ServerError | Outcome::Timeout | Outcome::Reset | Outcome::Refused)
}

/// Takes in one attempt. Answers whether it ejected the endpoint.
pub(in crate::worker) fn settle(
    state: &EndpointState,
    ejection: &Ejection,
    outcome: Outcome,
    first_byte: Option<Duration>,
    now_ms: u64,
) -> bool {
    if outcome == Outcome::Cancelled {
        return false;
    }
    if let Some(first_byte) = first_byte {
        let sample = u32::try_from(first_byte.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = state.latency_us.load(Relaxed);
        state.latency_us.store(if before == 0 { sample } else { toward(before, sample).max(1) }, Relaxed);
    }
    let failed = is_failure(outcome) || outcome == Outcome::RateLimited;
    nudge(&state.success, if failed { 0 } else { 1000 });
    if !is_failure(outcome) {
        if state.failures.load(Relaxed) != 0 {
            state.failures.store(0, Relaxed);
        }
        return false;
    }
    let failures = state.failures.fetch_add(1, Relaxed) + 1;
    if ejection.consecutive_failures == 0 || failures < ejection.consecutive_failures {
        return false;
    }
    state.failures.store(0, Relaxed);
    eject(state, ejection, now_ms)
}

/// Leaves the endpoint out, each time for twice as long, starting over after a calm spell of `time_max`.
fn eject(state: &EndpointState, ejection: &Ejection, now_ms: u64) -> bool {
    let until = state.ejected_until_ms.load(Relaxed);
    if until > now_ms {
        return false;
    }
    let max_ms = u64::try_from(ejection.time_max.as_millis()).unwrap_or(u64::MAX);
    if until + max_ms < now_ms {
        state.ejections.store(0, Relaxed);
    }
    let doublings = state.ejections.fetch_add(1, Relaxed).min(31);
    let time_ms = u64::try_from(ejection.time.as_millis()).unwrap_or(u64::MAX);
    let time_ms = time_ms.saturating_mul(1 << doublings).min(max_ms).max(1);
    state.ejected_until_ms.store(now_ms + time_ms, Relaxed);
    true
}

fn nudge(average: &AtomicU32, sample: u32) {
    let before = average.load(Relaxed);
    if before != sample {
        average.store(toward(before, sample), Relaxed);
    }
}

/// One step from `before` to `sample`, at least 1, so that an average arrives in the end.
fn toward(before: u32, sample: u32) -> u32 {
    let difference = i64::from(sample) - i64::from(before);
    let step = difference / AVERAGE_SHARE;
    let step = if step == 0 { difference.signum() } else { step };
    u32::try_from(i64::from(before) + step).unwrap_or(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Ejection {
        Ejection {
            consecutive_failures: 3,
            time: Duration::from_secs(1),
            time_max: Duration::from_secs(3),
            panic_threshold: 0.5,
        }
    }

    #[test]
    fn ejection_comes_after_consecutive_failures_and_doubles() {
        let state = EndpointState::default();
        let fail = |now| settle(&state, &rules(), Outcome::Reset, None, now);
        assert!(!fail(10) && !fail(10));
        assert!(!settle(&state, &rules(), Outcome::Success, None, 10), "a success starts the count anew");
        assert!(!fail(10) && !fail(10) && fail(10));
        assert_eq!(state.ejected_until_ms.load(Relaxed), 1010);
        assert!(!fail(1011) && !fail(1011) && fail(1011));
        assert_eq!(state.ejected_until_ms.load(Relaxed), 3011);
        assert!(!fail(3012) && !fail(3012) && fail(3012));
        assert_eq!(state.ejected_until_ms.load(Relaxed), 6012, "bounded by time_max");
        assert!(!fail(60_000) && !fail(60_000) && fail(60_000));
        assert_eq!(state.ejected_until_ms.load(Relaxed), 61_000, "a calm spell forgives");
    }

    #[test]
    fn averages_follow_their_samples() {
        let state = EndpointState::default();
        for _ in 0..100 {
            settle(&state, &rules(), Outcome::Success, Some(Duration::from_micros(800)), 1);
        }
        assert_eq!(state.latency_us.load(Relaxed), 800);
        for _ in 0..200 {
            settle(&state, &rules(), Outcome::RateLimited, Some(Duration::from_micros(100)), 1);
        }
        assert_eq!((state.latency_us.load(Relaxed), state.success.load(Relaxed)), (100, 0));
    }
}
