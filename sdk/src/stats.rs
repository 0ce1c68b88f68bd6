//! What the proxy measures about endpoints: over all its workers, and current at the moment of the call.
//!
//! Callable in `pick`, `observe` and `tick`. An index outside the last update traps (natively: panics).
//! Each call crosses into the host: some tens of nanoseconds, so ask for what you compare and no more.

pub use crate::bindings::stats::Load;

/// Looks up one endpoint.
#[must_use]
pub fn load(endpoint: u32) -> Load {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::stats::get(endpoint);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.load(endpoint))
}

/// Looks up two endpoints at half the price of two calls.
#[must_use]
pub fn load_pair(a: u32, b: u32) -> (Load, Load) {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::stats::get_pair(a, b);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| (world.load(a), world.load(b)))
}

/// Requests in flight to two endpoints: cheaper than `load_pair`.
#[must_use]
pub fn in_flight_pair(a: u32, b: u32) -> (u32, u32) {
    #[cfg(target_arch = "wasm32")]
    {
        let both = crate::bindings::stats::in_flight_pair(a, b);
        (both as u32, (both >> 32) as u32)
    }
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| (world.load(a).in_flight, world.load(b).in_flight))
}

/// Requests in flight to every endpoint, in the order of the last update. Costs one allocation.
#[must_use]
pub fn in_flight() -> Vec<u32> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::stats::in_flight();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.loads.iter().map(|load| load.in_flight).collect())
}

/// The average time to the first byte of every endpoint in microseconds, 0 until the first answer, in the order of the
/// last update. Costs one allocation.
#[must_use]
pub fn latencies() -> Vec<u32> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::stats::latencies();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.loads.iter().map(|load| load.latency_us).collect())
}
