//! One question to a group of upstreams: the fastest first, the others as well when it takes long or fails.
//!
//! An upstream that was asked is listened to until the end, so one that is merely slow still answers. Invariant: ends
//! after `timeout`, having asked `ATTEMPTS_MAX` times at most.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::attempt::{self, Failure, Heard, Means};
use super::probe;
use super::question::Question;
use super::upstream::{State, Upstream};

/// A datagram may be lost; more than a few losses are no accident.
const ATTEMPTS_MAX: usize = 5;

/// Why nobody has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// There is nobody to ask.
    Nobody,
    Failed,
}

/// Attempts under way, and upstreams still to be asked.
struct Asking<'a> {
    means: &'a Rc<Means>,
    question: &'a Rc<Question>,
    next: VecDeque<Rc<Upstream>>,
    running: JoinSet<(Rc<Upstream>, Result<Heard, Failure>)>,
    attempts: usize,
    /// The upstream asked last, and until when nobody else is.
    last: Option<(Rc<Upstream>, Instant)>,
    /// That an upstream could not find out; passed on if none can.
    apology: Option<Heard>,
}

pub(super) async fn ask(
    group: &[Rc<Upstream>],
    means: &Rc<Means>,
    question: &Rc<Question>,
    within: Duration,
) -> Result<Heard, NoAnswer> {
    let next = order(group);
    if next.is_empty() {
        return Err(NoAnswer::Nobody);
    }
    let mut asking =
        Asking { means, question, next, running: JoinSet::new(), attempts: 0, last: None, apology: None };
    let deadline = Instant::now() + within;
    let answer = timeout_at(deadline, asking.run()).await.ok().flatten();
    if answer.is_none() {
        asking.give_up();
    }
    answer.or(asking.apology).ok_or(NoAnswer::Failed)
}

/// The fastest first, and those that do not answer last: they may have come back.
fn order(group: &[Rc<Upstream>]) -> VecDeque<Rc<Upstream>> {
    let others = group.iter().filter(|upstream| upstream.state() != State::Ourselves);
    let mut order: Vec<_> = others.cloned().collect();
    let rank = |upstream: &Upstream| (upstream.state() == State::Dead, upstream.seconds());
    // Stable: as they are configured until it is known how fast they are.
    order.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(Ordering::Equal));
    for passed_over in order.iter().skip(1) {
        passed_over.fade();
    }
    order.into()
}

impl Asking<'_> {
    async fn run(&mut self) -> Option<Heard> {
        loop {
            if self.last.is_none() && !self.start() && self.running.is_empty() {
                return None;
            }
            // Nobody else to ask: what is under way has until the deadline.
            let patience = self.last.as_ref().map(|(_, until)| *until);
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    // A task of ours ends early only if the runtime does.
                    let (upstream, result) = ended.ok()?;
                    if let Some(answer) = self.weigh(&upstream, result) {
                        return Some(answer);
                    }
                }
                () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => self.lose_patience(),
            }
        }
    }

    /// Asks the next upstream; answers whether there was one.
    fn start(&mut self) -> bool {
        let Some(upstream) = self.next.pop_front().filter(|_| self.attempts < ATTEMPTS_MAX) else {
            return false;
        };
        self.attempts += 1;
        let rounds = self.attempts as u32;
        self.last = Some((Rc::clone(&upstream), Instant::now() + upstream.patience() * rounds));
        let (means, question) = (Rc::clone(self.means), Rc::clone(self.question));
        self.running.spawn_local(async move {
            let result = attempt::ask(&upstream, &means, &question).await;
            (upstream, result)
        });
        true
    }

    fn weigh(&mut self, upstream: &Rc<Upstream>, result: Result<Heard, Failure>) -> Option<Heard> {
        match result {
            Ok(heard) if heard.is_answer() => return Some(heard),
            Ok(heard) => {
                upstream.metrics.fail(heard.facts.code);
                self.apology = Some(heard);
            }
            Err(failure) => note(self.means, upstream, failure),
        }
        // The next one's turn comes at once.
        if self.last.as_ref().is_some_and(|(last, _)| Rc::ptr_eq(last, upstream)) {
            self.last = None;
        }
        None
    }

    /// The upstream asked last gets another turn at the end.
    fn lose_patience(&mut self) {
        if let Some((upstream, until)) = self.last.take() {
            upstream.slow(upstream.patience());
            note(self.means, &upstream, Failure::Timeout);
            debug_assert!(until <= Instant::now());
            self.next.push_back(upstream);
        }
    }

    /// Time is over for the one that was asked last, too.
    fn give_up(&mut self) {
        if let Some((upstream, _)) = self.last.take() {
            note(self.means, &upstream, Failure::Timeout);
        }
    }
}

/// Counts a failure; an upstream that is dead now is probed from now on.
fn note(means: &Rc<Means>, upstream: &Rc<Upstream>, failure: Failure) {
    upstream.metrics.failure(failure.reason());
    // That we ask too much is not its fault.
    if failure != Failure::Busy && upstream.failed() {
        probe::start(upstream, means);
    }
}
