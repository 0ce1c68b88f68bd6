//! The host that policies meet natively, one per thread while a call into a policy runs.
//!
//! `stats`, `request` and `env` look here; harnesses [`enter`] it around every call. Host functions called elsewhere
//! are a mistake in the test and panic.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Random, Request};
use crate::balancer::Load;
use crate::env::Level;

/// What the host functions answer. Outside `pick` and `route` the request is empty.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) loads: Vec<Load>,
    pub(crate) tried: Vec<u32>,
    pub(crate) request: Request,
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) counters: BTreeMap<String, Rc<Cell<i64>>>,
    pub(crate) histograms: BTreeMap<String, Rc<RefCell<Vec<u64>>>>,
}

pub(crate) type SharedWorld = Rc<RefCell<World>>;

thread_local! {
    static CURRENT: RefCell<Option<SharedWorld>> = const { RefCell::new(None) };
}

/// Runs a call into a policy with this world as its host.
pub(crate) fn enter<R>(world: &SharedWorld, call: impl FnOnce() -> R) -> R {
    let _guard = Restore(CURRENT.replace(Some(Rc::clone(world))));
    call()
}

/// Runs a host function.
#[expect(clippy::panic, reason = "only tests run this, and the mistake is theirs")]
pub(crate) fn with<R>(function: impl FnOnce(&mut World) -> R) -> R {
    match CURRENT.with_borrow(Option::clone) {
        Some(world) => function(&mut world.borrow_mut()),
        None => panic!("a host function was called outside a policy: go through a Harness"),
    }
}

/// Also puts the former world back when the policy panics.
struct Restore(Option<SharedWorld>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> SharedWorld {
        Rc::new(RefCell::new(Self {
            loads: Vec::new(),
            tried: Vec::new(),
            request: Request::default(),
            now: 0,
            random: Random::new(seed),
            log: Vec::new(),
            counters: BTreeMap::new(),
            histograms: BTreeMap::new(),
        }))
    }

    #[expect(
        clippy::panic,
        reason = "the proxy traps here: the policy has asked for an endpoint that is not there"
    )]
    pub(crate) fn load(&self, endpoint: u32) -> Load {
        match self.loads.get(endpoint as usize) {
            Some(load) => *load,
            None => panic!("stats: endpoint {endpoint} of {}", self.loads.len()),
        }
    }

    pub(crate) fn counter(&mut self, name: &str) -> Rc<Cell<i64>> {
        Rc::clone(self.counters.entry(name.to_owned()).or_default())
    }

    pub(crate) fn histogram(&mut self, name: &str) -> Rc<RefCell<Vec<u64>>> {
        Rc::clone(self.histograms.entry(name.to_owned()).or_default())
    }
}
