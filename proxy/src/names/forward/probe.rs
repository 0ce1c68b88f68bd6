//! Questions to an upstream that is dead, until it answers: a task for each, with pauses that grow and differ, so that
//! neither the upstream nor the network is asked by all sidecars at once.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::attempt::{self, Means};
use super::question::Question;
use super::upstream::{State, Upstream};

const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);

/// Ends when the upstream lives, or is no longer configured.
pub(super) fn start(upstream: &Rc<Upstream>, means: &Rc<Means>) {
    spawn_local(probe(Rc::downgrade(upstream), Rc::clone(means)));
}

async fn probe(upstream: Weak<Upstream>, means: Rc<Means>) {
    let question = Question::about_the_root();
    let mut pause = PAUSE_FIRST;
    loop {
        // Between half of the pause and the whole.
        sleep(pause.mul_f64(0.5 + means.random.fraction() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let Some(upstream) = upstream.upgrade() else { return };
        if upstream.state() != State::Dead {
            return;
        }
        // An answer makes it alive, whatever it says.
        if !matches!(timeout(PROBE_TIME_MAX, attempt::ask(&upstream, &means, &question)).await, Ok(Ok(_))) {
            upstream.metrics.failure("probe");
        }
    }
}
