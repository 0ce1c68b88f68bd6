//! Everything a balancer is written with: `use outrigger_sdk::balancer::*;`.
//!
//! The proxy calls, in this order: `new`, then [`interests`](Balancer::interests), [`update`](Balancer::update), after
//! a swap [`import_state`](Balancer::import_state), and then [`pick`](Balancer::pick) for every attempt, with further
//! updates, and with the calls that the interests ask for, in between. Calls never overlap.

pub use crate::bindings::balancer::{Choice, Context, Observation, Outcome};
pub use crate::bindings::stats::Load;
pub use crate::bindings::types::{Endpoint, EndpointIndex, Interests, Label, Nanoseconds, Setup};
pub use crate::config::{Config, NoConfig};
pub use crate::env::{Counter, Histogram, Level};
pub use crate::{choose, env, export_balancer, export_policy, hash, request, stats};

/// Chooses an endpoint for each attempt of a request to one service.
///
/// ```
/// use outrigger_sdk::balancer::*;
///
/// /// Each endpoint in turn.
/// struct InTurn {
///     count: u32,
///     next: u32,
/// }
///
/// impl Balancer for InTurn {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
///         Ok(InTurn { count: 0, next: 0 })
///     }
///
///     fn update(&mut self, endpoints: Vec<Endpoint>) {
///         self.count = endpoints.len() as u32;
///     }
///
///     fn pick(&mut self, _: &Context) -> Choice {
///         if self.count == 0 {
///             return Choice::None;
///         }
///         self.next = (self.next + 1) % self.count;
///         Choice::Endpoint(self.next)
///     }
/// }
///
/// export_balancer!(InTurn);
/// ```
pub trait Balancer: Sized + 'static {
    /// A type of your own with `#[derive(Deserialize)]`, or [`NoConfig`].
    type Config: Config;

    /// Called once, first.
    ///
    /// # Errors
    /// Refuses the policy; the text is shown to the operator. Begin it with the name of the field to blame.
    fn new(config: Self::Config, setup: &Setup) -> Result<Self, String>;

    /// What to call beyond the minimum; asked once, after `new`. `observe`, `tick`, `export_state` and `import_state`
    /// are never called unless this asks for them.
    fn interests(&self) -> Interests {
        Interests::empty()
    }

    /// Replaces all endpoints; may be empty. Indices count from zero in this order and mean nothing after the next
    /// update: what is to be kept about an endpoint is kept by [`Endpoint::id`].
    fn update(&mut self, endpoints: Vec<Endpoint>);

    /// Chooses for one attempt, within 2 ms of CPU time.
    fn pick(&mut self, ctx: &Context) -> Choice;

    /// An attempt ended. Needs [`Interests::OUTCOMES`].
    fn observe(&mut self, _observation: &Observation) {}

    /// About every 100 ms. Needs [`Interests::TICKS`].
    fn tick(&mut self, _now: Nanoseconds) {}

    /// What the next version of this policy should know, at most 1 MiB. Needs [`Interests::STATE`].
    fn export_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over from the version before, after `new` and the first `update`. Needs [`Interests::STATE`].
    /// The bytes may come from an older version of this policy or from another one: check them.
    ///
    /// # Errors
    /// The policy then goes on afresh, and the text is logged. Nothing of the bytes may have been kept.
    fn import_state(&mut self, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
