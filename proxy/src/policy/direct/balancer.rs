//! A balancer called directly.

use std::sync::Arc;

use wasmtime::{InstancePre, Store, TypedFunc};

use super::heap::Heap;
use super::state::State;
use super::{Address, Setup, after, finish, no_case, put_setup, read_interests, required, word};
use crate::policy::bindings::{balancer, types};
use crate::policy::host::HostState;
use crate::snapshot::Endpoint;

/// Hash, random bits, time, attempt, and whether and which endpoint was tried before.
type Context = (u64, u64, u64, u32, u32, u32);
/// Endpoint, outcome, status, attempt, first byte, total, time.
type Observation = (u32, u32, u32, u32, u64, u64, u64);

/// The exports of one instance of a balancer's core module.
pub(in crate::policy) struct Balancer {
    heap: Arc<Heap>,
    configure: TypedFunc<Setup, Address>,
    update: TypedFunc<(u32, u32), ()>,
    pick: TypedFunc<Context, Address>,
    observe: TypedFunc<Observation, ()>,
    tick: TypedFunc<u64, ()>,
    after_configure: Option<TypedFunc<Address, ()>>,
    after_pick: Option<TypedFunc<Address, ()>>,
    pub(in crate::policy) state: State,
}

impl Balancer {
    /// Instantiates. An error says that the module is not what its component led to expect, or that it failed.
    pub(in crate::policy) fn start(
        core: &InstancePre<HostState>,
        store: &mut Store<HostState>,
    ) -> wasmtime::Result<Self> {
        let (instance, heap) = super::instantiate(core, store)?;
        Ok(Self {
            configure: required(&instance, store, "balancer", "configure")?,
            update: required(&instance, store, "balancer", "update")?,
            pick: required(&instance, store, "balancer", "pick")?,
            observe: required(&instance, store, "balancer", "observe")?,
            tick: required(&instance, store, "balancer", "tick")?,
            after_configure: after(&instance, store, "balancer", "configure")?,
            after_pick: after(&instance, store, "balancer", "pick")?,
            state: State::of(&instance, store, &heap)?,
            heap,
        })
    }

    pub(in crate::policy) fn configure(
        &self,
        store: &mut Store<HostState>,
        setup: &types::Setup<'_>,
    ) -> wasmtime::Result<Result<types::Interests, String>> {
        let texts = put_setup(&self.heap, store, setup)?;
        let at = self.configure.call(&mut *store, texts)?;
        let answer = read_interests(&self.heap, store, at)?;
        finish(self.after_configure.as_ref(), store, at)?;
        Ok(answer)
    }

    pub(in crate::policy) fn update(
        &self,
        store: &mut Store<HostState>,
        list: &[Arc<Endpoint>],
    ) -> wasmtime::Result<()> {
        let (at, count) = self.heap.put_endpoints(store, list)?;
        self.update.call(store, (at, count))
    }

    #[inline]
    pub(in crate::policy) fn pick(
        &self,
        store: &mut Store<HostState>,
        ctx: balancer::Context,
    ) -> wasmtime::Result<balancer::Choice> {
        let (known, previous) = ctx.previous.map_or((0, 0), |previous| (1, previous));
        let at =
            self.pick.call(&mut *store, (ctx.hash, ctx.random, ctx.now, ctx.attempt, known, previous))?;
        // variant choice: the case, then an index.
        let answer = self.heap.read::<8>(store, at, 4)?;
        finish(self.after_pick.as_ref(), store, at)?;
        match answer[0] {
            0 => Ok(balancer::Choice::Endpoint(word(&answer, 4))),
            1 => Ok(balancer::Choice::None),
            2 => Ok(balancer::Choice::Fallback),
            case => Err(no_case("pick", case)),
        }
    }

    pub(in crate::policy) fn observe(
        &self,
        store: &mut Store<HostState>,
        seen: &balancer::Observation,
    ) -> wasmtime::Result<()> {
        let balancer::Observation { endpoint, outcome, status, attempt, first_byte, total, now } = *seen;
        let outcome = outcome as u32;
        self.observe.call(store, (endpoint, outcome, u32::from(status), attempt, first_byte, total, now))
    }

    pub(in crate::policy) fn tick(&self, store: &mut Store<HostState>, now: u64) -> wasmtime::Result<()> {
        self.tick.call(store, now)
    }
}
