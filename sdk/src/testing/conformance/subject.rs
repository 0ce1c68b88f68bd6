//! What a policy has to look like to be checked, and what its author claims about it.

use crate::balancer::{Choice, Context, Endpoint, Interests, Load, Observation, Setup};
use crate::router::{Context as RouterContext, Decision};
use crate::testing::{Request, get};

/// A balancer under test, native or compiled.
///
/// An `Err` of any method means that the *call* failed (it trapped, panicked, or overran its deadline), and fails the
/// check, except for [`configure`](Self::configure), whose error may also be the policy's own refusal. After an `Err`
/// the kit uses the subject again only after another `configure`.
pub trait Subject {
    /// Drops the instance there may be, makes a fresh one and configures it.
    ///
    /// # Errors
    /// The refusal of the policy, or the failure of the call.
    fn configure(&mut self, setup: &Setup) -> Result<Interests, String>;

    /// Calls `update`. Loads are those of the last [`surround`](Self::surround); the kit calls it before.
    ///
    /// # Errors
    /// The call failed.
    fn update(&mut self, endpoints: &[Endpoint]) -> Result<(), String>;

    /// Calls `pick`.
    ///
    /// # Errors
    /// The call failed.
    fn pick(&mut self, ctx: &Context) -> Result<Choice, String>;

    /// Calls `observe`; the kit does so only if the policy has asked for outcomes.
    ///
    /// # Errors
    /// The call failed.
    fn observe(&mut self, observation: &Observation) -> Result<(), String>;

    /// Calls `tick`; the kit does so only if the policy has asked for ticks.
    ///
    /// # Errors
    /// The call failed.
    fn tick(&mut self, now: u64) -> Result<(), String>;

    /// Calls `export-state`; the kit does so only if the policy has asked for state.
    ///
    /// # Errors
    /// The call failed.
    fn export_state(&mut self) -> Result<Vec<u8>, String>;

    /// Calls `import-state`; the inner result is the policy's answer.
    ///
    /// # Errors
    /// The call failed.
    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String>;

    /// Sets what all host functions answer from now on; valid before `configure`, too, and kept over it.
    fn surround(&mut self, host: &Host);
}

/// A router under test, native or compiled. What is said of [`Subject`] holds here.
pub trait RouterSubject {
    /// Drops the instance there may be, makes a fresh one and configures it.
    ///
    /// # Errors
    /// The refusal of the policy, or the failure of the call.
    fn configure(&mut self, setup: &Setup, backends: &[String]) -> Result<Interests, String>;

    /// Calls `route` for the request of the last [`surround`](Self::surround), with its head.
    ///
    /// # Errors
    /// The call failed.
    fn route(&mut self, ctx: &RouterContext) -> Result<Decision, String>;

    /// Calls `tick`.
    ///
    /// # Errors
    /// The call failed.
    fn tick(&mut self, now: u64) -> Result<(), String>;

    /// Calls `export-state`.
    ///
    /// # Errors
    /// The call failed.
    fn export_state(&mut self) -> Result<Vec<u8>, String>;

    /// Calls `import-state`; the inner result is the policy's answer.
    ///
    /// # Errors
    /// The call failed.
    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String>;

    /// Sets what all host functions answer from now on.
    fn surround(&mut self, host: &Host);
}

/// What the host functions answer. A subject copies what it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// One for each endpoint of the update to come or in force.
    pub loads: Vec<Load>,
    /// The endpoints for which `request.tried` says yes.
    pub tried: Vec<u32>,
    /// What `env.now` says, in nanoseconds.
    pub now: u64,
    /// Where the sequence of `env.random` starts anew: [`Random::new`](crate::testing::Random::new) of it.
    pub seed: u64,
    /// The request of the picks or of the decision to come.
    pub request: Request,
}

impl Host {
    /// `count` idle endpoints and a plain request.
    #[must_use]
    pub fn idle(count: usize, now: u64) -> Self {
        Self { loads: vec![Load::default(); count], tried: Vec::new(), now, seed: 1, request: get("/") }
    }
}

/// What a balancer promises beyond safety. Checks of promises that are not made are not applicable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    pub weighted: bool,
    /// The share of keys that may move without need when one endpoint of 20 comes or goes.
    pub hashed: Option<f64>,
    pub load_aware: bool,
    pub avoids_failures: bool,
    pub retries_elsewhere: bool,
}

impl Claims {
    /// Promises nothing but to be safe.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Idle endpoints are chosen in proportion to their weights, if neither hash nor random bits are held still.
    #[must_use]
    pub fn weighted(self) -> Self {
        Self { weighted: true, ..self }
    }

    /// The same hash goes to the same idle endpoint, whatever else the context says and in whatever order the
    /// endpoints come; when one of 20 comes or goes, at most `needless` of the keys move that would not have to.
    #[must_use]
    pub fn hashed(self, needless: f64) -> Self {
        Self { hashed: Some(needless), ..self }
    }

    /// An endpoint with very many requests in flight gets less than half of its share.
    #[must_use]
    pub fn load_aware(self) -> Self {
        Self { load_aware: true, ..self }
    }

    /// An endpoint that fails fast gets less than half of its share.
    #[must_use]
    pub fn avoids_failures(self) -> Self {
        Self { avoids_failures: true, ..self }
    }

    /// A second attempt goes elsewhere, if there is another endpoint.
    #[must_use]
    pub fn retries_elsewhere(self) -> Self {
        Self { retries_elsewhere: true, ..self }
    }
}
