//! Waiting for conditions. The only place in the tests where time passes by itself.

use std::time::{Duration, Instant};

/// Generous: it is spent only by a test that fails.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Looks without a change.
const SETTLED_AFTER: u32 = 30;
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer; panics with `what` when it does not come.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    until_within(WAIT_MAX, what, probe)
}

/// The same with a time of its own.
pub fn until_within<T>(at_most: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + at_most;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "still waiting after {at_most:?}: {what}");
        pause();
    }
}

/// Asks for so long at most: what a server does that holds an answer back.
pub fn at_most<T>(time: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        let found = probe();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        pause();
    }
}

/// Waits until `holds`.
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}

/// Waits until a value has been the same for a while, and answers it.
pub fn until_settled(what: &str, mut value: impl FnMut() -> u64) -> u64 {
    let (mut last, mut same) = (value(), 0);
    until(what, || {
        let now = value();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == SETTLED_AFTER).then_some(now)
    })
}

#[expect(clippy::disallowed_methods, reason = "the one poll that all waits share")]
fn pause() {
    std::thread::sleep(PAUSE);
}
