//! The process's monotonic clock, counted from one origin so that it fits in an integer.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since the first call, never going back. Zero is never returned, so it can mean "never".
pub fn now_ns() -> u64 {
    since_origin(Instant::now())
}

/// Nanoseconds from the origin to `at`.
pub fn since_origin(at: Instant) -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(Instant::now);
    // 584 years fit.
    u64::try_from(at.saturating_duration_since(*origin).as_nanos()).unwrap_or(u64::MAX).max(1)
}

pub fn now_ms() -> u64 {
    now_ns() / 1_000_000 + 1
}
