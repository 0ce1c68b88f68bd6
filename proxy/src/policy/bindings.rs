//! What the contract in `sdk/wit/policy.wit` looks like from the host: generated, never edited.
//!
//! One world holds both roles; `compiled` looks up each exported interface by itself, so a component may have either.

wasmtime::component::bindgen!({
    world: "policy",
    path: "../sdk/wit",
    imports: { default: trappable },
    ownership: Borrowing { duplicate_if_necessary: true },
    with: {
        "outrigger:policy/env.counter": crate::policy::host::CounterHandle,
        "outrigger:policy/env.histogram": crate::policy::host::HistogramHandle,
    },
});

pub(super) use exports::outrigger::policy::{balancer, router, state};
pub(super) use outrigger::policy::{env, request, stats, types};
