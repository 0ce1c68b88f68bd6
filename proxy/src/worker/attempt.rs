//! What every attempt at an endpoint has in common, whether it is for a request or for a whole connection.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use super::respond::Reason;
use super::target::Target;
use super::upstream::balance::{Attempt, Picked};
use super::upstream::{ConnectError, Connection, health};
use crate::clock;
use crate::policy::{Observation, Outcome};
use crate::snapshot::EndpointState;

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// 0 if there was none.
    pub(super) status: u16,
    /// Of a connection that is relayed: when it stood.
    pub(super) first_byte: Option<Instant>,
    /// Utilisation that the endpoint reports, in thousandths.
    pub(super) load: Option<u32>,
    pub(super) at: Instant,
}

impl Ending {
    pub(super) fn now(outcome: Outcome) -> Self {
        Self { outcome, status: 0, first_byte: None, load: None, at: Instant::now() }
    }
}

/// A new connection to the endpoint, within what is left of the time. A failure is settled.
pub(super) async fn connect(
    worker: &Worker,
    target: &Target,
    (picked, attempt): (&Picked, &Attempt),
    left: Duration,
) -> Result<Connection, Reason> {
    let timeout = target.pool.settings.timeouts.connect.min(left);
    let (outcome, reason) = match picked.upstream.connect(target.open_max, timeout).await {
        Ok(connection) => {
            target.series.count(|upstream| &upstream.connects);
            return Ok(connection);
        }
        Err(ConnectError::Full) => return Err(Reason::Overloaded),
        Err(ConnectError::Refused) => (Outcome::Refused, Reason::ConnectFailed),
        Err(ConnectError::Timeout) => (Outcome::Timeout, Reason::ConnectTimeout),
    };
    target.series.count(|upstream| &upstream.connect_failures);
    settle(worker, target, (picked, attempt), &Ending::now(outcome));
    Err(reason)
}

/// Teaches the endpoint's state and the policy how the attempt ended.
pub(super) fn settle(
    worker: &Worker,
    target: &Target,
    (picked, attempt): (&Picked, &Attempt),
    ending: &Ending,
) {
    let now_ns = clock::since_origin(ending.at.into_std());
    let state = &picked.endpoint.state;
    let first = ending.first_byte.map(|at| clock::since_origin(at.into_std()));
    let first_byte = first.map(|ns| ns.saturating_sub(attempt.now_ns));
    let latency = first_byte.map(Duration::from_nanos);
    if let Some(load) = ending.load {
        state.reported.store(load, Relaxed);
    }
    let (rules, now_ms) = (&target.pool.settings.ejection, now_ns / 1_000_000 + 1);
    if health::settle(state, rules, ending.outcome, latency, now_ms) {
        target.series.count(|upstream| &upstream.ejections);
        target.balancer.refresh(worker);
    }
    let observation = Observation {
        endpoint: 0,
        outcome: ending.outcome,
        status: ending.status,
        attempt: attempt.number,
        first_byte: first_byte.unwrap_or(0),
        total: now_ns.saturating_sub(attempt.now_ns),
        now: now_ns,
    };
    target.balancer.observe(worker, &picked.endpoint, observation);
}

/// Counts as in flight at its endpoint for as long as it lives.
pub(super) struct InFlight<'a>(&'a EndpointState);

impl<'a> InFlight<'a> {
    pub(super) fn of(picked: &'a Picked) -> Self {
        picked.endpoint.state.in_flight.fetch_add(1, Relaxed);
        Self(&picked.endpoint.state)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
