//! The handles that counting goes through: local to the worker, resolved once per label set. `flush` adds them to the
//! shared ones.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use tokio::time::Instant;

use super::Ended;
use super::connection::Close;
use crate::metrics::Metrics;
use crate::snapshot::PolicyRef;
use crate::worker::Direction;

/// One call in so many is timed: a clock costs a quarter of a pick.
const SAMPLE_EVERY: u32 = 64;
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of one service in one direction, or of what reached none.
#[derive(Debug)]
pub(in crate::worker) struct ServiceSeries {
    metrics: Metrics,
    service: Arc<str>,
    pub(in crate::worker) direction: Direction,
    requests: RefCell<Vec<RouteSeries>>,
    pub(in crate::worker) duration: RefCell<LocalHistogram>,
    pub(in crate::worker) bytes_in: LocalIntCounter,
    pub(in crate::worker) bytes_out: LocalIntCounter,
    /// Outbound only.
    pub(in crate::worker) upstream: Option<UpstreamSeries>,
    /// From the first relayed connection on.
    tcp: OnceCell<TcpSeries>,
}

#[derive(Debug)]
struct RouteSeries {
    route: Arc<str>,
    /// Class by outcome, resolved when first counted.
    counters: Vec<OnceCell<LocalIntCounter>>,
}

/// What is counted about a service's endpoints.
#[derive(Debug)]
pub(in crate::worker) struct UpstreamSeries {
    pub(in crate::worker) first_byte: RefCell<LocalHistogram>,
    pub(in crate::worker) connects: LocalIntCounter,
    pub(in crate::worker) connect_failures: LocalIntCounter,
    pub(in crate::worker) retries: LocalIntCounter,
    pub(in crate::worker) reused: LocalIntCounter,
    pub(in crate::worker) ejections: LocalIntCounter,
}

impl ServiceSeries {
    pub(in crate::worker) fn new(metrics: &Metrics, direction: Direction, service: &Arc<str>) -> Self {
        let labels = [direction.name(), service];
        let upstream = (direction == Direction::Outbound).then(|| UpstreamSeries::new(metrics, service));
        Self {
            metrics: metrics.clone(),
            service: Arc::clone(service),
            direction,
            requests: RefCell::new(Vec::new()),
            duration: RefCell::new(metrics.request_duration.with_label_values(&labels).local()),
            bytes_in: metrics.request_bytes.with_label_values(&labels).local(),
            bytes_out: metrics.response_bytes.with_label_values(&labels).local(),
            upstream,
            tcp: OnceCell::new(),
        }
    }

    /// Of connections that are relayed.
    pub(in crate::worker) fn tcp(&self) -> &TcpSeries {
        self.tcp.get_or_init(|| TcpSeries::new(&self.metrics, self.direction, &self.service))
    }

    /// One more of what is counted about endpoints.
    pub(in crate::worker) fn count(&self, which: impl FnOnce(&UpstreamSeries) -> &LocalIntCounter) {
        if let Some(upstream) = &self.upstream {
            which(upstream).inc();
        }
    }

    pub(super) fn request(&self, route: &Arc<str>, status: u16, ended: Ended) {
        let class = match status {
            100..=599 => usize::from(status / 100),
            _ => 0,
        };
        let mut requests = self.requests.borrow_mut();
        let index = requests.iter().position(|r| Arc::ptr_eq(&r.route, route)).unwrap_or_else(|| {
            let counters = (0..CLASSES.len() * Ended::NAMES.len()).map(|_| OnceCell::new()).collect();
            requests.push(RouteSeries { route: Arc::clone(route), counters });
            requests.len() - 1
        });
        let cell = &requests[index].counters[class * Ended::NAMES.len() + ended.index()];
        cell.get_or_init(|| {
            let direction = self.direction.name();
            let labels = [direction, &*self.service, route, CLASSES[class], Ended::NAMES[ended.index()]];
            self.metrics.requests.with_label_values(&labels).local()
        })
        .inc();
    }

    pub(in crate::worker) fn flush(&self) {
        let mut requests = self.requests.borrow_mut();
        for counter in requests.iter().flat_map(|r| &r.counters).filter_map(OnceCell::get) {
            counter.flush();
        }
        // Routes of snapshots that are gone would gather here.
        requests.retain(|r| Arc::strong_count(&r.route) > 1);
        self.duration.borrow().flush();
        self.bytes_in.flush();
        self.bytes_out.flush();
        if let Some(upstream) = &self.upstream {
            upstream.flush();
        }
        if let Some(tcp) = self.tcp.get() {
            tcp.flush();
        }
    }
}

impl Drop for ServiceSeries {
    fn drop(&mut self) {
        self.flush();
    }
}

impl UpstreamSeries {
    fn new(metrics: &Metrics, service: &Arc<str>) -> Self {
        let labels = [&**service];
        Self {
            first_byte: RefCell::new(metrics.first_byte.with_label_values(&labels).local()),
            connects: metrics.upstream_connects.with_label_values(&labels).local(),
            connect_failures: metrics.upstream_connect_failures.with_label_values(&labels).local(),
            retries: metrics.upstream_retries.with_label_values(&labels).local(),
            reused: metrics.upstream_reused.with_label_values(&labels).local(),
            ejections: metrics.upstream_ejections.with_label_values(&labels).local(),
        }
    }

    fn flush(&self) {
        self.first_byte.borrow().flush();
        for counter in [&self.connects, &self.connect_failures, &self.retries, &self.reused, &self.ejections]
        {
            counter.flush();
        }
    }
}

/// The counters of connections that are relayed: to one service, to the workload, or past us.
#[derive(Debug)]
pub(in crate::worker) struct TcpSeries {
    metrics: Metrics,
    direction: Direction,
    service: Arc<str>,
    /// Bytes from clients.
    pub(in crate::worker) received: LocalIntCounter,
    /// Bytes to clients.
    pub(in crate::worker) sent: LocalIntCounter,
    duration: RefCell<LocalHistogram>,
    /// Resolved when first counted.
    ended: [OnceCell<LocalIntCounter>; Close::NAMES.len()],
}

impl TcpSeries {
    pub(in crate::worker) fn new(metrics: &Metrics, direction: Direction, service: &Arc<str>) -> Self {
        let labels = [direction.name(), service];
        Self {
            metrics: metrics.clone(),
            direction,
            service: Arc::clone(service),
            received: metrics.tcp_received.with_label_values(&labels).local(),
            sent: metrics.tcp_sent.with_label_values(&labels).local(),
            duration: RefCell::new(metrics.tcp_duration.with_label_values(&labels).local()),
            ended: [const { OnceCell::new() }; Close::NAMES.len()],
        }
    }

    pub(super) fn ended(&self, close: Close, took: Duration) {
        self.duration.borrow_mut().observe(took.as_secs_f64());
        let counter = self.ended[close as usize].get_or_init(|| {
            let labels = [self.direction.name(), &*self.service, close.name()];
            self.metrics.tcp_connections.with_label_values(&labels).local()
        });
        counter.inc();
    }

    pub(in crate::worker) fn flush(&self) {
        self.received.flush();
        self.sent.flush();
        self.duration.borrow().flush();
        self.ended.iter().filter_map(OnceCell::get).for_each(LocalIntCounter::flush);
    }
}

impl Drop for TcpSeries {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What became of captured connections, by direction.
#[derive(Debug)]
pub(in crate::worker) struct CapturedSeries([[LocalIntCounter; Kind::NAMES.len()]; 2]);

/// What a captured connection turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Kind {
    Http,
    Tcp,
    Passed,
    Refused,
}

impl Kind {
    const NAMES: [&str; 4] = ["http", "tcp", "passed", "refused"];
}

impl CapturedSeries {
    pub(in crate::worker) fn new(metrics: &Metrics) -> Self {
        Self([Direction::Outbound, Direction::Inbound].map(|direction| {
            let counter = |kind| metrics.captured.with_label_values(&[direction.name(), kind]).local();
            Kind::NAMES.map(counter)
        }))
    }

    pub(in crate::worker) fn count(&self, direction: Direction, kind: Kind) {
        self.0[direction as usize][kind as usize].inc();
    }

    pub(in crate::worker) fn flush(&self) {
        self.0.iter().flatten().for_each(LocalIntCounter::flush);
    }
}

/// Why the native balancer decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Fallback {
    /// The policy has no opinion.
    Asked,
    /// The call failed.
    Failed,
    /// The instance failed before and is being replaced, or the policy is in quarantine.
    NoInstance,
    /// The service has not been asked for until now, or not for long: its instance is being made.
    Cold,
    /// The policy chose an endpoint that an earlier attempt went to.
    Tried,
    /// The policy chose an endpoint that has just been ejected.
    Ejected,
}

/// The counters of one use of a policy.
#[derive(Debug)]
pub(in crate::worker) struct PolicySeries {
    calls: LocalIntCounter,
    duration: RefCell<LocalHistogram>,
    fallbacks: [LocalIntCounter; 6],
    countdown: Cell<u32>,
}

impl PolicySeries {
    pub(in crate::worker) fn new(metrics: &Metrics, policy: &PolicyRef, call: &str) -> Self {
        let name = &*policy.policy;
        let fallback = |reason| metrics.policy_fallbacks.with_label_values(&[name, reason]).local();
        Self {
            calls: metrics.policy_calls.with_label_values(&[name, call]).local(),
            duration: RefCell::new(metrics.policy_duration.with_label_values(&[name, call]).local()),
            fallbacks: ["asked", "failed", "no-instance", "tried", "ejected", "cold"].map(fallback),
            countdown: Cell::new(0),
        }
    }

    /// When the call began, if this is one to be timed.
    pub(in crate::worker) fn sample(&self) -> Option<Instant> {
        let left = self.countdown.get();
        self.countdown.set(if left == 0 { SAMPLE_EVERY - 1 } else { left - 1 });
        (left == 0).then(Instant::now)
    }

    pub(in crate::worker) fn called(&self, sample: Option<Instant>) {
        self.calls.inc();
        if let Some(began) = sample {
            self.duration.borrow_mut().observe(began.elapsed().as_secs_f64());
        }
    }

    pub(in crate::worker) fn fallback(&self, why: Fallback) {
        self.fallbacks[match why {
            Fallback::Asked => 0,
            Fallback::Failed => 1,
            Fallback::NoInstance => 2,
            Fallback::Tried => 3,
            Fallback::Ejected => 4,
            Fallback::Cold => 5,
        }]
        .inc();
    }

    pub(in crate::worker) fn flush(&self) {
        self.calls.flush();
        self.duration.borrow().flush();
        self.fallbacks.iter().for_each(LocalIntCounter::flush);
    }
}

impl Drop for PolicySeries {
    fn drop(&mut self) {
        self.flush();
    }
}
