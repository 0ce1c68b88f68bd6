//! Counting: a request is recorded exactly once, by a value that also counts when it is dropped unfinished.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::connection::Peer;
use super::exchange::Report;
use super::respond::Reason;
use super::target::Target;
use super::upstream::balance::Picked;
use super::{Direction, Worker};
use crate::head::RequestFacts;
use crate::logging::AccessRecord;
use crate::policy::Outcome;
use crate::snapshot::Endpoint;

pub(super) mod connection;
mod series;

pub(super) use series::{CapturedSeries, Fallback, Kind, PolicySeries, ServiceSeries, TcpSeries};

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
    target: Option<Rc<Target>>,
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

    pub(super) fn routed(&mut self, route: Option<&Arc<str>>, target: Option<&Rc<Target>>) {
        if let Some(route) = route {
            self.route = Arc::clone(route);
        }
        self.target = target.cloned();
    }

    pub(super) fn picked(&mut self, picked: &Picked, attempts: u32) {
        self.endpoint = Some(Arc::clone(&picked.endpoint));
        self.by_policy = picked.by_policy;
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

    /// Whether the request goes to our own workload, not to a service.
    pub(super) fn is_to_workload(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.is_workload)
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
        if let (Some(first_byte), Some(upstream)) = (self.first_byte, &series.upstream) {
            upstream.first_byte.borrow_mut().observe(first_byte.duration_since(self.started).as_secs_f64());
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
            direction: target.map_or(Direction::Outbound, |t| t.series.direction).name(),
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
            pick: who_picked(self.by_policy),
        }
    }
}

/// As the access log has it.
fn who_picked(by_policy: Option<bool>) -> &'static str {
    match by_policy {
        Some(true) => "policy",
        Some(false) => "fallback",
        None => "",
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.count(Ended::Aborted, Instant::now());
        }
    }
}
