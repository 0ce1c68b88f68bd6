//! When to look again: soon after a disturbance, and less and less soon while somebody keeps disturbing. Pure.
//!
//! Each place has a pace of its own, so that a workload that fights over its namespace delays nobody else.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// A burst of notifications is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(5);
/// Notifications without pause are still followed this often.
const BURST_MAX: Duration = Duration::from_millis(50);
/// So many repairs in a row are somebody's work, and no fight.
const REPAIRS_FREE: u32 = 5;
/// A repair that follows the one before sooner than this, its pause left out, is of the same row.
const CALM: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// First and last disturbance since the last look.
    heard: Option<(Instant, Instant)>,
    /// Repairs in a row.
    repairs: u32,
    /// The last repair, with the pause behind it.
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Pace {
    pub(super) fn disturbed(&mut self, now: Instant) {
        let first = self.heard.map_or(now, |(first, _)| first);
        self.heard = Some((first, now));
    }

    /// When to look; `None` while there is no reason to.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.heard?;
        let due = (last + QUIET).min(first + BURST_MAX);
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// Somebody has looked at the place, and put it right if it was wrong.
    pub(super) fn looked(&mut self, now: Instant, has_repaired: bool) {
        self.heard = None;
        if self.not_before.is_none_or(|last| now.saturating_duration_since(last) >= CALM) {
            self.repairs = 0;
            self.backoff.reset();
        }
        if has_repaired {
            self.repairs = self.repairs.saturating_add(1);
            let pause = if self.is_fought_over() { self.backoff.pause() } else { Duration::ZERO };
            self.not_before = Some(now + pause);
        }
    }

    /// Somebody undoes what we do, again and again.
    pub(super) fn is_fought_over(&self) -> bool {
        self.repairs > REPAIRS_FREE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_look_and_comes_soon() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.due(), None);
        pace.disturbed(start);
        assert_eq!(pace.due(), Some(start + QUIET));
        for ms in 1..200 {
            pace.disturbed(start + Duration::from_millis(ms));
        }
        assert_eq!(pace.due(), Some(start + BURST_MAX));
        pace.looked(start + BURST_MAX, false);
        assert_eq!(pace.due(), None);
    }

    /// Somebody flushes the rules as soon as they are back, for a minute.
    #[test]
    fn a_fight_is_bounded_and_forgotten() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let (mut now, mut repairs) = (start, 0);
        while now < start + Duration::from_secs(60) {
            pace.disturbed(now);
            now = now.max(pace.due().unwrap());
            pace.looked(now, true);
            repairs += 1;
        }
        assert!((REPAIRS_FREE..200).contains(&repairs), "{repairs} repairs in a minute");
        assert!(pace.is_fought_over());
        now += CALM + Duration::from_secs(30);
        pace.looked(now, false);
        assert!(!pace.is_fought_over());
        pace.disturbed(now);
        assert_eq!(pace.due(), Some(now + QUIET));
    }
}
