//! Checks that every policy should pass, native or compiled.
//!
//! The kit speaks to a policy through [`Subject`] (balancers) or [`RouterSubject`] only, and hands in loads, time,
//! randomness and the request through it: it holds no thread-local state. [`Native`] and [`NativeRouter`] are subjects
//! over the Rust traits; the proxy has others over components, for `outrigger policy check`.
//!
//! ```
//! # use outrigger_sdk::balancer::*;
//! # struct Uniform(u32);
//! # impl Balancer for Uniform {
//! #     type Config = NoConfig;
//! #     fn new(_: NoConfig, _: &Setup) -> Result<Self, String> { Ok(Uniform(0)) }
//! #     fn update(&mut self, endpoints: Vec<Endpoint>) { self.0 = endpoints.len() as u32 }
//! #     fn pick(&mut self, ctx: &Context) -> Choice { choose::index(ctx.random, self.0).into() }
//! # }
//! use outrigger_sdk::testing::conformance::{self, Claims};
//!
//! conformance::assert::<Uniform>("{}", &Claims::none());
//! ```

mod balancer;
mod claims;
mod drive;
mod native;
mod report;
mod router;
mod subject;

pub use balancer::check_balancer;
pub use native::{Native, NativeRouter, assert, assert_router};
pub use report::{Check, Report, Verdict};
pub use router::check_router;
pub use subject::{Claims, Host, RouterSubject, Subject};
