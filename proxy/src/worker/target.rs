//! A pool at work on one worker: its balancer, its counters, and whether anything has happened to it of late.
//!
//! What ticks and flushes walk are the lists in `Active`, not the catalogue: a pool nobody asks for costs nothing.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::Worker;
use super::record::ServiceSeries;
use super::upstream::balance::Balancer;
use crate::link::Slot;
use crate::policy::BalancerInstance;
use crate::snapshot::Pool;

#[derive(Debug)]
pub(super) struct Target {
    pub(super) pool: Arc<Pool>,
    pub(super) balancer: Rc<Balancer>,
    pub(super) series: Rc<ServiceSeries>,
    /// First digits, for the access log; empty without a policy.
    pub(super) digest: String,
    /// Our own workload, not a service.
    pub(super) is_workload: bool,
    /// Connections to an endpoint, of this worker.
    pub(super) open_max: usize,
    /// What this worker has added to the gauge of open connections.
    open: Cell<i64>,
    /// It is in `Active::targets`.
    active: Cell<bool>,
    /// Another has taken its place, or its service is gone.
    retired: Cell<bool>,
}

/// What a worker has to look after.
#[derive(Debug, Default)]
pub(super) struct Active {
    /// Touched since the last flush, or with open connections.
    targets: RefCell<Vec<Rc<Target>>>,
    /// With an instance, or had one at the last tick. Each once.
    instances: RefCell<Vec<Weak<Balancer>>>,
}

impl Target {
    /// For a pool in place of an old one of the same name, if there was one.
    pub(super) fn next(
        worker: &Worker,
        pool: &Arc<Pool>,
        old: Option<&Rc<Self>>,
        given: Option<Box<BalancerInstance>>,
    ) -> Rc<Self> {
        let kept = old.filter(|old| given.is_none() && old.balancer.policy == pool.balancer);
        let balancer = match kept {
            Some(old) => {
                old.balancer.set_members(worker, &pool.endpoints);
                Rc::clone(&old.balancer)
            }
            None => Balancer::start(worker, pool, given),
        };
        let series = match old {
            Some(old) => Rc::clone(&old.series),
            None => worker.series(&pool.service),
        };
        let digest = pool.balancer.digest.to_string()[..12].to_owned();
        let open = Cell::new(old.map_or(0, |old| old.open.replace(0)));
        if let Some(old) = old {
            old.retired.set(true);
        }
        let (pool, active, retired) = (Arc::clone(pool), Cell::new(false), Cell::new(false));
        let (is_workload, open_max) = (false, worker.config.limits.endpoint_connections_max);
        let target =
            Rc::new(Self { pool, balancer, series, digest, is_workload, open_max, open, active, retired });
        if old.is_some() {
            worker.touch(&target);
        }
        target
    }

    /// The workload itself, at one of its ports.
    pub(super) fn workload(worker: &Worker, pool: Pool, series: &Rc<ServiceSeries>) -> Rc<Self> {
        Rc::new(Self {
            balancer: Balancer::fixed(worker, &pool),
            pool: Arc::new(pool),
            series: Rc::clone(series),
            digest: String::new(),
            is_workload: true,
            // As many as may come from clients.
            open_max: worker.config.limits.connections_max,
            open: Cell::new(0),
            active: Cell::new(false),
            retired: Cell::new(false),
        })
    }

    /// Its service is gone.
    pub(super) fn retire(&self, worker: &Worker) {
        self.gauge(worker, 0);
        self.retired.set(true);
    }

    /// Adds up what was counted. Answers whether there will be more without a request.
    fn flush(&self, worker: &Worker) -> bool {
        self.series.flush();
        self.balancer.flush();
        if self.retired.get() {
            return false;
        }
        let open = self.balancer.open();
        self.gauge(worker, open);
        open > 0
    }

    /// Brings this worker's share of the gauge of open connections up to date. Pools of a part of a service share
    /// their connections with the whole one, which counts them.
    fn gauge(&self, worker: &Worker, open: i64) {
        if self.pool.name == self.pool.service && open != self.open.get() {
            let gauge = worker.metrics.upstream_connections.with_label_values(&[&*self.pool.service]);
            gauge.add(open - self.open.replace(open));
        }
    }
}

impl Active {
    pub(super) fn touch(&self, target: &Rc<Target>) {
        if !target.active.replace(true) {
            self.targets.borrow_mut().push(Rc::clone(target));
        }
    }

    /// It has an instance from now on, and did not at the last look.
    pub(super) fn has_instance(&self, balancer: &Rc<Balancer>) {
        self.instances.borrow_mut().push(Rc::downgrade(balancer));
    }

    /// Of balancers with an instance.
    pub(super) fn last_uses(&self) -> Vec<(Slot, u64)> {
        let balancers = self.instances.borrow();
        balancers.iter().filter_map(Weak::upgrade).map(|balancer| balancer.last_use()).collect()
    }

    pub(super) fn flush(&self, worker: &Worker) {
        let mut targets = std::mem::take(&mut *self.targets.borrow_mut());
        targets.retain(|target| {
            let stays = target.flush(worker);
            target.active.set(stays);
            stays
        });
        self.targets.borrow_mut().append(&mut targets);
    }

    pub(super) fn tick(&self, worker: &Worker, now_ns: u64) {
        // A call may fail, and then nothing here is borrowed.
        let mut balancers = std::mem::take(&mut *self.instances.borrow_mut());
        balancers.retain(|balancer| balancer.upgrade().is_some_and(|b| b.tick(worker, now_ns)));
        self.instances.borrow_mut().append(&mut balancers);
    }
}
