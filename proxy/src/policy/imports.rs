//! The functions a guest may call. Each answers from the instance's `HostState` alone.
//!
//! Indices and names come from the guest: a bad one traps the guest and never panics the host.

use std::sync::atomic::Ordering::Relaxed;

use wasmtime::component::Resource;

use super::bindings::env::{self, Level};
use super::bindings::{request, stats, types};
use super::facts;
use super::host::{CounterHandle, HistogramHandle, HostState, LOG_BYTES_MAX};
use super::metrics::is_name;
use crate::snapshot::{Endpoint, EndpointState};

impl types::Host for HostState {}

/// Outside `pick` and `route` there is no request, and everything is empty.
impl request::Host for HostState {
    fn method(&mut self) -> wasmtime::Result<String> {
        Ok(self.request.as_ref().map_or_else(String::new, |r| r.head.method().to_owned()))
    }

    fn path(&mut self) -> wasmtime::Result<String> {
        Ok(self.request.as_ref().map_or_else(String::new, |r| r.head.path().to_owned()))
    }

    fn authority(&mut self) -> wasmtime::Result<String> {
        Ok(self.request.as_ref().map_or_else(String::new, |r| r.head.authority().to_owned()))
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.request.as_ref().and_then(|r| r.head.header(&name).map(text)))
    }

    fn headers(&mut self, name: String) -> wasmtime::Result<Vec<String>> {
        Ok(self.request.as_ref().map_or_else(Vec::new, |r| r.head.header_all(&name).map(text).collect()))
    }

    fn cookie(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.request.as_ref().and_then(|r| facts::cookie(&r.head, &name).map(text)))
    }

    fn query(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.request.as_ref().and_then(|r| facts::query(r.head.path(), &name)))
    }

    fn identity(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.request.as_ref().and_then(|r| r.identity.as_deref().map(str::to_owned)))
    }

    fn source_address(&mut self) -> wasmtime::Result<String> {
        Ok(self.request.as_ref().map_or_else(String::new, |r| r.source.to_string()))
    }

    fn tried(&mut self, endpoint: u32) -> wasmtime::Result<bool> {
        let id = self.endpoint(endpoint)?.id;
        Ok(self.request.as_ref().is_some_and(|r| r.tried.contains(&id)))
    }
}

impl stats::Host for HostState {
    fn get(&mut self, endpoint: u32) -> wasmtime::Result<stats::Load> {
        Ok(load(&self.endpoint(endpoint)?.state))
    }

    fn get_pair(&mut self, a: u32, b: u32) -> wasmtime::Result<(stats::Load, stats::Load)> {
        Ok((load(&self.endpoint(a)?.state), load(&self.endpoint(b)?.state)))
    }

    fn in_flight_pair(&mut self, a: u32, b: u32) -> wasmtime::Result<u64> {
        let of = |endpoint: &Endpoint| u64::from(endpoint.state.in_flight.load(Relaxed));
        Ok(of(self.endpoint(a)?) | of(self.endpoint(b)?) << 32)
    }

    fn in_flight(&mut self) -> wasmtime::Result<Vec<u32>> {
        Ok(self.endpoints.iter().map(|e| e.state.in_flight.load(Relaxed)).collect())
    }

    fn latencies(&mut self) -> wasmtime::Result<Vec<u32>> {
        Ok(self.endpoints.iter().map(|e| e.state.latency_us.load(Relaxed)).collect())
    }
}

impl env::Host for HostState {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.write_log(level, &message);
        Ok(())
    }

    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(Self::now(self))
    }

    fn random(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random.next())
    }
}

impl env::HostCounter for HostState {
    fn new(&mut self, name: String) -> wasmtime::Result<Resource<CounterHandle>> {
        let slot = named(&name).map(|name| self.metrics.counter_slot(name))?;
        Ok(Resource::new_own(self.handle(slot, "counters", &name)))
    }

    fn get(&mut self, counter: Resource<CounterHandle>) -> wasmtime::Result<i64> {
        Ok(self.metrics.counter(counter.rep() as usize).map_or(0, |value| value.load(Relaxed)))
    }

    fn add(&mut self, counter: Resource<CounterHandle>, delta: i64) -> wasmtime::Result<i64> {
        let value = self.metrics.counter(counter.rep() as usize);
        Ok(value.map_or(0, |value| value.fetch_add(delta, Relaxed).wrapping_add(delta)))
    }

    fn set(&mut self, counter: Resource<CounterHandle>, value: i64) -> wasmtime::Result<()> {
        if let Some(counter) = self.metrics.counter(counter.rep() as usize) {
            counter.store(value, Relaxed);
        }
        Ok(())
    }

    /// The slot stays: it belongs to the policy, not to the instance.
    fn drop(&mut self, _: Resource<CounterHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl env::HostHistogram for HostState {
    fn new(&mut self, name: String) -> wasmtime::Result<Resource<HistogramHandle>> {
        let slot = named(&name).map(|name| self.metrics.histogram_slot(name))?;
        Ok(Resource::new_own(self.handle(slot, "histograms", &name)))
    }

    fn observe(&mut self, histogram: Resource<HistogramHandle>, value: u64) -> wasmtime::Result<()> {
        if let Some(histogram) = self.metrics.histogram(histogram.rep() as usize) {
            histogram.observe(value);
        }
        Ok(())
    }

    fn drop(&mut self, _: Resource<HistogramHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl HostState {
    fn endpoint(&self, index: u32) -> wasmtime::Result<&Endpoint> {
        match self.endpoints.get(index as usize) {
            Some(endpoint) => Ok(endpoint),
            None => Err(no_endpoint(index, self.endpoints.len())),
        }
    }

    /// The number that stands for a slot; one without a slot counts nowhere.
    fn handle(&mut self, slot: Option<usize>, what: &str, name: &str) -> u32 {
        if slot.is_none() {
            let message = format!("too many {what}: `{name}` counts nowhere");
            self.write_log(Level::Warn, &message);
        }
        slot.and_then(|slot| u32::try_from(slot).ok()).unwrap_or(u32::MAX)
    }

    fn write_log(&mut self, level: Level, message: &str) {
        let Some(suppressed) = self.log_gate.admit(crate::clock::now_ns()) else { return };
        let message = &message[..message.floor_char_boundary(LOG_BYTES_MAX)];
        let (policy, place) = (self.metrics.policy(), &*self.target);
        match level {
            Level::Debug => tracing::debug!(target: "policy", policy, place, suppressed, "{message}"),
            Level::Info => tracing::info!(target: "policy", policy, place, suppressed, "{message}"),
            Level::Warn => tracing::warn!(target: "policy", policy, place, suppressed, "{message}"),
            Level::Error => tracing::error!(target: "policy", policy, place, suppressed, "{message}"),
        }
    }
}

fn load(state: &EndpointState) -> stats::Load {
    stats::Load {
        in_flight: state.in_flight.load(Relaxed),
        latency_us: state.latency_us.load(Relaxed),
        success: state.success.load(Relaxed),
        reported: state.reported.load(Relaxed),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn named(name: &str) -> wasmtime::Result<&str> {
    if is_name(name) {
        return Ok(name);
    }
    let shown: String = name.chars().take(80).collect();
    Err(wasmtime::Error::msg(format!("`{shown}` is not a metric name: 1 to 64 letters, digits and `_`")))
}

#[cold]
fn no_endpoint(index: u32, count: usize) -> wasmtime::Error {
    wasmtime::Error::msg(format!("asked for endpoint {index} of {count}"))
}
