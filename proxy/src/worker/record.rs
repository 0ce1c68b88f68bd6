//! Counting: a request is recorded exactly once, by a value that also counts when it is dropped unfinished.
//!
//! All handles are local to the worker and resolved once per label set; `flush` adds them to the shared ones.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::time::SystemTime;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use tokio::time::Instant;

use super::Worker;
use super::connection::Peer;
use super::exchange::Report;
use super::respond::Reason;
use super::target::Target;
use super::upstream::balance::Picked;
use crate::head::RequestFacts;
use crate::logging::AccessRecord;
use crate::metrics::Metrics;
use crate::policy::Outcome;
use crate::snapshot::{Endpoint, PolicyRef};

const DIRECTION: &str = "outbound";
/// One call in so many is timed: a clock costs a quarter of a pick.
const SAMPLE_EVERY: u32 = 64;
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How a request ended, as metrics and the access log have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Upstream(Outcome),
    /// A router answered.
    Answered,
    /// We answered, for this reason.
    Refused(Reason),
    /// The task was dropped with the request unfinished.
    Aborted,
}

impl Ended {
    const NAMES: [&str; 11] = [
        "success",
        "client-error",
        "server-error",
        "rate-limited",
        "timeout",
        "reset",
        "refused",
        "cancelled",
        "answered",
        "rejected",
        "aborted",
    ];

    fn index(self) -> usize {
        match self {
            Self::Upstream(Outcome::Success) => 0,
            Self::Upstream(Outcome::ClientError) => 1,
            Self::Upstream(Outcome::ServerError) => 2,
            Self::Upstream(Outcome::RateLimited) => 3,
            Self::Upstream(Outcome::Timeout)
            | Self::Refused(Reason::RequestTimeout | Reason::ConnectTimeout) => 4,
            Self::Upstream(Outcome::Reset) | Self::Refused(Reason::Reset | Reason::BadAnswer) => 5,
            Self::Upstream(Outcome::Refused) | Self::Refused(Reason::ConnectFailed) => 6,
            Self::Upstream(Outcome::Cancelled) => 7,
            Self::Answered => 8,
            Self::Refused(_) => 9,
            Self::Aborted => 10,
        }
    }
}

/// One request on its way. Finish it with `finish`; dropped, it counts as aborted.
#[derive(Debug)]
pub(super) struct Record<'w> {
    worker: &'w Worker,
    pub(super) started: Instant,
    time: SystemTime,
    target: Option<std::rc::Rc<Target>>,
    route: Arc<str>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) by_policy: Option<bool>,
    pub(super) status: u16,
    pub(super) attempts: u32,
    pub(super) first_byte: Option<Instant>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// When the last attempt was over.
    ended: Option<Instant>,
    done: bool,
}

impl<'w> Record<'w> {
    pub(super) fn begin(worker: &'w Worker, started: Instant) -> Self {
        Self {
            worker,
            started,
            // Asked for only where it will be seen.
            time: if worker.access.is_some() { SystemTime::now() } else { SystemTime::UNIX_EPOCH },
            target: None,
            route: Arc::clone(&worker.no_route),
            endpoint: None,
            by_policy: None,
            status: 0,
            attempts: 0,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            ended: None,
            done: false,
        }
    }

    pub(super) fn routed(&mut self, route: Option<&Arc<str>>, target: Option<&std::rc::Rc<Target>>) {
        if let Some(route) = route {
            self.route = Arc::clone(route);
        }
        self.target = target.cloned();
    }

    pub(super) fn picked(&mut self, picked: &Picked, attempts: u32) {
        self.endpoint = Some(Arc::clone(&picked.endpoint));
        self.by_policy = Some(picked.by_policy);
        self.attempts = attempts;
    }

    /// What an attempt has moved and measured.
    pub(super) fn took(&mut self, report: &Report) {
        self.status = report.status;
        self.first_byte = report.first_byte;
        self.ended = Some(report.ended);
        self.bytes_in += report.bytes_in;
        self.bytes_out += report.bytes_out;
    }

    /// Answers the instant that it took for the request's end.
    pub(super) fn finish(mut self, ended: Ended, facts: &RequestFacts, peer: &Peer) -> Instant {
        self.done = true;
        let at = match (ended, self.ended) {
            // Nothing has been waited for since.
            (Ended::Upstream(_), Some(at)) => at,
            _ => Instant::now(),
        };
        self.count(ended, at);
        if let Some(access) = &self.worker.access {
            access.borrow_mut().record(&self.line(ended, at, facts, peer));
        }
        at
    }

    fn count(&self, ended: Ended, at: Instant) {
        let worker = self.worker;
        let series = self.target.as_ref().map_or(&worker.unrouted, |t| &t.series);
        if let Some(target) = &self.target {
            worker.touch(target);
        }
        series.request(&self.route, self.status, ended);
        series.duration.borrow_mut().observe(at.duration_since(self.started).as_secs_f64());
        if let Some(first_byte) = self.first_byte {
            series.first_byte.borrow_mut().observe(first_byte.duration_since(self.started).as_secs_f64());
        }
        if self.bytes_in > 0 {
            series.bytes_in.inc_by(self.bytes_in);
        }
        series.bytes_out.inc_by(self.bytes_out);
    }

    fn line<'a>(
        &'a self,
        ended: Ended,
        at: Instant,
        facts: &'a RequestFacts,
        peer: &'a Peer,
    ) -> AccessRecord<'a> {
        let micros =
            |at: Instant| u64::try_from(at.duration_since(self.started).as_micros()).unwrap_or(u64::MAX);
        let target = self.target.as_deref();
        AccessRecord {
            time: self.time,
            client: &peer.text,
            method: facts.head.method(),
            authority: facts.head.authority(),
            path: facts.head.path(),
            route: &self.route,
            service: target.map_or("", |t| &t.pool.service),
            pool: target.map_or("", |t| &t.pool.name),
            endpoint: self.endpoint.as_ref().map_or("", |e| &e.text),
            status: self.status,
            outcome: Ended::NAMES[ended.index()],
            reason: if let Ended::Refused(reason) = ended { reason.code() } else { "" },
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_us: micros(at),
            first_byte_us: self.first_byte.map_or(0, micros),
            policy: target.map_or("", |t| &t.pool.balancer.policy),
            digest: target.map_or("", |t| &t.digest),
            pick: match self.by_policy {
                Some(true) => "policy",
                Some(false) => "fallback",
                None => "",
            },
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.count(Ended::Aborted, Instant::now());
        }
    }
}

/// The counters of one service, or of what reached none.
#[derive(Debug)]
pub(super) struct ServiceSeries {
    metrics: Metrics,
    service: Arc<str>,
    requests: RefCell<Vec<RouteSeries>>,
    pub(super) duration: RefCell<LocalHistogram>,
    pub(super) first_byte: RefCell<LocalHistogram>,
    pub(super) bytes_in: LocalIntCounter,
    pub(super) bytes_out: LocalIntCounter,
    pub(super) connects: LocalIntCounter,
    pub(super) connect_failures: LocalIntCounter,
    pub(super) retries: LocalIntCounter,
    pub(super) reused: LocalIntCounter,
    pub(super) ejections: LocalIntCounter,
}

#[derive(Debug)]
struct RouteSeries {
    route: Arc<str>,
    /// Class by outcome, resolved when first counted.
    counters: Vec<OnceCell<LocalIntCounter>>,
}

impl ServiceSeries {
    pub(super) fn new(metrics: &Metrics, service: &Arc<str>) -> Self {
        let one = [&**service];
        let two = [DIRECTION, service];
        Self {
            metrics: metrics.clone(),
            service: Arc::clone(service),
            requests: RefCell::new(Vec::new()),
            duration: RefCell::new(metrics.request_duration.with_label_values(&two).local()),
            first_byte: RefCell::new(metrics.first_byte.with_label_values(&one).local()),
            bytes_in: metrics.request_bytes.with_label_values(&two).local(),
            bytes_out: metrics.response_bytes.with_label_values(&two).local(),
            connects: metrics.upstream_connects.with_label_values(&one).local(),
            connect_failures: metrics.upstream_connect_failures.with_label_values(&one).local(),
            retries: metrics.upstream_retries.with_label_values(&one).local(),
            reused: metrics.upstream_reused.with_label_values(&one).local(),
            ejections: metrics.upstream_ejections.with_label_values(&one).local(),
        }
    }

    fn request(&self, route: &Arc<str>, status: u16, ended: Ended) {
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
            let labels = [DIRECTION, &*self.service, route, CLASSES[class], Ended::NAMES[ended.index()]];
            self.metrics.requests.with_label_values(&labels).local()
        })
        .inc();
    }

    pub(super) fn flush(&self) {
        let mut requests = self.requests.borrow_mut();
        for counter in requests.iter().flat_map(|r| &r.counters).filter_map(OnceCell::get) {
            counter.flush();
        }
        // Routes of snapshots that are gone would gather here.
        requests.retain(|r| Arc::strong_count(&r.route) > 1);
        self.duration.borrow().flush();
        self.first_byte.borrow().flush();
        for counter in [
            &self.bytes_in,
            &self.bytes_out,
            &self.connects,
            &self.connect_failures,
            &self.retries,
            &self.reused,
            &self.ejections,
        ] {
            counter.flush();
        }
    }
}

impl Drop for ServiceSeries {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Why the native balancer decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
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
pub(super) struct PolicySeries {
    calls: LocalIntCounter,
    duration: RefCell<LocalHistogram>,
    fallbacks: [LocalIntCounter; 6],
    countdown: Cell<u32>,
}

impl PolicySeries {
    pub(super) fn new(metrics: &Metrics, policy: &PolicyRef, call: &str) -> Self {
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
    pub(super) fn sample(&self) -> Option<Instant> {
        let left = self.countdown.get();
        self.countdown.set(if left == 0 { SAMPLE_EVERY - 1 } else { left - 1 });
        (left == 0).then(Instant::now)
    }

    pub(super) fn called(&self, sample: Option<Instant>) {
        self.calls.inc();
        if let Some(began) = sample {
            self.duration.borrow_mut().observe(began.elapsed().as_secs_f64());
        }
    }

    pub(super) fn fallback(&self, why: Fallback) {
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

    pub(super) fn flush(&self) {
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
