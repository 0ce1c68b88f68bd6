//! The statistics: answers by phase and backend, all of them, and those of the last moments.
//!
//! What is kept is bounded by the rate and the length of the demo, both of which have a maximum. Percentiles are exact.

use std::collections::VecDeque;
use std::time::Duration;

use super::backends::COUNT;
use super::load::Sample;

/// What the live table looks back on.
pub(super) const WINDOW: Duration = Duration::from_secs(2);

/// All samples of a demo.
#[derive(Debug, Default)]
pub(super) struct Tally {
    phases: Vec<Phase>,
    recent: VecDeque<Sample>,
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// What the first client that saw a failure saw.
    pub(super) first_failure: Option<String>,
}

#[derive(Debug, Default)]
struct Phase {
    from: Duration,
    latencies: [Vec<Duration>; COUNT],
    failed: u64,
}

/// A set of answers in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) backends: [Figures; COUNT],
    pub(super) all: Figures,
    pub(super) failed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) answers: usize,
    /// Of all answers, 0 to 1.
    pub(super) share: f64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

impl Tally {
    /// Requests due from now on belong to a new phase.
    pub(super) fn begin_phase(&mut self, from: Duration) {
        self.phases.push(Phase { from, ..Phase::default() });
    }

    /// An answer belongs to the phase in which its request was due, however late it comes.
    pub(super) fn add(&mut self, sample: Sample) {
        let phase = self.phases.iter_mut().rev().find(|phase| phase.from <= sample.due);
        match &sample.answer {
            Ok(backend) => {
                self.answered += 1;
                if let Some(kept) = phase.and_then(|phase| phase.latencies.get_mut(*backend)) {
                    kept.push(sample.latency);
                }
            }
            Err(why) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| why.clone());
                if let Some(phase) = phase {
                    phase.failed += 1;
                }
            }
        }
        let oldest = sample.due.saturating_sub(WINDOW);
        self.recent.push_back(sample);
        while self.recent.front().is_some_and(|first| first.due < oldest) {
            self.recent.pop_front();
        }
    }

    pub(super) fn phase(&self, index: usize) -> Summary {
        self.phases.get(index).map_or_else(Summary::default, |p| Summary::of(p.latencies.clone(), p.failed))
    }

    /// Of the last moments.
    pub(super) fn recent(&self) -> Summary {
        let mut latencies: [Vec<Duration>; COUNT] = Default::default();
        let mut failed = 0;
        for sample in &self.recent {
            match sample.answer {
                Ok(backend) => latencies[backend].push(sample.latency),
                Err(_) => failed += 1,
            }
        }
        Summary::of(latencies, failed)
    }
}

impl Summary {
    fn of(latencies: [Vec<Duration>; COUNT], failed: u64) -> Self {
        let total = latencies.iter().map(Vec::len).sum();
        let mut all = Vec::with_capacity(total);
        let backends = latencies.map(|latencies| {
            all.extend_from_slice(&latencies);
            Figures::of(latencies, total)
        });
        Self { backends, all: Figures::of(all, total), failed }
    }
}

impl Figures {
    fn of(mut latencies: Vec<Duration>, total: usize) -> Self {
        latencies.sort_unstable();
        Self {
            answers: latencies.len(),
            share: share(latencies.len(), total),
            p50: percentile(&latencies, 50),
            p99: percentile(&latencies, 99),
        }
    }
}

fn share(part: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { part as f64 / total as f64 }
}

/// The smallest value that is not below this percentage of all values.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn answer(due: u64, latency: u64, backend: usize) -> Sample {
        Sample { due: ms(due), latency: ms(latency), answer: Ok(backend) }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<Duration> = (1..=100).map(ms).collect();
        assert_eq!(percentile(&values, 50), Some(ms(50)));
        assert_eq!(percentile(&values, 99), Some(ms(99)));
        assert_eq!(percentile(&values, 100), Some(ms(100)));
        assert_eq!(percentile(&values[..3], 50), Some(ms(2)));
        assert_eq!(percentile(&values[..3], 99), Some(ms(3)));
        assert_eq!(percentile(&values[..1], 50), Some(ms(1)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn shares_add_up_and_nothing_is_no_share() {
        let mut tally = Tally::default();
        assert_eq!(tally.phase(0), Summary::default());
        assert_eq!(tally.recent().all.share, 0.0);
        tally.begin_phase(Duration::ZERO);
        for (backend, count) in [6, 3, 1].into_iter().enumerate() {
            (0..count).for_each(|i| tally.add(answer(i, 4, backend)));
        }
        let summary = tally.phase(0);
        assert_eq!(summary.backends.map(|b| b.answers), [6, 3, 1]);
        assert_eq!(summary.backends.map(|b| (b.share * 10.0).round()), [6.0, 3.0, 1.0]);
        assert_eq!((summary.all.answers, summary.all.share), (10, 1.0));
    }

    #[test]
    fn a_late_answer_belongs_to_the_phase_of_its_request() {
        let mut tally = Tally::default();
        tally.begin_phase(Duration::ZERO);
        tally.begin_phase(ms(100));
        tally.add(answer(99, 5000, 0));
        tally.add(answer(100, 1, 0));
        let failed = Sample { answer: Err("503".into()), ..answer(101, 1, 0) };
        tally.add(failed);
        assert_eq!(tally.phase(0).all.p99, Some(ms(5000)));
        assert_eq!((tally.phase(1).all.answers, tally.phase(1).failed), (1, 1));
        assert_eq!((tally.answered, tally.failed, tally.first_failure.as_deref()), (2, 1, Some("503")));
    }

    #[test]
    fn the_window_moves_on() {
        let mut tally = Tally::default();
        tally.begin_phase(Duration::ZERO);
        (0..10_000).for_each(|due| tally.add(answer(due, 1, 0)));
        assert_eq!(tally.recent().all.answers, 2001);
    }
}
