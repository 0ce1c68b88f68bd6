//! Drives one balancer as a worker of the proxy would, under the control of a test.

use std::time::Duration;

use super::world::{SharedWorld, World, enter};
use super::{Request, get};
use crate::balancer::{Balancer, Choice, Context, Endpoint, Interests, Load, Observation, Outcome, Setup};
use crate::config::Config;
use crate::env::Level;

/// The tick that the contract promises about every 100 ms.
const TICK_NS: u64 = 100_000_000;
/// The clock of every harness starts here and not at 0, as the proxy's does.
const START_NS: u64 = 1_000_000_000_000;

/// A balancer with its fake host: the clock stands still but for [`advance`](Self::advance), and loads are idle but for
/// [`set_load`](Self::set_load).
///
/// ```
/// # use outrigger_sdk::balancer::*;
/// # struct First(u32);
/// # impl Balancer for First {
/// #     type Config = NoConfig;
/// #     fn new(_: NoConfig, _: &Setup) -> Result<Self, String> { Ok(First(0)) }
/// #     fn update(&mut self, endpoints: Vec<Endpoint>) { self.0 = endpoints.len() as u32 }
/// #     fn pick(&mut self, _: &Context) -> Choice { if self.0 == 0 { Choice::None } else { Choice::Endpoint(0) } }
/// # }
/// use outrigger_sdk::testing::{Harness, endpoints};
///
/// let mut harness = Harness::<First>::new("{}");
/// assert_eq!(harness.pick(), Choice::None);
/// harness.update(endpoints(3));
/// assert_eq!(harness.tally(10), [10, 0, 0]);
/// ```
pub struct Harness<B> {
    policy: B,
    world: SharedWorld,
    setup: Setup,
    interests: Interests,
    endpoints: Vec<Endpoint>,
    request: Request,
}

impl<B: Balancer> Harness<B> {
    /// A policy with this JSON configuration and no endpoints.
    ///
    /// # Panics
    /// If the policy refuses the configuration.
    #[must_use]
    #[expect(clippy::panic, reason = "fails the test that calls it")]
    pub fn new(config: &str) -> Self {
        Self::try_new(config).unwrap_or_else(|error| panic!("the policy refuses its configuration: {error}"))
    }

    /// # Errors
    /// What the operator would read, if the policy refuses the configuration.
    pub fn try_new(config: &str) -> Result<Self, String> {
        Self::with_setup(Setup {
            config: config.into(),
            own_service: "caller".into(),
            own_zone: String::new(),
            target: "web".into(),
        })
    }

    /// # Errors
    /// What the operator would read, if the policy refuses the configuration.
    pub fn with_setup(setup: Setup) -> Result<Self, String> {
        let world = World::new(1);
        world.borrow_mut().now = START_NS;
        let policy = enter(&world, || B::new(Config::parse(&setup.config)?, &setup))?;
        let interests = policy.interests();
        Ok(Self { policy, world, setup, interests, endpoints: Vec::new(), request: get("/") })
    }

    /// Replaces all endpoints. Those that stay keep their load.
    pub fn update(&mut self, endpoints: Vec<Endpoint>) {
        let old = std::mem::take(&mut self.world.borrow_mut().loads);
        let load = |id| self.endpoints.iter().position(|known| known.id == id).and_then(|i| old.get(i));
        let loads = endpoints.iter().map(|endpoint| load(endpoint.id).copied().unwrap_or_default()).collect();
        self.world.borrow_mut().loads = loads;
        self.endpoints.clone_from(&endpoints);
        enter(&self.world, || self.policy.update(endpoints));
    }

    /// The endpoints of the last update.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// # Panics
    /// If there is no such endpoint; so do all methods that take an index.
    pub fn set_load(&mut self, endpoint: u32, load: Load) {
        self.world.borrow_mut().loads[endpoint as usize] = load;
    }

    pub fn set_in_flight(&mut self, endpoint: u32, in_flight: u32) {
        self.world.borrow_mut().loads[endpoint as usize].in_flight = in_flight;
    }

    /// The request of the picks to come; `GET /` until then.
    pub fn set_request(&mut self, request: Request) {
        self.request = request;
    }

    /// What `request::tried` answers in the picks to come.
    pub fn set_tried(&mut self, endpoints: &[u32]) {
        self.world.borrow_mut().tried = endpoints.to_vec();
    }

    /// Starts the sequence of random numbers anew.
    pub fn set_seed(&mut self, seed: u64) {
        self.world.borrow_mut().random = super::Random::new(seed);
    }

    #[must_use]
    pub fn now(&self) -> u64 {
        self.world.borrow().now
    }

    /// Lets time pass, with the ticks that the policy has asked for.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now() + time.as_nanos() as u64;
        while self.now() < end {
            let next = end.min((self.now() / TICK_NS + 1) * TICK_NS);
            self.world.borrow_mut().now = next;
            if next.is_multiple_of(TICK_NS) && self.interests.contains(Interests::TICKS) {
                enter(&self.world, || self.policy.tick(next));
            }
        }
    }

    /// A first attempt with fresh random bits and a random hash.
    #[must_use]
    pub fn context(&mut self) -> Context {
        let mut world = self.world.borrow_mut();
        let (hash, random) = (world.random.next(), world.random.next());
        Context { hash, random, now: world.now, attempt: 0, previous: None }
    }

    pub fn pick(&mut self) -> Choice {
        let ctx = self.context();
        self.pick_with(&ctx)
    }

    /// A first attempt whose key has this hash.
    pub fn pick_hash(&mut self, hash: u64) -> Choice {
        let ctx = Context { hash, ..self.context() };
        self.pick_with(&ctx)
    }

    /// A second attempt, after one that went to `previous`.
    pub fn retry(&mut self, previous: u32) -> Choice {
        let ctx = Context { attempt: 1, previous: Some(previous), ..self.context() };
        self.pick_with(&ctx)
    }

    pub fn pick_with(&mut self, ctx: &Context) -> Choice {
        self.world.borrow_mut().request = std::mem::take(&mut self.request);
        let choice = enter(&self.world, || self.policy.pick(ctx));
        self.request = std::mem::take(&mut self.world.borrow_mut().request);
        choice
    }

    /// How often each endpoint is chosen in `picks` first attempts.
    ///
    /// # Panics
    /// If a choice is outside the list. `None` and `Fallback` count nowhere.
    pub fn tally(&mut self, picks: u32) -> Vec<u32> {
        let mut counts = vec![0; self.endpoints.len()];
        for _ in 0..picks {
            if let Choice::Endpoint(chosen) = self.pick() {
                counts[chosen as usize] += 1;
            }
        }
        counts
    }

    /// Reports an attempt that has just ended, if the policy has asked for it.
    pub fn observe(&mut self, endpoint: u32, outcome: Outcome, latency: Duration) {
        let took = latency.as_nanos() as u64;
        let answered =
            !matches!(outcome, Outcome::Timeout | Outcome::Refused | Outcome::Reset | Outcome::Cancelled);
        let observation = Observation {
            endpoint,
            outcome,
            status: status(outcome),
            attempt: 0,
            first_byte: if answered { took } else { 0 },
            total: took,
            now: self.now(),
        };
        if self.interests.contains(Interests::OUTCOMES) {
            enter(&self.world, || self.policy.observe(&observation));
        }
    }

    /// Replaces the policy by a new instance as a swap does, with the state if the policy has asked for it.
    ///
    /// # Errors
    /// If the new instance refuses the configuration or the state.
    pub fn swap(&mut self) -> Result<(), String> {
        let world = &self.world;
        let mut new = enter(world, || B::new(Config::parse(&self.setup.config)?, &self.setup))?;
        enter(world, || new.update(self.endpoints.clone()));
        if self.interests.contains(Interests::STATE) {
            let bytes = enter(world, || self.policy.export_state());
            enter(world, || new.import_state(&bytes))?;
        }
        self.policy = new;
        Ok(())
    }

    /// The value of a [`Counter`](crate::env::Counter); 0 if the policy never made it.
    #[must_use]
    pub fn counter(&self, name: &str) -> i64 {
        self.world.borrow().counters.get(name).map_or(0, |cell| cell.get())
    }

    /// All that a [`Histogram`](crate::env::Histogram) was told.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Vec<u64> {
        self.world.borrow().histograms.get(name).map_or_else(Vec::new, |values| values.borrow().clone())
    }

    /// All that was logged so far.
    #[must_use]
    pub fn log(&self) -> Vec<(Level, String)> {
        self.world.borrow().log.clone()
    }

    #[must_use]
    pub fn interests(&self) -> Interests {
        self.interests
    }

    #[must_use]
    pub fn policy(&self) -> &B {
        &self.policy
    }
}

/// A status that goes with the outcome.
pub(super) fn status(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Success => 200,
        Outcome::ClientError => 404,
        Outcome::ServerError => 500,
        Outcome::RateLimited => 429,
        Outcome::Timeout | Outcome::Reset | Outcome::Refused | Outcome::Cancelled => 0,
    }
}
