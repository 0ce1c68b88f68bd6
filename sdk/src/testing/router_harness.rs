//! Drives one router as a worker of the proxy would, under the control of a test.

use std::time::Duration;

use super::Request;
use super::world::{SharedWorld, World, enter};
use crate::config::Config;
use crate::env::Level;
use crate::router::{Context, Decision, Interests, Router, Setup};

/// A router with its fake host: `RouterHarness::<Canary>::new("{}", &["stable", "canary"]).route(&get("/"))`.
pub struct RouterHarness<R> {
    policy: R,
    world: SharedWorld,
    interests: Interests,
}

impl<R: Router> RouterHarness<R> {
    /// A policy with this JSON configuration and these backends granted.
    ///
    /// # Panics
    /// If the policy refuses the configuration.
    #[must_use]
    #[expect(clippy::panic, reason = "fails the test that calls it")]
    pub fn new(config: &str, backends: &[&str]) -> Self {
        Self::try_new(config, backends)
            .unwrap_or_else(|error| panic!("the policy refuses its configuration: {error}"))
    }

    /// # Errors
    /// What the operator would read, if the policy refuses the configuration.
    pub fn try_new(config: &str, backends: &[&str]) -> Result<Self, String> {
        let setup = Setup {
            config: config.into(),
            own_service: "caller".into(),
            own_zone: String::new(),
            target: "route".into(),
        };
        let world = World::new(1);
        let backends: Vec<String> = backends.iter().map(|&name| name.to_owned()).collect();
        let policy = enter(&world, || R::new(Config::parse(&setup.config)?, &setup, &backends))?;
        let interests = policy.interests();
        Ok(Self { policy, world, interests })
    }

    /// Decides with fresh random bits and a random hash.
    pub fn route(&mut self, request: &Request) -> Decision {
        let hash = self.world.borrow_mut().random.next();
        self.route_hash(request, hash)
    }

    /// Decides for a request whose key has this hash.
    pub fn route_hash(&mut self, request: &Request, hash: u64) -> Decision {
        let ctx = {
            let mut world = self.world.borrow_mut();
            world.request = request.clone();
            Context { hash, random: world.random.next(), now: world.now }
        };
        let decision = enter(&self.world, || self.policy.route(&request.head(), &ctx));
        self.world.borrow_mut().request = Request::default();
        decision
    }

    /// Lets time pass, with one tick at its end if the policy has asked for ticks.
    pub fn advance(&mut self, time: Duration) {
        self.world.borrow_mut().now += time.as_nanos() as u64;
        let now = self.world.borrow().now;
        if self.interests.contains(Interests::TICKS) {
            enter(&self.world, || self.policy.tick(now));
        }
    }

    /// The value of a [`Counter`](crate::env::Counter); 0 if the policy never made it.
    #[must_use]
    pub fn counter(&self, name: &str) -> i64 {
        self.world.borrow().counters.get(name).map_or(0, |cell| cell.get())
    }

    /// All that was logged so far.
    #[must_use]
    pub fn log(&self) -> Vec<(Level, String)> {
        self.world.borrow().log.clone()
    }

    #[must_use]
    pub fn policy(&self) -> &R {
        &self.policy
    }
}
