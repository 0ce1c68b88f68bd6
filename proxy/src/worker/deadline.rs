//! One timer per client connection, moved lazily.
//!
//! A deadline that moves later costs a store, not a visit to the timer wheel: the timer fires at the old instant,
//! sees the new one and goes back to sleep. Only a deadline that moves nearer than the timer rearms it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
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
        let mut sleep = self.sleep.borrow_mut();
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
    }

    /// As `set`, counted from now.
    pub(super) fn set_after(&self, duration: Duration) {
        self.set(Instant::now() + duration);
    }

    /// What is left, for work with a timer of its own.
    pub(super) fn left(&self) -> Duration {
        self.at.get().saturating_duration_since(Instant::now())
    }

    /// Runs `work` until the deadline, wherever that has moved to in the meantime.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            let mut sleep = self.sleep.borrow_mut();
            while sleep.as_mut().poll(cx).is_ready() {
                let at = self.at.get();
                if at <= Instant::now() {
                    return Poll::Ready(Err(Elapsed));
                }
                sleep.as_mut().reset(at);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_kept() {
        let deadline = Deadline::new(Instant::now() + Duration::from_secs(10));
        let start = Instant::now();
        deadline.set_after(Duration::from_secs(30));
        assert!(deadline.run(std::future::pending::<()>()).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 30);
        deadline.set_after(Duration::from_secs(5));
        assert!(deadline.run(std::future::pending::<()>()).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 35);
        deadline.set_after(Duration::from_secs(5));
        assert_eq!(deadline.run(async { 7 }).await.ok(), Some(7));
    }
}
