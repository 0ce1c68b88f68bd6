//! Policies called without the component around them: the canonical ABI by hand, for the functions of the contract.
//!
//! The component's machinery costs three times what a pick does (`policy bench` shows both). So a component of the
//! usual shape (`shape`) is instantiated from its core module, with the same imports (`direct/imports`), limits and
//! store; whatever does not fit runs as a component. Layouts are those of the component model's canonical ABI
//! ("Flattening" and "Storing" in its explainer); every address a guest gives is checked.

use std::sync::Arc;

use wasmtime::{Engine, Instance, InstancePre, Linker, Store, TypedFunc, WasmParams, WasmResults};

use super::bindings::types;
use super::host::HostState;
use heap::Heap;

pub(super) mod balancer;
pub(super) mod heap;
mod imports;
pub(super) mod router;
mod state;

/// Where an answer lies that does not fit in a register.
type Address = u32;
/// Four texts, each an address and a length.
type Setup = (u32, u32, u32, u32, u32, u32, u32, u32);

/// Everything a core module may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    imports::add_to(&mut linker)?;
    Ok(linker)
}

fn instantiate(
    core: &InstancePre<HostState>,
    store: &mut Store<HostState>,
) -> wasmtime::Result<(Instance, Arc<Heap>)> {
    let instance = core.instantiate(&mut *store)?;
    let heap = Arc::new(Heap::of(&instance, store)?);
    store.data_mut().heap = Some(Arc::clone(&heap));
    if let Some(initialize) = optional::<(), ()>(&instance, store, "_initialize")? {
        initialize.call(store, ())?;
    }
    Ok((instance, heap))
}

fn put_setup(heap: &Heap, store: &mut Store<HostState>, setup: &types::Setup<'_>) -> wasmtime::Result<Setup> {
    let config = heap.put_text(&mut *store, setup.config)?;
    let service = heap.put_text(&mut *store, setup.own_service)?;
    let zone = heap.put_text(&mut *store, setup.own_zone)?;
    let target = heap.put_text(&mut *store, setup.target)?;
    Ok((config.0, config.1, service.0, service.1, zone.0, zone.1, target.0, target.1))
}

/// `result<interests, string>`: the case, then one byte of flags or a text.
fn read_interests(
    heap: &Heap,
    store: &Store<HostState>,
    at: Address,
) -> wasmtime::Result<Result<types::Interests, String>> {
    let answer = heap.read::<12>(store, at, 4)?;
    match answer[0] {
        0 => Ok(Ok(interests(answer[4]))),
        1 => Ok(Err(heap.text(store, word(&answer, 4), word(&answer, 8))?)),
        case => Err(no_case("configure", case)),
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
