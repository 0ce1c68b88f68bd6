//! Log, time, randomness, and numbers that outlive the instance.
//!
//! Time and randomness come from the host alone, so that simulations and replays are exact. In `pick` and `route`
//! prefer `ctx.now` and `ctx.random`, which are already there.

pub use crate::bindings::env::Level;

/// Writes to the proxy's log. At most 1,024 bytes of a message and ten messages a second are kept.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::env::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.log.push((level, message.to_owned())));
}

/// Nanoseconds since an arbitrary origin, the same for all workers; never goes back.
#[must_use]
pub fn now() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::env::now();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.now)
}

/// 64 random bits.
#[must_use]
pub fn random() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::env::random();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::world::with(|world| world.random.next())
}

/// A number shared by all workers and kept over a swap, exported as `outrigger_policy_value{policy, name}`.
/// A policy may have 32. Make it once, in `new`.
pub struct Counter {
    #[cfg(target_arch = "wasm32")]
    handle: crate::bindings::env::Counter,
    #[cfg(not(target_arch = "wasm32"))]
    cell: std::rc::Rc<std::cell::Cell<i64>>,
}

impl Counter {
    /// Finds or makes the counter. `name` has letters, digits and `_`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        #[cfg(target_arch = "wasm32")]
        return Self { handle: crate::bindings::env::Counter::new(name) };
        #[cfg(not(target_arch = "wasm32"))]
        Self { cell: crate::testing::world::with(|world| world.counter(name)) }
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> i64 {
        #[cfg(target_arch = "wasm32")]
        return self.handle.get();
        #[cfg(not(target_arch = "wasm32"))]
        self.cell.get()
    }

    /// Adds, and returns the new value.
    pub fn add(&self, delta: i64) -> i64 {
        #[cfg(target_arch = "wasm32")]
        return self.handle.add(delta);
        #[cfg(not(target_arch = "wasm32"))]
        {
            self.cell.set(self.cell.get().wrapping_add(delta));
            self.cell.get()
        }
    }

    pub fn set(&self, value: i64) {
        #[cfg(target_arch = "wasm32")]
        self.handle.set(value);
        #[cfg(not(target_arch = "wasm32"))]
        self.cell.set(value);
    }
}

/// A distribution in powers of four, exported as `outrigger_policy_distribution{policy, name}`.
/// A policy may have 8. Make it once, in `new`.
pub struct Histogram {
    #[cfg(target_arch = "wasm32")]
    handle: crate::bindings::env::Histogram,
    #[cfg(not(target_arch = "wasm32"))]
    values: std::rc::Rc<std::cell::RefCell<Vec<u64>>>,
}

impl Histogram {
    /// Finds or makes the histogram. `name` has letters, digits and `_`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        #[cfg(target_arch = "wasm32")]
        return Self { handle: crate::bindings::env::Histogram::new(name) };
        #[cfg(not(target_arch = "wasm32"))]
        Self { values: crate::testing::world::with(|world| world.histogram(name)) }
    }

    pub fn observe(&self, value: u64) {
        #[cfg(target_arch = "wasm32")]
        self.handle.observe(value);
        #[cfg(not(target_arch = "wasm32"))]
        self.values.borrow_mut().push(value);
    }
}
