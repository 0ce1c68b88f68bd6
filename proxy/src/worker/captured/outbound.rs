//! What the workload sends: to a service, by the address that was dialled, or past us.
//!
//! The client is given a moment to speak first. If it says nothing, an endpoint is connected to and whoever speaks first
//! decides: a server that does is relayed, and remembered, so that the next connection there does not wait.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::detect::{self, First, Speech};
use super::relay::{self, Side};
use super::{Arrival, Destination, Refusal};
use crate::clock;
use crate::config::{HashKey, Unknown};
use crate::head::RequestFacts;
use crate::policy::Outcome;
use crate::snapshot::Meant;
use crate::worker::Worker;
use crate::worker::attempt::{self, Ending, InFlight};
use crate::worker::http1::Buffer;
use crate::worker::record::Kind;
use crate::worker::record::connection::{Close, Relayed};
use crate::worker::respond::Reason;
use crate::worker::route::hash_of;
use crate::worker::target::Target;
use crate::worker::upstream::balance::{Attempt, Picked};
use crate::worker::upstream::{Connection, dial};

/// For a connection that goes past us. Clients may wait longer, but they take ours for the one they wanted.
const PASS_CONNECT: Duration = Duration::from_secs(10);

/// A connection to an endpoint that the balancer has picked.
struct Reached {
    picked: Picked,
    attempt: Attempt,
    connection: Connection,
    at: Instant,
}

pub(super) async fn serve(arrival: Arrival<'_>) {
    let generation = arrival.worker.generation();
    let services = match generation.snapshot.meant_by(arrival.dialled) {
        Meant::Services(services) => services.to_vec(),
        Meant::Nobody => return arrival.refuse(Refusal::Unassigned),
        Meant::Unknown if arrival.rules.unknown == Unknown::Refuse => {
            return arrival.refuse(Refusal::Unknown);
        }
        Meant::Unknown => return pass(arrival).await,
    };
    drop(generation);
    to_service(arrival, services).await;
}

/// Where it was meant to go, unread.
async fn pass(arrival: Arrival<'_>) {
    arrival.count(Kind::Passed);
    let record = arrival.record();
    let failed = match timeout(PASS_CONNECT, dial(arrival.dialled, Some(&arrival.captured.own_dials))).await {
        Ok(Ok(upstream)) => {
            let client = Side { socket: &arrival.client.socket, said: Buffer::default() };
            let upstream = Side { socket: &upstream, said: Buffer::default() };
            let close = relay::run(arrival.worker, client, upstream, arrival.rules.idle, &record).await;
            return record.finish(close, "", &arrival.peer);
        }
        Ok(Err(_)) => Reason::ConnectFailed,
        Err(_) => Reason::ConnectTimeout,
    };
    arrival.end_broken(record, Close::Refused, failed.code());
}

async fn to_service(mut arrival: Arrival<'_>, services: Vec<Arc<str>>) {
    let Arrival { worker, captured, rules, dialled, .. } = arrival;
    let Some(service) = services.first().cloned() else { return };
    let opaque = rules.opaque_outbound.hold(dialled.port());
    let speech = if opaque {
        Speech::Other
    } else if captured.learned.server_speaks_first(&service, dialled.port(), Instant::now()) {
        Speech::Silence
    } else {
        detect::listen(worker, &mut arrival.client, arrival.started + rules.detect).await
    };
    if speech == Speech::Http {
        return arrival.converse(Destination::Services(services)).await;
    }
    let (mut record, peer) = (arrival.record(), arrival.peer.address);
    let reached = match speech {
        Speech::Gone => {
            arrival.count(Kind::Tcp);
            return arrival.end_broken(record, Close::Cancelled, "");
        }
        _ => reach(worker, &service, peer, &mut record).await,
    };
    let (target, reached) = match reached {
        Ok(reached) => reached,
        Err(reason) => {
            arrival.count(Kind::Tcp);
            let refused = matches!(reason, Reason::ConnectFailed | Reason::ConnectTimeout);
            let close = if refused { Close::Refused } else { Close::Rejected };
            return arrival.end_broken(record, close, reason.code());
        }
    };
    let load = InFlight::of(&reached.picked);
    let mut answer = Buffer::default();
    let mut first = First::Client(speech);
    if speech == Speech::Silence {
        first = detect::first_to_speak(&mut arrival, &reached.connection.stream, &mut answer).await;
    }
    match first {
        First::Client(Speech::Http) => {
            captured.learned.forget(&service, dialled.port());
            reached.settle(worker, &target, Outcome::Cancelled);
            drop(load);
            reached.connection.give_back(worker.config.limits.pool_idle_max, Instant::now());
            record.withdraw();
            return arrival.converse(Destination::Services(services)).await;
        }
        First::Server => captured.learned.learn(&service, dialled.port(), Instant::now()),
        First::Client(_) | First::ServerLeft | First::ServerBroke | First::Nobody => {}
    }
    let upstream = Side { socket: &reached.connection.stream, said: answer };
    let close = arrival.relay(first, upstream, &record).await;
    drop(load);
    let outcome = match close {
        Close::Success => Outcome::Success,
        Close::Reset => Outcome::Reset,
        _ => Outcome::Cancelled,
    };
    reached.settle(worker, &target, outcome);
    record.finish(close, "", &arrival.peer);
}

/// Connects to an endpoint that the service's balancer picks, or to another where that fails.
async fn reach(
    worker: &Worker,
    service: &str,
    client: SocketAddr,
    record: &mut Relayed<'_>,
) -> Result<(Rc<Target>, Reached), Reason> {
    let generation = worker.generation();
    let pool = generation.snapshot.services.get(service);
    let target = pool.and_then(|index| generation.target(worker, index)).ok_or(Reason::NoService)?;
    record.routed(target);
    let settings = &target.pool.settings;
    // There is no request: policies see one without anything in it, but whom it comes from.
    let mut facts = Some(Box::new(RequestFacts { source: client.ip(), ..RequestFacts::default() }));
    let hash = match &settings.hash_key {
        key @ HashKey::SourceAddress => hash_of(worker, key, facts.as_deref()),
        _ => worker.random(),
    };
    let (mut previous, mut number) = (None, 0);
    loop {
        let attempt = Attempt { hash, number, now_ns: clock::now_ns(), previous };
        let picked = target.balancer.pick(worker, &mut facts, attempt)?;
        number += 1;
        record.picked(&picked, number);
        match attempt::connect(worker, target, (&picked, &attempt), Duration::MAX).await {
            Ok(connection) => {
                let reached = Reached { picked, attempt, connection, at: Instant::now() };
                return Ok((Rc::clone(target), reached));
            }
            Err(reason) if number >= settings.retry.attempts => return Err(reason),
            Err(_) => target.series.count(|upstream| &upstream.retries),
        }
        previous = Some(picked.endpoint.id);
        if let Some(facts) = &mut facts {
            facts.tried.push(picked.endpoint.id);
        }
    }
}

impl Reached {
    fn settle(&self, worker: &Worker, target: &Target, outcome: Outcome) {
        let ending = Ending { first_byte: Some(self.at), ..Ending::now(outcome) };
        attempt::settle(worker, target, (&self.picked, &self.attempt), &ending);
    }
}
