//! Who gets the next attempt: the policy's choice, or the native balancer's where there is none to be had.
//!
//! A `Balancer` belongs to one pool on one worker and outlives snapshots that leave its policy alone. The policy sees
//! only endpoints that may be picked; ejections are noticed at the next pick. Nothing awaits while it is borrowed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Upstream;
use crate::clock;
use crate::head::RequestFacts;
use crate::link::{Instance, Report, Slot};
use crate::policy::{BalancerInstance, Choice, Failure, Observation, PickContext};
use crate::snapshot::{Endpoint, PolicyRef, Pool};
use crate::worker::Worker;
use crate::worker::record::{Fallback, PolicySeries};
use native::{ejected, native, unfit};

mod native;

#[derive(Debug)]
pub(in crate::worker) struct Balancer {
    pub(in crate::worker) policy: PolicyRef,
    slot: Slot,
    panic_threshold: f64,
    /// `None` if no policy has anything to say.
    series: Option<PolicySeries>,
    inner: RefCell<Inner>,
    /// The worker has it among those with an instance.
    listed: Cell<bool>,
    /// Of the last pick, in ns of `clock::now_ns`.
    used_ns: Cell<u64>,
}

#[derive(Debug)]
struct Inner {
    instance: Option<Box<BalancerInstance>>,
    /// Why there is no instance, if there is none.
    absent: Absent,
    all: Arc<[Arc<Endpoint>]>,
    /// Those that may be picked; the instance's list, if there is an instance.
    usable: Arc<[Arc<Endpoint>]>,
    /// Parallel to `usable`.
    upstreams: Vec<Rc<Upstream>>,
    /// When an ejected endpoint may come back, ms; 0 if none is out.
    recheck_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// Nobody has picked yet, or not for a long time.
    Cold,
    /// Control knows that one is wanted.
    Wanted,
    /// It failed and is being replaced, or its policy is in quarantine.
    Out,
}

/// An endpoint for one attempt.
#[derive(Debug)]
pub(in crate::worker) struct Picked {
    pub(in crate::worker) endpoint: Arc<Endpoint>,
    pub(in crate::worker) upstream: Rc<Upstream>,
    /// Whether the policy chose or the native balancer in its place; `None` if there was nothing to choose.
    pub(in crate::worker) by_policy: Option<bool>,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum NoPick {
    NoEndpoint,
    /// The policy says so.
    PolicyNone,
}

/// What the picker is told about the attempt.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Attempt {
    pub(in crate::worker) hash: u64,
    pub(in crate::worker) number: u32,
    pub(in crate::worker) now_ns: u64,
    /// Where the attempt before went.
    pub(in crate::worker) previous: Option<u64>,
}

impl Balancer {
    pub(in crate::worker) fn start(
        worker: &Worker,
        pool: &Pool,
        instance: Option<Box<BalancerInstance>>,
    ) -> Rc<Self> {
        let absent = if instance.is_some() { Absent::Out } else { Absent::Cold };
        let series = PolicySeries::new(&worker.metrics, &pool.balancer, "pick");
        Self::with(worker, pool, (instance, absent), Some(series))
    }

    /// For a pool of one endpoint, without a policy.
    pub(in crate::worker) fn fixed(worker: &Worker, pool: &Pool) -> Rc<Self> {
        Self::with(worker, pool, (None, Absent::Out), None)
    }

    fn with(
        worker: &Worker,
        pool: &Pool,
        (instance, absent): (Option<Box<BalancerInstance>>, Absent),
        series: Option<PolicySeries>,
    ) -> Rc<Self> {
        let has_instance = instance.is_some();
        let balancer = Rc::new(Self {
            policy: pool.balancer.clone(),
            slot: Slot::Balancer(Arc::clone(&pool.name)),
            panic_threshold: pool.settings.ejection.panic_threshold,
            series,
            inner: RefCell::new(Inner {
                instance,
                absent,
                all: Arc::clone(&pool.endpoints),
                usable: Arc::from([]),
                upstreams: Vec::new(),
                recheck_ms: 0,
            }),
            listed: Cell::new(has_instance),
            used_ns: Cell::new(0),
        });
        if has_instance {
            worker.active.has_instance(&balancer);
        }
        balancer.refresh(worker);
        balancer
    }

    /// The pool's membership has changed.
    pub(in crate::worker) fn set_members(&self, worker: &Worker, endpoints: &Arc<[Arc<Endpoint>]>) {
        self.inner.borrow_mut().all = Arc::clone(endpoints);
        self.refresh(worker);
    }

    /// Takes a fresh instance in place of one that failed, is superseded or was wanted.
    pub(in crate::worker) fn put(self: &Rc<Self>, worker: &Worker, instance: Box<BalancerInstance>) {
        let old = self.inner.borrow_mut().give(instance);
        worker.retire(old.map(Instance::Balancer));
        if !self.listed.replace(true) {
            worker.active.has_instance(self);
        }
        self.refresh(worker);
    }

    pub(in crate::worker) fn quarantine(&self, worker: &Worker) {
        self.give_up(worker, Absent::Out);
    }

    /// Makes room for others.
    pub(in crate::worker) fn evict(&self, worker: &Worker) {
        self.give_up(worker, Absent::Cold);
    }

    fn give_up(&self, worker: &Worker, absent: Absent) {
        let mut inner = self.inner.borrow_mut();
        inner.absent = absent;
        let old = inner.instance.take();
        drop(inner);
        worker.retire(old.map(Instance::Balancer));
    }

    pub(in crate::worker) fn last_use(&self) -> (Slot, u64) {
        (self.slot.clone(), self.used_ns.get())
    }

    pub(in crate::worker) fn export_state(&self, worker: &Worker) -> Vec<u8> {
        self.call(worker, |instance| instance.export_state()).unwrap_or_default()
    }

    /// Answers whether there is an instance.
    pub(in crate::worker) fn tick(&self, worker: &Worker, now_ns: u64) -> bool {
        let ticked = self.call(worker, |instance| match instance.interests().ticks {
            true => instance.tick(now_ns),
            false => Ok(()),
        });
        self.listed.set(ticked.is_some());
        ticked.is_some()
    }

    /// Connections of this worker to the endpoints in use.
    pub(in crate::worker) fn open(&self) -> i64 {
        self.inner.borrow().upstreams.iter().map(|u| i64::try_from(u.open()).unwrap_or(i64::MAX)).sum()
    }

    pub(in crate::worker) fn flush(&self) {
        if let Some(series) = &self.series {
            series.flush();
        }
    }

    /// Chooses for one attempt. The request is lent to the policy for the length of the call.
    pub(in crate::worker) fn pick(
        &self,
        worker: &Worker,
        facts: &mut Option<Box<RequestFacts>>,
        attempt: Attempt,
    ) -> Result<Picked, NoPick> {
        self.used_ns.set(attempt.now_ns);
        let now_ms = attempt.now_ns / 1_000_000 + 1;
        let recheck_ms = self.inner.borrow().recheck_ms;
        if recheck_ms != 0 && now_ms >= recheck_ms {
            self.refresh(worker);
        }
        let chosen = self.ask(worker, facts, attempt)?;
        let inner = self.inner.borrow();
        let tried = facts.as_ref().map_or(&[][..], |f| &f.tried);
        let index = match chosen {
            Ok(index) => match unfit(&inner.usable, index, tried, now_ms) {
                None => return inner.picked(index, Some(true)).ok_or(NoPick::NoEndpoint),
                Some(why) => {
                    self.fallback(why);
                    native(&inner.usable, tried, worker, now_ms)
                }
            },
            Err(why) => {
                self.fallback(why);
                native(&inner.usable, tried, worker, now_ms)
            }
        };
        let by_policy = self.series.as_ref().map(|_| false);
        let picked = index.and_then(|index| inner.picked(index, by_policy)).ok_or(NoPick::NoEndpoint);
        let stale = inner.usable.iter().any(|e| ejected(e, now_ms));
        drop(inner);
        if stale {
            self.refresh(worker);
        }
        picked
    }

    /// What the policy says: an index, or why the native balancer has to.
    fn ask(
        &self,
        worker: &Worker,
        facts: &mut Option<Box<RequestFacts>>,
        attempt: Attempt,
    ) -> Result<Result<usize, Fallback>, NoPick> {
        let mut inner = self.inner.borrow_mut();
        if inner.usable.is_empty() {
            return Err(NoPick::NoEndpoint);
        }
        let position = |id| inner.usable.iter().position(|e| e.id == id);
        let previous = attempt.previous.and_then(position).and_then(|i| u32::try_from(i).ok());
        // The instance first: without one, the request stays where it is.
        let Some((instance, lent)) = inner.instance.as_mut().and_then(|i| Some((i, facts.take()?))) else {
            return Ok(Err(self.without(worker, &mut inner)));
        };
        let context = PickContext {
            hash: attempt.hash,
            random: worker.random(),
            now: attempt.now_ns,
            attempt: attempt.number,
            previous,
        };
        let sample = self.series.as_ref().and_then(PolicySeries::sample);
        let (returned, choice) = instance.pick(lent, context);
        if let Some(series) = &self.series {
            series.called(sample);
        }
        *facts = Some(returned);
        match choice {
            Ok(Choice::Endpoint(index)) => Ok(Ok(index as usize)),
            Ok(Choice::None) => Err(NoPick::PolicyNone),
            Ok(Choice::Fallback) => Ok(Err(Fallback::Asked)),
            Err(failure) => {
                let failed = inner.instance.take();
                drop(inner);
                self.failed(worker, failed, failure);
                Ok(Err(Fallback::Failed))
            }
        }
    }

    fn fallback(&self, why: Fallback) {
        if let Some(series) = &self.series {
            series.fallback(why);
        }
    }

    /// Why nobody is asked; the first time, control is told that somebody wants to.
    #[cold]
    fn without(&self, worker: &Worker, inner: &mut Inner) -> Fallback {
        if inner.instance.is_some() || inner.absent == Absent::Out {
            return Fallback::NoInstance;
        }
        if inner.absent == Absent::Cold {
            let (slot, digest) = (self.slot.clone(), self.policy.digest);
            if worker.report(Report::Wanted { worker: worker.index, slot, digest }) {
                inner.absent = Absent::Wanted;
            }
        }
        Fallback::Cold
    }

    /// Tells the policy how an attempt ended, if it wants to know.
    pub(in crate::worker) fn observe(
        &self,
        worker: &Worker,
        endpoint: &Endpoint,
        mut observation: Observation,
    ) {
        let index = {
            let inner = self.inner.borrow();
            match &inner.instance {
                Some(instance) if instance.interests().outcomes => {
                    inner.usable.iter().position(|e| e.id == endpoint.id)
                }
                _ => None,
            }
        };
        if let Some(index) = index.and_then(|i| u32::try_from(i).ok()) {
            observation.endpoint = index;
            self.call(worker, |instance| instance.observe(&observation));
        }
    }

    /// An endpoint has been ejected: leave it out from now on.
    pub(in crate::worker) fn refresh(&self, worker: &Worker) {
        let now_ms = clock::now_ms();
        let mut inner = self.inner.borrow_mut();
        let out = inner.all.iter().filter(|e| ejected(e, now_ms)).count();
        inner.recheck_ms = inner
            .all
            .iter()
            .map(|e| e.state.ejected_until_ms.load(Relaxed))
            .filter(|t| *t > now_ms)
            .min()
            .unwrap_or(0);
        let enough = (inner.all.len() - out) as f64 >= self.panic_threshold * inner.all.len() as f64;
        let usable = if out == 0 || !enough || out == inner.all.len() {
            Arc::clone(&inner.all)
        } else {
            inner.all.iter().filter(|e| !ejected(e, now_ms)).cloned().collect()
        };
        if !same(&usable, &inner.usable) {
            inner.upstreams = usable.iter().map(|e| worker.upstream(e.address)).collect();
            inner.usable = usable;
        }
        let usable = Arc::clone(&inner.usable);
        let informed = inner.instance.as_ref().is_none_or(|i| same(i.endpoints(), &usable));
        drop(inner);
        if !informed {
            self.call(worker, |instance| instance.update(usable));
        }
    }

    /// Calls the instance, if there is one, outside a pick.
    fn call<T>(
        &self,
        worker: &Worker,
        call: impl FnOnce(&mut BalancerInstance) -> Result<T, Failure>,
    ) -> Option<T> {
        let mut inner = self.inner.borrow_mut();
        match call(inner.instance.as_mut()?) {
            Ok(value) => Some(value),
            Err(failure) => {
                let failed = inner.instance.take();
                drop(inner);
                self.failed(worker, failed, failure);
                None
            }
        }
    }

    fn failed(&self, worker: &Worker, instance: Option<Box<BalancerInstance>>, failure: Failure) {
        worker.retire(instance.map(Instance::Balancer));
        worker.report(Report::Failed {
            worker: worker.index,
            slot: self.slot.clone(),
            digest: self.policy.digest,
            failure,
        });
    }
}

impl Inner {
    fn give(&mut self, instance: Box<BalancerInstance>) -> Option<Box<BalancerInstance>> {
        // If it fails, it is out until the next.
        self.absent = Absent::Out;
        self.instance.replace(instance)
    }

    fn picked(&self, index: usize, by_policy: Option<bool>) -> Option<Picked> {
        Some(Picked {
            endpoint: Arc::clone(self.usable.get(index)?),
            upstream: Rc::clone(self.upstreams.get(index)?),
            by_policy,
        })
    }
}

/// Whether two lists hold the same endpoints, by pointer.
fn same(a: &Arc<[Arc<Endpoint>]>, b: &Arc<[Arc<Endpoint>]>) -> bool {
    Arc::ptr_eq(a, b) || a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
}
