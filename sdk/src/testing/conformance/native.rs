//! Subjects over the Rust traits. A panic is what a trap is to a component: caught, and reported.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Claims, Host, Report, RouterSubject, Subject, check_balancer, check_router};
use crate::balancer::{Balancer, Choice, Context, Endpoint, Interests, Observation, Setup};
use crate::config::Config;
use crate::router::{Context as RouterContext, Decision, Router};
use crate::testing::world::{SharedWorld, World, enter};
use crate::testing::{Random, Request};

/// Runs the kit on a balancer; for tests.
///
/// # Panics
/// If a check fails; the message is the whole report.
#[expect(clippy::panic, reason = "fails the test that calls it")]
pub fn assert<B: Balancer>(config: &str, claims: &Claims) {
    let report = check_balancer(&mut Native::<B>::new(), config, claims);
    if !report.passed() {
        panic!("\n{report}");
    }
}

/// Runs the kit on a router; for tests.
///
/// # Panics
/// If a check fails; the message is the whole report.
#[expect(clippy::panic, reason = "fails the test that calls it")]
pub fn assert_router<R: Router>(config: &str, backends: &[&str]) {
    let report: Report = check_router(&mut NativeRouter::<R>::new(), config, backends);
    if !report.passed() {
        panic!("\n{report}");
    }
}

/// A [`Balancer`] as a [`Subject`].
pub struct Native<B> {
    policy: Option<B>,
    world: SharedWorld,
    request: Request,
}

/// A [`Router`] as a [`RouterSubject`].
pub struct NativeRouter<R> {
    policy: Option<R>,
    world: SharedWorld,
    request: Request,
}

impl<B: Balancer> Native<B> {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default policy means nothing")]
    pub fn new() -> Self {
        Self { policy: None, world: World::new(1), request: Request::default() }
    }
}

impl<R: Router> NativeRouter<R> {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default policy means nothing")]
    pub fn new() -> Self {
        Self { policy: None, world: World::new(1), request: Request::default() }
    }
}

impl<B: Balancer> Subject for Native<B> {
    fn configure(&mut self, setup: &Setup) -> Result<Interests, String> {
        let policy = caught(&self.world, || B::new(Config::parse(&setup.config)?, setup))??;
        let interests = policy.interests();
        self.policy = Some(policy);
        Ok(interests)
    }

    fn update(&mut self, endpoints: &[Endpoint]) -> Result<(), String> {
        call(&self.world, &mut self.policy, |policy| policy.update(endpoints.to_vec()))
    }

    fn pick(&mut self, ctx: &Context) -> Result<Choice, String> {
        self.world.borrow_mut().request = std::mem::take(&mut self.request);
        let choice = call(&self.world, &mut self.policy, |policy| policy.pick(ctx));
        self.request = std::mem::take(&mut self.world.borrow_mut().request);
        choice
    }

    fn observe(&mut self, observation: &Observation) -> Result<(), String> {
        call(&self.world, &mut self.policy, |policy| policy.observe(observation))
    }

    fn tick(&mut self, now: u64) -> Result<(), String> {
        call(&self.world, &mut self.policy, |policy| policy.tick(now))
    }

    fn export_state(&mut self) -> Result<Vec<u8>, String> {
        call(&self.world, &mut self.policy, |policy| policy.export_state())
    }

    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String> {
        call(&self.world, &mut self.policy, |policy| policy.import_state(bytes))
    }

    fn surround(&mut self, host: &Host) {
        self.request = surround(&self.world, host);
    }
}

impl<R: Router> RouterSubject for NativeRouter<R> {
    fn configure(&mut self, setup: &Setup, backends: &[String]) -> Result<Interests, String> {
        let policy = caught(&self.world, || R::new(Config::parse(&setup.config)?, setup, backends))??;
        let interests = policy.interests();
        self.policy = Some(policy);
        Ok(interests)
    }

    fn route(&mut self, ctx: &RouterContext) -> Result<Decision, String> {
        let head = self.request.head();
        self.world.borrow_mut().request = std::mem::take(&mut self.request);
        let decision = call(&self.world, &mut self.policy, |policy| policy.route(&head, ctx));
        self.request = std::mem::take(&mut self.world.borrow_mut().request);
        decision
    }

    fn tick(&mut self, now: u64) -> Result<(), String> {
        call(&self.world, &mut self.policy, |policy| policy.tick(now))
    }

    fn export_state(&mut self) -> Result<Vec<u8>, String> {
        call(&self.world, &mut self.policy, |policy| policy.export_state())
    }

    fn import_state(&mut self, bytes: &[u8]) -> Result<Result<(), String>, String> {
        call(&self.world, &mut self.policy, |policy| policy.import_state(bytes))
    }

    fn surround(&mut self, host: &Host) {
        self.request = surround(&self.world, host);
    }
}

/// Sets the host's answers, all but the request: it exists in `pick` and `route` only.
fn surround(world: &SharedWorld, host: &Host) -> Request {
    let mut world = world.borrow_mut();
    world.loads.clone_from(&host.loads);
    world.tried.clone_from(&host.tried);
    world.now = host.now;
    world.random = Random::new(host.seed);
    host.request.clone()
}

fn call<P, T>(
    world: &SharedWorld,
    policy: &mut Option<P>,
    call: impl FnOnce(&mut P) -> T,
) -> Result<T, String> {
    let policy = policy.as_mut().ok_or("not configured")?;
    caught(world, || call(policy))
}

fn caught<T>(world: &SharedWorld, call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(|| enter(world, call))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        format!("panicked: {text}")
    })
}
