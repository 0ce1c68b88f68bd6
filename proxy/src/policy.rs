//! Policies: from the bytes of a component to an instance that picks endpoints or routes requests.
//!
//! Control loads (`Engine::load`) and prepares instances (`Compiled::balancer`, `Compiled::router`), both off the
//! workers; a worker owns the instances given to it and calls them. Invariants: no wasmtime type leaves this
//! module, no call outlives its CPU budget, and nothing a guest does is worse than a `Failure`.

pub mod balancer;
mod bindings;
pub mod builtin;
mod cache;
pub mod compiled;
pub mod compiler;
pub mod decision;
mod direct;
pub mod engine;
pub(crate) mod epoch;
pub mod facts;
mod host;
mod imports;
mod inspect;
mod instance;
pub mod metrics;
pub mod refusal;
pub mod router;
mod shape;
#[cfg(test)]
mod tests;

pub use balancer::{BalancerInstance, Choice, Observation, Outcome, PickContext};
pub use compiled::{Compiled, Interests, Setup};
pub use decision::{Decision, Forward, Redirect, Reply, RetryVerdict};
pub use engine::{Engine, EngineError};
pub use inspect::{Inspection, Roles, inspect};
pub use metrics::PolicyMetrics;
pub use refusal::{Failure, FailureKind, Refusal};
pub use router::{RouteContext, RouterInstance};
