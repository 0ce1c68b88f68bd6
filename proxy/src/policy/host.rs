//! What one instance's store holds: all that the guest can see or use up.
//!
//! Made with the instance, owned by its store, never shared. `imports` answers the guest from it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::compiled::Simulation;
use super::direct::heap::Heap;
use super::epoch::{Deadline, Pulse};
use super::metrics::PolicyMetrics;
use super::refusal::MemoryLimit;
use crate::head::RequestFacts;
use crate::snapshot::Endpoint;

/// The state behind the imports of one instance.
pub(super) struct HostState {
    /// Lent for the length of a `pick` or `route`.
    pub(super) request: Option<Box<RequestFacts>>,
    /// The list of the last update; indices from the guest refer to it.
    pub(super) endpoints: Arc<[Arc<Endpoint>]>,
    pub(super) metrics: Arc<PolicyMetrics>,
    pub(super) target: Arc<str>,
    pub(super) deadline: Deadline,
    pub(super) pulse: Pulse,
    pub(super) random: Random,
    /// Set by `check` and `bench` for repeatable runs; otherwise the process's clock answers.
    pub(super) now_override: Option<u64>,
    pub(super) log_gate: LogGate,
    pub(super) limits: Limits,
    /// Of an instance that is called directly; a component keeps these two itself.
    pub(super) heap: Option<Arc<Heap>>,
    pub(super) handles: Handles,
}

impl HostState {
    pub(super) fn new(
        target: &str,
        metrics: Arc<PolicyMetrics>,
        pulse: Pulse,
        memory_bytes_max: usize,
    ) -> Self {
        Self {
            request: None,
            endpoints: Arc::from([]),
            metrics,
            target: target.into(),
            deadline: Deadline::default(),
            pulse,
            random: Random::from_os(),
            now_override: None,
            log_gate: LogGate::default(),
            limits: Limits { memory_bytes: 0, memory_bytes_max },
            heap: None,
            handles: Handles::default(),
        }
    }

    pub(super) fn simulate(&mut self, simulation: Simulation) {
        self.random = Random(simulation.seed);
        self.now_override = Some(simulation.now);
    }

    pub(super) fn now(&self) -> u64 {
        self.now_override.unwrap_or_else(crate::clock::now_ns)
    }
}

/// SplitMix64: one addition and two multiplications for 64 bits, and any seed will do.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The hasher's keys come from the operating system, once per thread; each use has another key.
    fn from_os() -> Self {
        Self(RandomState::new().hash_one(crate::clock::now_ns()))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Counts messages per second, so that a policy cannot fill the log.
#[derive(Debug, Default)]
pub(super) struct LogGate {
    second: u64,
    messages: u32,
    suppressed: u64,
}

impl LogGate {
    /// Whether one more message fits, and how many were dropped before it.
    pub(super) fn admit(&mut self, now_ns: u64) -> Option<u64> {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.messages = 0;
        }
        if self.messages >= LOGS_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.messages += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Memory of the whole store: a component may bring several modules, each with a memory of its own.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) memory_bytes: usize,
    memory_bytes_max: usize,
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_bytes_max {
            // A trap, not a failed growth: guests answer the latter with a panic that hides the cause.
            return Err(MemoryLimit { wanted, max: self.memory_bytes_max }.into());
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(MemoryLimit { wanted: desired * 8, max: TABLE_ELEMENTS_MAX * 8 }.into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MODULES_MAX
    }

    fn tables(&self) -> usize {
        MODULES_MAX
    }

    fn memories(&self) -> usize {
        MODULES_MAX
    }
}

/// Marks the handle of a counter for the generated code; its number is the slot in `PolicyMetrics`.
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub enum CounterHandle {}
/// Marks the handle of a histogram.
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub enum HistogramHandle {}

/// What a guest's numbers for its counters and histograms stand for.
#[derive(Debug, Default)]
pub(super) struct Handles {
    slots: Vec<Option<Handle>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Handle {
    Counter(u32),
    Histogram(u32),
}

impl Handles {
    /// The number for a handle; 0 is never one.
    pub(super) fn insert(&mut self, handle: Handle) -> wasmtime::Result<u32> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= HANDLES_MAX {
            return Err(wasmtime::Error::msg(format!(
                "more than {HANDLES_MAX} counters and histograms at once"
            )));
        }
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(handle);
        Ok(free as u32 + 1)
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(slot) = index(number).and_then(|index| self.slots.get_mut(index)) {
            *slot = None;
        }
    }

    pub(super) fn counter(&self, number: u32) -> wasmtime::Result<u32> {
        match self.get(number) {
            Some(Handle::Counter(slot)) => Ok(slot),
            _ => Err(wasmtime::Error::msg(format!("{number} is not a counter"))),
        }
    }

    pub(super) fn histogram(&self, number: u32) -> wasmtime::Result<u32> {
        match self.get(number) {
            Some(Handle::Histogram(slot)) => Ok(slot),
            _ => Err(wasmtime::Error::msg(format!("{number} is not a histogram"))),
        }
    }

    fn get(&self, number: u32) -> Option<Handle> {
        self.slots.get(index(number)?).copied().flatten()
    }
}

fn index(number: u32) -> Option<usize> {
    (number as usize).checked_sub(1)
}

/// Live counters and histograms of one instance.
pub(super) const HANDLES_MAX: usize = 1024;
/// Messages of one instance that reach the log in a second.
pub(super) const LOGS_PER_SECOND: u32 = 10;
/// Bytes of a message that reach the log.
pub(super) const LOG_BYTES_MAX: usize = 1024;
/// Elements of one table; JavaScript engines have some thousand.
const TABLE_ELEMENTS_MAX: usize = 50_000;
/// Core modules, memories and tables of one component.
const MODULES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_anew_each_second() {
        let mut gate = LogGate::default();
        let admitted = (0..25).filter(|_| gate.admit(5_000_000_000).is_some()).count();
        assert_eq!(admitted, LOGS_PER_SECOND as usize);
        assert_eq!(gate.admit(6_000_000_000), Some(15));
        assert_eq!(gate.admit(6_000_000_001), Some(0));
    }

    #[test]
    fn a_handle_is_known_until_it_is_dropped() {
        let mut handles = Handles::default();
        let counter = handles.insert(Handle::Counter(7)).expect("room");
        let histogram = handles.insert(Handle::Histogram(8)).expect("room");
        assert_eq!(handles.counter(counter).ok(), Some(7));
        assert_eq!(handles.histogram(histogram).ok(), Some(8));
        assert!(handles.counter(histogram).is_err() && handles.histogram(counter).is_err());
        handles.remove(counter);
        assert!(
            handles.counter(counter).is_err() && handles.counter(0).is_err() && handles.counter(9).is_err()
        );
        assert_eq!(handles.insert(Handle::Counter(9)).ok(), Some(counter), "its number is free again");
        let room = (2..HANDLES_MAX).filter(|_| handles.insert(Handle::Counter(1)).is_ok()).count();
        assert_eq!(room, HANDLES_MAX - 2);
        assert!(handles.insert(Handle::Counter(1)).is_err());
    }

    #[test]
    fn memory_is_counted_over_all_modules() {
        let mut limits = Limits { memory_bytes: 0, memory_bytes_max: 100 };
        assert!(limits.memory_growing(0, 60, None).is_ok());
        assert!(limits.memory_growing(0, 60, None).is_err());
        assert!(limits.memory_growing(60, 100, None).is_ok());
    }
}
