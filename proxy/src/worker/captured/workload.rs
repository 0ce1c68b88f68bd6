//! Our own workload, as something that requests and connections are sent to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Config, Ejection, Retry, ServiceSettings, Timeouts};
use crate::metrics::Metrics;
use crate::snapshot::{Digest, Endpoint, PolicyRef, Pool};
use crate::worker::record::ServiceSeries;
use crate::worker::target::Target;
use crate::worker::{Direction, Worker};

/// Its pool's name; no service can have it.
const POOL: &str = "(workload)";
/// Addresses at which it listens that are kept ready; beyond, each connection makes its own.
const TARGETS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Workload {
    service: Arc<str>,
    settings: Arc<ServiceSettings>,
    policy: PolicyRef,
    series: Rc<ServiceSeries>,
    targets: RefCell<HashMap<SocketAddr, Rc<Target>>>,
}

impl Workload {
    pub(super) fn new(config: &Config, metrics: &Metrics) -> Self {
        let service: Arc<str> = config.node.service.as_str().into();
        let idle = config.capture.as_ref().map_or(config.defaults.timeouts.idle, |capture| capture.idle);
        // Those who ask know how long they wait; there is no other endpoint to try, and none to leave out.
        let settings = ServiceSettings {
            timeouts: Timeouts { connect: config.defaults.timeouts.connect, request: idle, idle },
            retry: Retry { attempts: 1, statuses: Vec::new() },
            ejection: Ejection { consecutive_failures: 0, ..config.defaults.ejection.clone() },
            ..config.defaults.clone()
        };
        Self {
            series: Rc::new(ServiceSeries::new(metrics, Direction::Inbound, &service)),
            service,
            settings: Arc::new(settings),
            policy: PolicyRef { policy: "".into(), digest: Digest([0; 32]), config: "".into(), epoch: 0 },
            targets: RefCell::default(),
        }
    }

    /// At one of its addresses, where it listens.
    pub(super) fn at(&self, worker: &Worker, address: SocketAddr) -> Rc<Target> {
        if let Some(target) = self.targets.borrow().get(&address) {
            return Rc::clone(target);
        }
        let endpoint = Endpoint {
            id: 0,
            address,
            text: address.to_string().into(),
            weight: 1,
            zone: Arc::default(),
            labels: Vec::new(),
            state: Arc::default(),
        };
        let pool = Pool {
            name: POOL.into(),
            service: Arc::clone(&self.service),
            settings: Arc::clone(&self.settings),
            balancer: self.policy.clone(),
            endpoints: Arc::from([Arc::new(endpoint)]),
        };
        let target = Target::workload(worker, pool, &self.series);
        let mut targets = self.targets.borrow_mut();
        if targets.len() >= TARGETS_MAX {
            targets.retain(|_, target| Rc::strong_count(target) > 1);
        }
        if targets.len() < TARGETS_MAX {
            targets.insert(address, Rc::clone(&target));
        }
        target
    }
}
