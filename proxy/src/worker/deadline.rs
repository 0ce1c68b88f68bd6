//! One timer per client connection, moved lazily.
//!
//! A deadline that moves later costs a store, not a visit to the timer wheel: the timer fires at the old instant,
//! sees the new one and goes back to sleep. Only a deadline that moves nearer than the timer rearms it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug)]
pub(super) struct Deadline {
    at: Cell<Instant>,
    sleep: RefCell<Pin<Box<Sleep>>>,
}

/// The deadline came before the result.
#[derive(Debug)]
pub(super) struct Elapsed;

impl Deadline {
    pub(super) fn new(at: Instant) -> Self {
        Self { at: Cell::new(at), sleep: RefCell::new(Box::pin(sleep_until(at))) }
    }

    pub(super) fn set(&self, at: Instant) {
        self.at.set(at);
        self.wake_at(at);
    }

    /// As `set`, counted from now.
    pub(super) fn set_after(&self, duration: Duration) {
        self.set(Instant::now() + duration);
    }

    /// Has the work looked at once more at `at`, even if nothing else happens.
    pub(super) fn wake_at(&self, at: Instant) {
        let mut sleep = self.sleep.borrow_mut();
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
    }

    /// What is left, for work with a timer of its own.
    pub(super) fn left(&self) -> Duration {
        self.at.get().saturating_duration_since(Instant::now())
    }

    /// Runs `work` until the deadline, wherever that has moved to in the meantime.
    /// It is pinned by the caller: handed over, it would lie in the caller's future twice.
    pub(super) fn run<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Elapsed>> {
        poll_fn(move |cx| {
            loop {
                if let Poll::Ready(value) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(value));
                }
                let mut sleep = self.sleep.borrow_mut();
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let at = self.at.get();
                if at <= Instant::now() {
                    return Poll::Ready(Err(Elapsed));
                }
                sleep.as_mut().reset(at);
            }
        })
    }
}

/// What `work` comes to without waiting, if that is anything.
pub(super) async fn at_once<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// The first end would be too late, the ones that it is moved to are soon.
    #[tokio::test]
    async fn a_deadline_that_moves_is_kept() {
        let [hour, soon] = [Duration::from_secs(3600), Duration::from_millis(20)];
        let deadline = Deadline::new(Instant::now() + soon);
        let start = Instant::now();
        deadline.set_after(soon * 3);
        assert!(deadline.run(pin!(std::future::pending::<()>())).await.is_err());
        assert!(start.elapsed() >= soon * 3, "not at the end that it had first");
        deadline.set_after(hour);
        deadline.set_after(soon);
        assert!(deadline.run(pin!(std::future::pending::<()>())).await.is_err());
        deadline.set_after(hour);
        assert_eq!(deadline.run(pin!(async { 7 })).await.ok(), Some(7));
    }
}
