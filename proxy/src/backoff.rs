//! How long to wait before trying again: exponential, with full jitter, so that ten thousand sidecars that lose their
//! registry in one instant come back spread out.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Upper end of the first pause.
const FIRST: Duration = Duration::from_millis(500);
/// Upper end of all later ones.
const LAST: Duration = Duration::from_secs(15);

/// Pauses between attempts, and other things that must not happen everywhere at once.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }
}

impl Backoff {
    fn seeded(random: u64) -> Self {
        Self { failures: 0, random }
    }

    /// The pause before the next attempt: anything up to a bound that doubles with each failure.
    pub fn pause(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures += 1;
        bound.mul_f64(self.fraction())
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Between three quarters of a time and the whole.
    pub fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.75 + self.fraction() / 4.0)
    }

    /// Between nothing and the whole.
    pub fn within(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.fraction())
    }

    /// A number that no two processes share (wyrand).
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.random) * u128::from(self.random ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    /// 0 to 1.
    fn fraction(&mut self) -> f64 {
        f64::from(self.random() as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDECARS: u64 = 10_000;
    const SLOT_MS: usize = 100;

    /// When each sidecar tries, in ms after all have lost the registry, until an attempt after `back_ms` succeeds.
    fn attempts(back_ms: u128) -> Vec<u128> {
        let mut all = Vec::new();
        for sidecar in 0..SIDECARS {
            let (mut backoff, mut at) = (Backoff::seeded(sidecar.wrapping_mul(0x9e37_79b9)), 0);
            while at <= back_ms {
                at += backoff.pause().as_millis().max(1);
                all.push(at);
            }
        }
        all
    }

    /// Most attempts in a tenth of a second from `from_ms` on.
    fn peak(attempts: &[u128], from_ms: u128) -> usize {
        let mut slots = vec![0_usize; 2_000];
        for at in attempts.iter().filter(|at| **at >= from_ms) {
            slots[*at as usize / SLOT_MS] += 1;
        }
        slots.into_iter().max().unwrap_or_default()
    }

    /// The registry's leader is gone for a moment: everybody comes back within half a second, a fifth of them in each
    /// tenth of a second. It is gone for a minute: in no tenth do more than two in a hundred come.
    #[test]
    fn ten_thousand_sidecars_do_not_stampede() {
        let short = attempts(0);
        assert!(short.iter().all(|at| *at <= 500), "soon back");
        assert!(peak(&short, 0) < 2_300, "{}", peak(&short, 0));
        let long = attempts(60_000);
        assert!(peak(&long, 60_000) < 200, "{}", peak(&long, 60_000));
        // While it is away, 10,000 sidecars together try fewer than 2,000 times a second.
        assert!(peak(&long, 15_000) < 200, "{}", peak(&long, 15_000));
        assert!(long.iter().max().is_some_and(|last| *last <= 75_000 + 500), "all are back after a pause");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::seeded(7);
        assert!(backoff.pause() <= FIRST);
        let longest = (0..200).map(|_| backoff.pause()).max().unwrap();
        assert!(longest <= LAST && longest > LAST / 2, "{longest:?}");
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
        let about = backoff.about(Duration::from_secs(4));
        assert!((3..=4).contains(&about.as_secs()), "{about:?}");
    }
}
