//! A snapshot as one worker holds it: with policy instances, connections and counters attached.
//!
//! A request takes one generation and keeps it to its log line. What a new snapshot leaves alone is carried over by
//! pointer: instances, their learning, and connections.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Worker;
use super::record::{Fallback, PolicySeries};
use super::target::Target;
use crate::head::RequestFacts;
use crate::link::{Instance, Report, Slot};
use crate::policy::{BalancerInstance, Decision, Failure, RouteContext, RouterInstance};
use crate::snapshot::{Digest, PolicyRef, Pool, RouteTarget, Shelf, Snapshot};

#[derive(Debug)]
pub(super) struct Generation {
    pub(super) snapshot: Arc<Snapshot>,
    /// Parallel to `Snapshot::pools`.
    places: Shelf<Rc<Place>>,
    /// Parallel to the table's routes; `None` where a route asks no policy.
    pub(super) routers: Vec<Option<Rc<Router>>>,
}

/// Where a pool is put to work when the first request comes: most pools of a large catalogue never are.
#[derive(Debug)]
struct Place {
    pool: Arc<Pool>,
    target: OnceCell<Rc<Target>>,
}

/// A route's policy at work.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) name: Arc<str>,
    pub(super) policy: PolicyRef,
    backends: Arc<[String]>,
    series: PolicySeries,
    instance: RefCell<Option<Box<RouterInstance>>>,
}

impl Generation {
    /// Before the first snapshot.
    pub(super) fn empty(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, places: Shelf::default(), routers: Vec::new() }
    }

    /// The next generation: `instances` where given, what `self` has where the policy is the same.
    pub(super) fn next(
        &self,
        worker: &Worker,
        snapshot: Arc<Snapshot>,
        instances: Vec<(Slot, Instance)>,
    ) -> Self {
        let mut balancers = HashMap::new();
        let mut routers = HashMap::new();
        for (slot, instance) in instances {
            match (slot, instance) {
                (Slot::Balancer(name), Instance::Balancer(instance)) => {
                    drop(balancers.insert(name, instance))
                }
                (Slot::Router(name), Instance::Router(instance)) => drop(routers.insert(name, instance)),
                // Control pairs slots with instances of their kind.
                (_, instance) => worker.retire(Some(instance)),
            }
        }
        if let Some(patch) = snapshot.patch.as_ref().filter(|patch| patch.base == self.snapshot.version) {
            let gone = patch.gone.iter().filter_map(|name| self.target_of(name));
            gone.for_each(|target| target.retire(worker));
            let places = patch.pools.iter().map(|&at| {
                let pool = &snapshot.pools[at];
                (at, next_place(worker, pool, self.place_of(&pool.name), balancers.remove(&pool.name)))
            });
            let places = self.places.with(snapshot.pools.len(), places);
            return Self { places, routers: self.routers.clone(), snapshot };
        }
        let places = snapshot
            .pools
            .iter()
            .map(|pool| next_place(worker, pool, self.place_of(&pool.name), balancers.remove(&pool.name)));
        let places = places.collect();
        let before: HashMap<&str, &Rc<Router>> =
            self.routers.iter().flatten().map(|r| (&*r.name, r)).collect();
        let routers = snapshot.routes.routes().iter().map(|route| {
            let RouteTarget::Router(router) = &route.target else { return None };
            let given = routers.remove(&route.name);
            Some(match (given, before.get(&*route.name)) {
                (None, Some(old)) if old.policy == router.policy && old.backends == router.backend_names => {
                    Rc::clone(old)
                }
                (given, _) => Rc::new(Router {
                    name: Arc::clone(&route.name),
                    policy: router.policy.clone(),
                    backends: Arc::clone(&router.backend_names),
                    series: PolicySeries::new(&worker.metrics, &router.policy, "route"),
                    instance: RefCell::new(given),
                }),
            })
        });
        let next = Self { routers: routers.collect(), places, snapshot };
        let open = self.places.iter().filter_map(|place| place.target.get());
        for gone in open.filter(|target| next.snapshot.place_of(&target.pool.name).is_none()) {
            gone.retire(worker);
        }
        next
    }

    /// The pool at this index, at work from now on.
    pub(super) fn target(&self, worker: &Worker, index: usize) -> Option<&Rc<Target>> {
        let target = self.places.get(index)?.target(worker);
        worker.touch(target);
        Some(target)
    }

    fn place_of(&self, pool: &str) -> Option<&Rc<Place>> {
        self.places.get(self.snapshot.place_of(pool)?)
    }

    /// If it is at work.
    fn target_of(&self, pool: &str) -> Option<&Rc<Target>> {
        self.place_of(pool)?.target.get()
    }

    pub(super) fn router(&self, name: &str) -> Option<&Rc<Router>> {
        self.routers.iter().flatten().find(|r| &*r.name == name)
    }

    /// Puts a fresh instance where one failed, unless the slot has moved on.
    pub(super) fn replace(&self, worker: &Worker, slot: &Slot, digest: Digest, instance: Instance) {
        match (slot, instance) {
            (Slot::Balancer(name), Instance::Balancer(instance)) => match self.place_of(name) {
                Some(place) if place.pool.balancer.digest == digest => {
                    place.target(worker).balancer.put(worker, instance);
                }
                _ => worker.retire(Some(Instance::Balancer(instance))),
            },
            (Slot::Router(name), Instance::Router(instance)) => match self.router(name) {
                Some(router) if router.policy.digest == digest => {
                    let old = router.instance.borrow_mut().replace(instance);
                    worker.retire(old.map(Instance::Router));
                }
                _ => worker.retire(Some(Instance::Router(instance))),
            },
            (_, instance) => worker.retire(Some(instance)),
        }
    }

    pub(super) fn quarantine(&self, worker: &Worker, slot: &Slot, digest: Digest) {
        match slot {
            Slot::Balancer(name) => {
                if let Some(target) = self.target_of(name).filter(|t| t.balancer.policy.digest == digest) {
                    target.balancer.quarantine(worker);
                }
            }
            Slot::Router(name) => {
                if let Some(router) = self.router(name).filter(|r| r.policy.digest == digest) {
                    let old = router.instance.borrow_mut().take();
                    worker.retire(old.map(Instance::Router));
                }
            }
        }
    }

    pub(super) fn evict(&self, worker: &Worker, slots: &[Slot]) {
        for slot in slots {
            let Slot::Balancer(name) = slot else { continue };
            if let Some(target) = self.target_of(name) {
                target.balancer.evict(worker);
            }
        }
    }

    pub(super) fn export_state(&self, worker: &Worker, slot: &Slot) -> Vec<u8> {
        match slot {
            Slot::Balancer(name) => {
                self.target_of(name).map(|t| t.balancer.export_state(worker)).unwrap_or_default()
            }
            Slot::Router(name) => self
                .router(name)
                .and_then(|r| r.call(worker, RouterInstance::export_state))
                .unwrap_or_default(),
        }
    }

    /// Routers only: balancers are ticked by the worker, which knows those that have an instance.
    pub(super) fn tick(&self, worker: &Worker, now_ns: u64) {
        for router in self.routers.iter().flatten() {
            router.call(worker, |instance| match instance.interests().ticks {
                true => instance.tick(now_ns),
                false => Ok(()),
            });
        }
    }

    /// Routers only, as well.
    pub(super) fn flush(&self) {
        for router in self.routers.iter().flatten() {
            router.series.flush();
        }
    }
}

impl Place {
    fn target(&self, worker: &Worker) -> &Rc<Target> {
        self.target.get_or_init(|| Target::next(worker, &self.pool, None, None))
    }
}

fn next_place(
    worker: &Worker,
    pool: &Arc<Pool>,
    old: Option<&Rc<Place>>,
    given: Option<Box<BalancerInstance>>,
) -> Rc<Place> {
    if let Some(old) = old.filter(|old| given.is_none() && Arc::ptr_eq(&old.pool, pool)) {
        return Rc::clone(old);
    }
    let before = old.and_then(|old| old.target.get());
    let at_work = before.is_some() || given.is_some();
    let target = at_work.then(|| Target::next(worker, pool, before, given));
    Rc::new(Place { pool: Arc::clone(pool), target: target.map_or_else(OnceCell::new, OnceCell::from) })
}

impl Router {
    /// What the policy decides; `None` sends the request to the first backend, the safe one, because there is no
    /// instance or it failed.
    pub(super) fn route(
        &self,
        worker: &Worker,
        facts: &mut Option<Box<RequestFacts>>,
        context: RouteContext,
    ) -> Option<Decision> {
        let mut instance = self.instance.borrow_mut();
        // The instance first: without one, the request stays where it is.
        let Some((called, lent)) = instance.as_mut().and_then(|i| Some((i, facts.take()?))) else {
            self.series.fallback(Fallback::NoInstance);
            return None;
        };
        let sample = self.series.sample();
        let (returned, decision) = called.route(lent, context);
        self.series.called(sample);
        *facts = Some(returned);
        match decision {
            Ok(decision) => Some(decision),
            Err(failure) => {
                self.series.fallback(Fallback::Failed);
                self.failed(worker, instance.take(), failure);
                None
            }
        }
    }

    fn call<T>(
        &self,
        worker: &Worker,
        call: impl FnOnce(&mut RouterInstance) -> Result<T, Failure>,
    ) -> Option<T> {
        let mut instance = self.instance.borrow_mut();
        match call(instance.as_mut()?) {
            Ok(value) => Some(value),
            Err(failure) => {
                self.failed(worker, instance.take(), failure);
                None
            }
        }
    }

    fn failed(&self, worker: &Worker, instance: Option<Box<RouterInstance>>, failure: Failure) {
        worker.retire(instance.map(Instance::Router));
        worker.report(Report::Failed {
            worker: worker.index,
            slot: Slot::Router(Arc::clone(&self.name)),
            digest: self.policy.digest,
            failure,
        });
    }
}
