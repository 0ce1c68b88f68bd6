//! A snapshot as one worker holds it: with policy instances, connections and counters attached.
//!
//! A request takes one generation and keeps it to its log line. What a new snapshot leaves alone is carried over by
//! pointer: instances, their learning, and connections.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Worker;
use super::record::{Fallback, PolicySeries, ServiceSeries};
use super::upstream::balance::Balancer;
use crate::head::RequestFacts;
use crate::link::{Instance, Report, Slot};
use crate::policy::{Decision, Failure, RouteContext, RouterInstance};
use crate::snapshot::{Digest, PolicyRef, Pool, RouteTarget, Shelf, Snapshot};

#[derive(Debug)]
pub(super) struct Generation {
    pub(super) snapshot: Arc<Snapshot>,
    /// Parallel to `Snapshot::pools`.
    pub(super) targets: Shelf<Rc<Target>>,
    /// Parallel to the table's routes; `None` where a route asks no policy.
    pub(super) routers: Vec<Option<Rc<Router>>>,
}

/// A pool at work.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) pool: Arc<Pool>,
    pub(super) balancer: Rc<Balancer>,
    pub(super) series: Rc<ServiceSeries>,
    /// First digits, for the access log.
    pub(super) digest: String,
    /// What this worker has added to the gauge of open connections.
    open: Cell<i64>,
}

impl Target {
    /// Brings this worker's share of the gauge of open connections up to date. Pools of a part of a service share
    /// their connections with the whole one, which counts them.
    fn gauge(&self, worker: &Worker, open: i64) {
        if self.pool.name == self.pool.service {
            let gauge = worker.metrics.upstream_connections.with_label_values(&[&*self.pool.service]);
            gauge.add(open - self.open.replace(open));
        }
    }
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
        Self { snapshot, targets: Shelf::default(), routers: Vec::new() }
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
            for gone in patch.gone.iter().filter_map(|name| self.target(name)) {
                gone.gauge(worker, 0);
            }
            let targets = patch.pools.iter().map(|&at| {
                let pool = &snapshot.pools[at];
                (at, next_target(worker, pool, self.target(&pool.name), balancers.remove(&pool.name)))
            });
            let targets = self.targets.with(snapshot.pools.len(), targets);
            return Self { targets, routers: self.routers.clone(), snapshot };
        }
        let before: HashMap<&str, &Rc<Target>> = self.targets.iter().map(|t| (&*t.pool.name, t)).collect();
        let targets = snapshot.pools.iter().map(|pool| {
            next_target(worker, pool, before.get(&*pool.name).copied(), balancers.remove(&pool.name))
        });
        let targets = targets.collect();
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
        let next = Self { routers: routers.collect(), targets, snapshot };
        let stay: HashSet<&str> = next.targets.iter().map(|target| &*target.pool.name).collect();
        for gone in self.targets.iter().filter(|target| !stay.contains(&*target.pool.name)) {
            gone.gauge(worker, 0);
        }
        next
    }

    pub(super) fn target(&self, name: &str) -> Option<&Rc<Target>> {
        self.targets.get(self.snapshot.place_of(name)?)
    }

    pub(super) fn router(&self, name: &str) -> Option<&Rc<Router>> {
        self.routers.iter().flatten().find(|r| &*r.name == name)
    }

    /// Puts a fresh instance where one failed, unless the slot has moved on.
    pub(super) fn replace(&self, worker: &Worker, slot: &Slot, digest: Digest, instance: Instance) {
        match (slot, instance) {
            (Slot::Balancer(name), Instance::Balancer(instance)) => match self.target(name) {
                Some(target) if target.balancer.policy.digest == digest => {
                    target.balancer.put(worker, instance)
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
                if let Some(target) = self.target(name).filter(|t| t.balancer.policy.digest == digest) {
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

    pub(super) fn export_state(&self, worker: &Worker, slot: &Slot) -> Vec<u8> {
        match slot {
            Slot::Balancer(name) => {
                self.target(name).map(|t| t.balancer.export_state(worker)).unwrap_or_default()
            }
            Slot::Router(name) => self
                .router(name)
                .and_then(|r| r.call(worker, RouterInstance::export_state))
                .unwrap_or_default(),
        }
    }

    pub(super) fn tick(&self, worker: &Worker, now_ns: u64) {
        for target in self.targets.iter() {
            target.balancer.tick(worker, now_ns);
        }
        for router in self.routers.iter().flatten() {
            router.call(worker, |instance| match instance.interests().ticks {
                true => instance.tick(now_ns),
                false => Ok(()),
            });
        }
    }

    pub(super) fn flush(&self, worker: &Worker) {
        for target in self.targets.iter() {
            target.series.flush();
            target.balancer.flush();
            target.gauge(worker, target.balancer.open());
        }
        for router in self.routers.iter().flatten() {
            router.series.flush();
        }
    }
}

fn next_target(
    worker: &Worker,
    pool: &Arc<Pool>,
    old: Option<&Rc<Target>>,
    given: Option<Box<crate::policy::BalancerInstance>>,
) -> Rc<Target> {
    let kept = old.filter(|old| given.is_none() && old.balancer.policy == pool.balancer);
    if let Some(old) = kept.filter(|old| Arc::ptr_eq(&old.pool, pool)) {
        return Rc::clone(old);
    }
    let balancer = match kept {
        Some(old) => {
            old.balancer.set_members(worker, &pool.endpoints);
            Rc::clone(&old.balancer)
        }
        None => Rc::new(Balancer::new(worker, pool, given)),
    };
    let series = match old {
        Some(old) => Rc::clone(&old.series),
        None => worker.series(&pool.service),
    };
    let digest = pool.balancer.digest.to_string()[..12].to_owned();
    let open = Cell::new(old.map_or(0, |old| old.open.replace(0)));
    Rc::new(Target { pool: Arc::clone(pool), balancer, series, digest, open })
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
