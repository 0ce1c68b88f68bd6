//! Tests policies natively: a fake host with a clock, randomness, loads and requests under the test's control.
//!
//! [`Harness`] drives a balancer and [`RouterHarness`] a router, as the proxy would. [`conformance`] is a kit of checks
//! that every policy should pass; the proxy runs the same kit on compiled components. Nothing here sleeps, and the same
//! seed gives the same run.

pub mod conformance;
mod endpoint;
mod harness;
mod random;
mod request;
mod router_harness;
pub(crate) mod world;

pub use endpoint::{endpoint, endpoints};
pub use harness::Harness;
pub use random::Random;
pub use request::{Request, get};
pub use router_harness::RouterHarness;
