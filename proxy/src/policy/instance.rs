//! What balancer and router instances have in common: a store, and calls that end in time.

use std::time::Duration;

use wasmtime::component::Instance;
use wasmtime::{Store, StoreContextMut};

use super::bindings::{state, types};
use super::compiled::{Compiled, Interests, Setup, Simulation};
use super::epoch::Deadline;
use super::host::HostState;
use super::refusal::{Failure, Refusal};

/// One instantiated component. After a failure it is poisoned: every further call fails.
pub(super) struct Guest {
    pub(super) store: Store<HostState>,
    pub(super) instance: Instance,
    call_budget: Duration,
    update_budget: Duration,
}

impl Guest {
    pub(super) fn start(
        compiled: &Compiled,
        setup: &Setup<'_>,
        simulation: Option<Simulation>,
    ) -> Result<Self, Refusal> {
        let engine = compiled.engine();
        let host = engine.host();
        let metrics = std::sync::Arc::clone(&setup.metrics);
        let mut state = HostState::new(setup.target, metrics, engine.pulse(), host.memory_bytes_max);
        if let Some(simulation) = simulation {
            state.simulate(simulation);
        }
        let mut store = Store::new(engine.wasmtime(), state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX.min(host.memory_bytes_max));
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(|mut context: StoreContextMut<'_, HostState>| {
            context.data().pulse.touch();
            context.data_mut().deadline.look()
        });
        arm(&mut store, host.update_budget);
        let instance = compiled
            .pre()
            .instantiate(&mut store)
            .map_err(|e| Refusal::FailedToStart { failure: Failure::of_call("instantiate", &e) })?;
        Ok(Self { store, instance, call_budget: host.call_budget, update_budget: host.update_budget })
    }

    /// A call on the request path.
    #[inline]
    pub(super) fn call<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        arm(&mut self.store, self.call_budget);
        call(&mut self.store).map_err(|e| Failure::of_call(name, &e))
    }

    /// A call off the request path, with the larger budget.
    pub(super) fn call_slowly<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        arm(&mut self.store, self.update_budget);
        call(&mut self.store).map_err(|e| Failure::of_call(name, &e))
    }

    /// Bytes of linear memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limits.memory_bytes
    }

    pub(super) fn export_state(&mut self, state: Option<&state::Guest>) -> Result<Vec<u8>, Failure> {
        let Some(state) = state else { return Ok(Vec::new()) };
        let bytes = self.call_slowly("export-state", |store| state.call_export_state(store))?;
        if bytes.len() > STATE_BYTES_MAX {
            let message = format!("{} bytes, of which {STATE_BYTES_MAX} are carried over", bytes.len());
            return Err(Failure::nonsense("export-state", message));
        }
        Ok(bytes)
    }

    /// The outer error is a failure of the call, the inner one the guest's own words.
    pub(super) fn import_state(
        &mut self,
        state: Option<&state::Guest>,
        bytes: &[u8],
    ) -> Result<Result<(), String>, Failure> {
        let Some(state) = state else { return Ok(Ok(())) };
        self.call_slowly("import-state", |store| state.call_import_state(store, bytes))
    }

    /// Time and randomness from now on come from here: for checks that must be repeatable.
    pub(super) fn simulate(&mut self, simulation: Simulation) {
        self.store.data_mut().simulate(simulation);
    }
}

/// Gives the next call its budget. The first look at the clock is at the next tick.
#[inline]
fn arm(store: &mut Store<HostState>, budget: Duration) {
    let state = store.data_mut();
    state.deadline = Deadline::new(budget);
    state.pulse.touch();
    store.set_epoch_deadline(1);
}

/// The contract's form of a setup.
pub(super) fn lowered<'a>(setup: &Setup<'a>) -> types::Setup<'a> {
    types::Setup {
        config: setup.config,
        own_service: setup.own_service,
        own_zone: setup.own_zone,
        target: setup.target,
    }
}

/// What the guest answered to `configure`, its error turned into a refusal.
pub(super) fn configured(
    answer: Result<Result<types::Interests, String>, Failure>,
) -> Result<Interests, Refusal> {
    match answer {
        Ok(Ok(interests)) => Ok(Interests {
            outcomes: interests.contains(types::Interests::OUTCOMES),
            ticks: interests.contains(types::Interests::TICKS),
            state: interests.contains(types::Interests::STATE),
            rebuild: interests.contains(types::Interests::REBUILD),
        }),
        Ok(Err(message)) => Err(Refusal::Configuration { message: shortened(message) }),
        Err(failure) => Err(Refusal::FailedToStart { failure }),
    }
}

/// Messages from guests are as long as guests like.
pub(super) fn shortened(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

/// Bytes of state carried from one version of a policy to the next.
pub(super) const STATE_BYTES_MAX: usize = 1 << 20;
/// Bytes that one call may move from the guest to the host; twice the state, which is the largest of them.
const HOSTCALL_BYTES_MAX: usize = 2 << 20;
/// Live counters and histograms of one instance.
const HANDLES_MAX: usize = 1024;
/// Of an error text shown to the operator.
const MESSAGE_BYTES_MAX: usize = 2048;
