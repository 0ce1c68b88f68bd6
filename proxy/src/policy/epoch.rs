//! The one thread that makes time pass for guests, and the CPU time that calls are measured by.
//!
//! Epochs count wall time, so an expired deadline only means "look at the clock": a call is cut off when the thread
//! has burnt the call's CPU budget since the first look. A worker that lost its core kills no innocent policy.
//! The thread ticks while calls are being made and parks when there are none, so an idle proxy is not woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{EngineWeak, UpdateDeadline};

use super::refusal::DeadlineExceeded;

/// Owns the thread; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Epoch {
    pulse: Pulse,
    thread: Option<JoinHandle<()>>,
}

impl Epoch {
    pub(super) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let state = Arc::new(AtomicU8::new(PARKED));
        let shared = Arc::clone(&state);
        let thread =
            std::thread::Builder::new().name("epoch".to_owned()).spawn(move || tick(&engine, &shared))?;
        Ok(Self { pulse: Pulse { state, thread: thread.thread().clone() }, thread: Some(thread) })
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.pulse.state.store(STOPPED, SeqCst);
        self.pulse.thread.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic in it would have been reported already.
            let _ = thread.join();
        }
    }
}

/// Tells the thread that a call is under way. One relaxed load while calls are frequent.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    state: Arc<AtomicU8>,
    thread: Thread,
}

impl Pulse {
    #[inline]
    pub(super) fn touch(&self) {
        if self.state.load(Relaxed) != BUSY {
            self.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn is_parked(&self) -> bool {
        self.state.load(SeqCst) == PARKED
    }

    #[cold]
    fn wake(&self) {
        // An engine is never stopped while an instance of it lives: instances own it.
        if self.state.swap(BUSY, SeqCst) == PARKED {
            self.thread.unpark();
        }
    }
}

fn tick(engine: &EngineWeak, state: &AtomicU8) {
    let mut idle_ticks = 0;
    loop {
        match state.compare_exchange(BUSY, IDLE, SeqCst, SeqCst) {
            Ok(_) => idle_ticks = 0,
            Err(STOPPED) => return,
            Err(PARKED) => {
                std::thread::park();
                continue;
            }
            Err(_) => idle_ticks += 1,
        }
        if idle_ticks >= IDLE_TICKS_MAX && state.compare_exchange(IDLE, PARKED, SeqCst, SeqCst).is_ok() {
            continue;
        }
        let until = Instant::now() + TICK;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            std::thread::park_timeout(rest);
            if state.load(Relaxed) == STOPPED {
                return;
            }
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}

/// How much CPU time the call in progress may use, and what it had used at the first look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deadline {
    budget: Duration,
    first_look: Option<Duration>,
}

impl Deadline {
    pub(super) fn new(budget: Duration) -> Self {
        Self { budget, first_look: None }
    }

    /// Called on each tick that passes during the call.
    pub(super) fn look(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let now = thread_cpu_time();
        let since = *self.first_look.get_or_insert(now);
        if now.saturating_sub(since) >= self.budget {
            return Err(DeadlineExceeded { budget: self.budget }.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }
}

/// CPU time used by the calling thread.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A tick is a wake-up, and at 4,000 requests a second ticks of 1 ms were a tenth of the proxy's CPU time, and ticks of
/// 4 ms a twenty-fifth. The price of longer ones: a looping guest holds its worker for the budget and up to two ticks.
const TICK: Duration = Duration::from_millis(10);
/// Ticks without a call after which the thread parks. A call takes part in at least one of them, so its deadline
/// callback runs and touches the pulse again.
const IDLE_TICKS_MAX: u32 = 8;

const PARKED: u8 = 0;
const IDLE: u8 = 1;
const BUSY: u8 = 2;
const STOPPED: u8 = 3;
