//! A balancer called without the component around it: the canonical ABI by hand, for the functions of the contract.
//!
//! The component's machinery costs three times what a pick does (`policy bench` shows both). So a component of the
//! usual shape (`shape`) is instantiated from its core module, with the same imports (`direct/imports`), limits and
//! store; whatever does not fit runs as a component. Layouts are those of the component model's canonical ABI
//! ("Flattening" and "Storing" in its explainer); every address a guest gives is checked.

use std::sync::Arc;

use wasmtime::{Engine, Instance, InstancePre, Linker, Store, TypedFunc, WasmParams, WasmResults};

use super::bindings::{balancer, types};
use super::host::HostState;
use crate::snapshot::Endpoint;
use heap::Heap;

pub(super) mod heap;
mod imports;

/// Where an answer lies that does not fit in a register.
type Address = u32;

/// Four texts, each an address and a length.
type Setup = (u32, u32, u32, u32, u32, u32, u32, u32);
/// Hash, random bits, time, attempt, and whether and which endpoint was tried before.
type Context = (u64, u64, u64, u32, u32, u32);
/// Endpoint, outcome, status, attempt, first byte, total, time.
type Observation = (u32, u32, u32, u32, u64, u64, u64);

/// The exports of one instance of a core module.
pub(super) struct Direct {
    heap: Arc<Heap>,
    configure: TypedFunc<Setup, Address>,
    update: TypedFunc<(u32, u32), ()>,
    pick: TypedFunc<Context, Address>,
    observe: TypedFunc<Observation, ()>,
    tick: TypedFunc<u64, ()>,
    export_state: TypedFunc<(), Address>,
    import_state: TypedFunc<(u32, u32), Address>,
    after: After,
}

/// What the guest wants to be called with once its answer has been read: absent where nothing is to be freed.
struct After {
    configure: Option<TypedFunc<Address, ()>>,
    pick: Option<TypedFunc<Address, ()>>,
    export_state: Option<TypedFunc<Address, ()>>,
    import_state: Option<TypedFunc<Address, ()>>,
}

/// Everything a core module may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    imports::add_to(&mut linker)?;
    Ok(linker)
}

impl Direct {
    /// Instantiates. An error says that the module is not what its component led to expect, or that it failed.
    pub(super) fn start(
        pre: &InstancePre<HostState>,
        store: &mut Store<HostState>,
    ) -> wasmtime::Result<Self> {
        let instance = pre.instantiate(&mut *store)?;
        let heap = Arc::new(Heap::of(&instance, store)?);
        store.data_mut().heap = Some(Arc::clone(&heap));
        if let Some(initialize) = optional::<(), ()>(&instance, store, "_initialize")? {
            initialize.call(&mut *store, ())?;
        }
        let after = After {
            configure: after(&instance, store, "balancer", "configure")?,
            pick: after(&instance, store, "balancer", "pick")?,
            export_state: after(&instance, store, "state", "export-state")?,
            import_state: after(&instance, store, "state", "import-state")?,
        };
        Ok(Self {
            heap,
            configure: required(&instance, store, "balancer", "configure")?,
            update: required(&instance, store, "balancer", "update")?,
            pick: required(&instance, store, "balancer", "pick")?,
            observe: required(&instance, store, "balancer", "observe")?,
            tick: required(&instance, store, "balancer", "tick")?,
            export_state: required(&instance, store, "state", "export-state")?,
            import_state: required(&instance, store, "state", "import-state")?,
            after,
        })
    }

    pub(super) fn configure(
        &self,
        store: &mut Store<HostState>,
        setup: &types::Setup<'_>,
    ) -> wasmtime::Result<Result<types::Interests, String>> {
        let heap = &*self.heap;
        let config = heap.put_text(&mut *store, setup.config)?;
        let service = heap.put_text(&mut *store, setup.own_service)?;
        let zone = heap.put_text(&mut *store, setup.own_zone)?;
        let target = heap.put_text(&mut *store, setup.target)?;
        let texts = (config.0, config.1, service.0, service.1, zone.0, zone.1, target.0, target.1);
        let at = self.configure.call(&mut *store, texts)?;
        // result<interests, string>: the case, then one byte of flags or a text.
        let answer = heap.read::<12>(store, at, 4)?;
        let answer = match answer[0] {
            0 => Ok(interests(answer[4])),
            1 => Err(heap.text(&*store, word(&answer, 4), word(&answer, 8))?),
            case => return Err(no_case("configure", case)),
        };
        finish(self.after.configure.as_ref(), store, at)?;
        Ok(answer)
    }

    pub(super) fn update(
        &self,
        store: &mut Store<HostState>,
        list: &[Arc<Endpoint>],
    ) -> wasmtime::Result<()> {
        let (at, count) = self.heap.put_endpoints(store, list)?;
        self.update.call(store, (at, count))
    }

    #[inline]
    pub(super) fn pick(
        &self,
        store: &mut Store<HostState>,
        ctx: balancer::Context,
    ) -> wasmtime::Result<balancer::Choice> {
        let (known, previous) = ctx.previous.map_or((0, 0), |previous| (1, previous));
        let at =
            self.pick.call(&mut *store, (ctx.hash, ctx.random, ctx.now, ctx.attempt, known, previous))?;
        // variant choice: the case, then an index.
        let answer = self.heap.read::<8>(store, at, 4)?;
        finish(self.after.pick.as_ref(), store, at)?;
        match answer[0] {
            0 => Ok(balancer::Choice::Endpoint(word(&answer, 4))),
            1 => Ok(balancer::Choice::None),
            2 => Ok(balancer::Choice::Fallback),
            case => Err(no_case("pick", case)),
        }
    }

    pub(super) fn observe(
        &self,
        store: &mut Store<HostState>,
        seen: &balancer::Observation,
    ) -> wasmtime::Result<()> {
        let balancer::Observation { endpoint, outcome, status, attempt, first_byte, total, now } = *seen;
        let outcome = outcome as u32;
        self.observe.call(store, (endpoint, outcome, u32::from(status), attempt, first_byte, total, now))
    }

    pub(super) fn tick(&self, store: &mut Store<HostState>, now: u64) -> wasmtime::Result<()> {
        self.tick.call(store, now)
    }

    pub(super) fn export_state(&self, store: &mut Store<HostState>) -> wasmtime::Result<Vec<u8>> {
        let at = self.export_state.call(&mut *store, ())?;
        let answer = self.heap.read::<8>(store, at, 4)?;
        let bytes = self.heap.bytes(&*store, word(&answer, 0), word(&answer, 4))?.to_vec();
        finish(self.after.export_state.as_ref(), store, at)?;
        Ok(bytes)
    }

    pub(super) fn import_state(
        &self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        let bytes = self.heap.put_bytes(&mut *store, state)?;
        let at = self.import_state.call(&mut *store, bytes)?;
        let answer = self.heap.read::<12>(store, at, 4)?;
        let answer = match answer[0] {
            0 => Ok(()),
            1 => Err(self.heap.text(&*store, word(&answer, 4), word(&answer, 8))?),
            case => return Err(no_case("import-state", case)),
        };
        finish(self.after.import_state.as_ref(), store, at)?;
        Ok(answer)
    }
}

/// Bits beyond those of the contract are ignored, as the canonical ABI has it.
fn interests(flags: u8) -> types::Interests {
    let all = [
        types::Interests::OUTCOMES,
        types::Interests::TICKS,
        types::Interests::STATE,
        types::Interests::REBUILD,
    ];
    let named = all.into_iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0);
    named.fold(types::Interests::empty(), |found, (_, flag)| found | flag)
}

#[inline]
fn finish(
    after: Option<&TypedFunc<Address, ()>>,
    store: &mut Store<HostState>,
    at: Address,
) -> wasmtime::Result<()> {
    after.map_or(Ok(()), |after| after.call(store, at))
}

/// A little-endian word of an answer; `at + 4` is within it.
#[inline]
fn word(answer: &[u8], at: usize) -> u32 {
    answer[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn required<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<HostState>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<TypedFunc<P, R>> {
    let name = format!("outrigger:policy/{interface}@{CONTRACT}#{function}");
    instance.get_typed_func(store, &name)
}

fn after(
    instance: &Instance,
    store: &mut Store<HostState>,
    interface: &str,
    function: &str,
) -> wasmtime::Result<Option<TypedFunc<Address, ()>>> {
    optional(instance, store, &format!("cabi_post_outrigger:policy/{interface}@{CONTRACT}#{function}"))
}

fn optional<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<HostState>,
    name: &str,
) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
    let function = instance.get_func(&mut *store, name);
    function.map(|function| function.typed(&*store)).transpose()
}

#[cold]
fn no_case(call: &str, case: u8) -> wasmtime::Error {
    wasmtime::Error::msg(format!("{call}: the answer's case {case} does not exist"))
}

/// The version of the contract whose names and layouts these are.
const CONTRACT: &str = "0.1.0";
