//! What balancer and router instances have in common: a store, and calls that end in time.

use std::time::Duration;

use wasmtime::component::Instance;
use wasmtime::{Store, StoreContextMut};

use super::bindings::types;
use super::compiled::{Compiled, Interests, Setup, Simulation};
use super::epoch::Deadline;
use super::host::{HANDLES_MAX, HostState};
use super::refusal::{Failure, Refusal};
use super::shape::CORE_EXPORT;

/// A store for one instance, and the way every call into it goes.
pub(super) struct Guest {
    pub(super) store: Store<HostState>,
    call_budget: Duration,
    update_budget: Duration,
    /// A call has failed, perhaps half-way: every further one fails, too.
    failed: bool,
}

impl Guest {
    /// With nothing in it yet.
    pub(super) fn empty(compiled: &Compiled, setup: &Setup<'_>, simulation: Option<Simulation>) -> Self {
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
        Self { store, call_budget: host.call_budget, update_budget: host.update_budget, failed: false }
    }

    /// Instantiates the component.
    pub(super) fn instantiate(&mut self, compiled: &Compiled) -> Result<Instance, Refusal> {
        self.call_slowly("instantiate", |store| compiled.pre().instantiate(store))
            .map_err(|failure| Refusal::FailedToStart { failure })
    }

    /// The core module of a component whose usual shape lets it be called directly, linked.
    pub(super) fn core_of(
        &mut self,
        compiled: &Compiled,
        component: &Instance,
    ) -> Option<wasmtime::InstancePre<HostState>> {
        let engine = compiled.engine();
        let module =
            component.get_module(&mut self.store, CORE_EXPORT).filter(|_| engine.host().direct_calls)?;
        engine.core_linker().instantiate_pre(&module).ok()
    }

    /// A call on the request path.
    #[inline]
    pub(super) fn call<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        self.within(self.call_budget, name, call)
    }

    /// A call off the request path, with the larger budget.
    pub(super) fn call_slowly<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        self.within(self.update_budget, name, call)
    }

    #[inline]
    fn within<T>(
        &mut self,
        budget: Duration,
        name: &'static str,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        if self.failed {
            return Err(Failure::poisoned(name));
        }
        arm(&mut self.store, budget);
        call(&mut self.store).map_err(|e| {
            self.failed = true;
            Failure::of_call(name, &e)
        })
    }

    /// Bytes of linear memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limits.memory_bytes
    }

    pub(super) fn export_state(
        &mut self,
        export: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<Vec<u8>>,
    ) -> Result<Vec<u8>, Failure> {
        let bytes = self.call_slowly("export-state", export)?;
        if bytes.len() > STATE_BYTES_MAX {
            let message = format!("{} bytes, of which {STATE_BYTES_MAX} are carried over", bytes.len());
            return Err(Failure::nonsense("export-state", message));
        }
        Ok(bytes)
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
pub(super) const HOSTCALL_BYTES_MAX: usize = 2 << 20;
/// Of an error text shown to the operator.
const MESSAGE_BYTES_MAX: usize = 2048;
