//! Writes Outrigger policies in Rust: a trait to implement, a macro to export it, and a harness to test it natively.
//!
//! A *balancer* picks an endpoint for each attempt of a request ([`balancer`]); a *router* decides what happens to a
//! request ([`router`]). Both become WebAssembly components over the contract in `wit/policy.wit`.
//! `README.md` leads from an empty folder to a policy that is being served.

pub mod balancer;
#[doc(hidden)]
pub mod bindings;
pub mod choose;
pub mod config;
pub mod env;
#[doc(hidden)]
pub mod export;
pub mod hash;
pub mod request;
pub mod router;
pub mod stats;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
