//! One request, from its head to its log line: this file is the contents page.
//!
//! Route → (router policy) → pick → connect → exchange → perhaps again elsewhere → record. The generation is taken
//! once; every way out goes through `Record::finish`.

use std::rc::Rc;

use tokio::time::Instant;

use super::attempt::{self, Ending, InFlight};
use super::connection::{Client, Peer};
use super::deadline::Deadline;
use super::exchange::{Cause, End, Exchange, Report};
use super::generation::Generation;
use super::http1::Buffer;
use super::record::{Ended, Record};
use super::respond::{self, Reason};
use super::route::{Plan, Routed, decide, hash_of};
use super::upstream::Connection;
use super::upstream::balance::{Attempt, NoPick, Picked};
use super::{Worker, mirror};
use crate::clock;
use crate::head::{Framing, RequestFacts};
use crate::policy::{Outcome, RetryVerdict};

/// A connection that was kept may be found closed; this often it is tried on another without counting an attempt.
const STALE_MAX: u32 = 2;

/// Serves the request in `facts`, which began at `started`. Answers when it ended, if the client's connection can be
/// used again.
pub(super) async fn serve(
    worker: &Worker,
    client: &mut Client,
    facts: &mut Option<Box<RequestFacts>>,
    peer: &Peer,
    (started, deadline): (Instant, &Deadline),
) -> Option<Instant> {
    let generation = worker.generation();
    let mut record = Record::begin(worker, started);
    let routed = decide(worker, &generation, facts, &peer.destination, &mut record);
    let (ended, keep) = match routed {
        Routed::To(plan) => {
            deadline.set(started + plan.timeout);
            forward(worker, &generation, &plan, client, facts, deadline, &mut record).await
        }
        Routed::Answer { status, fields, body } => {
            record.status = status;
            let (to_head, close) = closing(worker, facts);
            client.out.clear();
            respond::answer(&mut client.out, status, &fields, &body, to_head, close);
            (Ended::Answered, client.socket.write_all(&client.out).await.is_ok() && !close)
        }
        Routed::Refused(reason) => {
            (Ended::Refused(reason), refuse(worker, client, facts, &mut record, reason).await)
        }
    };
    let empty = RequestFacts::default();
    let ended = record.finish(ended, facts.as_deref().unwrap_or(&empty), peer);
    keep.then_some(ended)
}

/// Tries endpoints until one answers, the client is gone, or the attempts are used up.
async fn forward(
    worker: &Worker,
    generation: &Rc<Generation>,
    plan: &Plan,
    client: &mut Client,
    facts: &mut Option<Box<RequestFacts>>,
    deadline: &Deadline,
    record: &mut Record<'_>,
) -> (Ended, bool) {
    let settings = &plan.target.pool.settings;
    let hash = match plan.forward.as_deref().and_then(|f| f.hash_key.as_deref()) {
        Some(key) => outrigger_sdk::hash::text(key),
        None => hash_of(worker, &settings.hash_key, facts.as_deref()),
    };
    mirror::maybe(worker, generation, plan, facts.as_deref());
    let mut previous = None;
    let mut stale = 0;
    for number in 0.. {
        let now = if number == 0 { record.started } else { Instant::now() };
        let attempt = Attempt { hash, number, now_ns: clock::since_origin(now.into_std()), previous };
        let picked = match plan.target.balancer.pick(worker, facts, attempt) {
            Ok(picked) => picked,
            Err(none) => return refused(worker, client, facts, record, none.into()).await,
        };
        let mut reuse = true;
        let failed = loop {
            record.picked(&picked, number + 1);
            let trial = Trial { worker, plan, picked: &picked, attempt, deadline };
            let verdict = trial.run(client, facts, record, reuse).await;
            match verdict {
                Verdict::Done(ended, keep) => return (ended, keep),
                // The idle connection had been closed: the same endpoint, on a new one.
                Verdict::Stale if stale < STALE_MAX => {
                    stale += 1;
                    reuse = false;
                }
                Verdict::Stale => break Reason::Reset,
                Verdict::Again(reason) => break reason,
                Verdict::Final(reason) => return refused(worker, client, facts, record, reason).await,
            }
        };
        if number + 1 >= settings.retry.attempts || deadline.left().is_zero() {
            return refused(worker, client, facts, record, failed).await;
        }
        plan.target.series.count(|upstream| &upstream.retries);
        previous = Some(picked.endpoint.id);
        if let Some(facts) = facts {
            facts.tried.push(picked.endpoint.id);
        }
    }
    // Not reached: the attempts are bounded above.
    refused(worker, client, facts, record, Reason::NoEndpoint).await
}

/// One attempt on one endpoint.
struct Trial<'a> {
    worker: &'a Worker,
    plan: &'a Plan,
    picked: &'a Picked,
    attempt: Attempt,
    deadline: &'a Deadline,
}

enum Verdict {
    /// Answered or beyond saving: how it ended, and whether the client's connection can be kept.
    Done(Ended, bool),
    /// A kept connection turned out closed before the endpoint saw the request.
    Stale,
    /// Another endpoint may do better.
    Again(Reason),
    /// Nobody may try again.
    Final(Reason),
}

impl Trial<'_> {
    async fn run(
        &self,
        client: &mut Client,
        facts: &mut Option<Box<RequestFacts>>,
        record: &mut Record<'_>,
        reuse: bool,
    ) -> Verdict {
        let Some(facts) = facts.as_deref() else { return Verdict::Final(Reason::NoEndpoint) };
        let connection = match self.connect(reuse).await {
            Ok(connection) => connection,
            Err(reason) => return Verdict::Again(reason),
        };
        let _load = InFlight::of(self.picked);
        let repeatable = self.repeatable(facts);
        let settings = &self.plan.target.pool.settings;
        let exchange = Exchange {
            head: &facts.head,
            forward: self.plan.forward.as_deref(),
            source: facts.source,
            fields: self.worker.config.forwarded,
            limits: self.worker.head_limits,
            timeouts: &settings.timeouts,
            deadline: self.deadline,
            retry_statuses: match repeatable && self.attempt.number + 1 < settings.retry.attempts {
                true => &settings.retry.statuses,
                false => &[],
            },
            keep_alive: facts.head.keep_alive(),
            draining: &self.worker.draining,
            started: record.started,
        };
        let mut answer = Buffer::from_vec(self.worker.take_buffer());
        let report = exchange.run(client, &connection.stream, &mut answer).await;
        self.worker.keep_buffer(answer.into_vec());
        record.took(&report);
        self.conclude(connection, &report, repeatable)
    }

    async fn connect(&self, reuse: bool) -> Result<Connection, Reason> {
        let target = &self.plan.target;
        if reuse && let Some(connection) = self.picked.upstream.reuse() {
            target.series.count(|upstream| &upstream.reused);
            return Ok(connection);
        }
        attempt::connect(self.worker, target, (self.picked, &self.attempt), self.deadline.left()).await
    }

    /// Whether the request may be sent again after an endpoint may have seen it (RFC 9110, 9.2.2).
    fn repeatable(&self, facts: &RequestFacts) -> bool {
        let verdict = self.plan.forward.as_deref().map_or(RetryVerdict::Configured, |f| f.retry);
        facts.head.framing() == Framing::None
            && match verdict {
                RetryVerdict::Configured => facts.head.is_idempotent(),
                RetryVerdict::Never => false,
                RetryVerdict::Safe => true,
            }
    }

    /// From what happened to what follows.
    fn conclude(&self, connection: Connection, report: &Report, repeatable: bool) -> Verdict {
        let reused = connection.reused;
        let again = |reason| if repeatable { Verdict::Again(reason) } else { Verdict::Final(reason) };
        match report.end {
            End::Answered { keep_client, keep_upstream } => {
                let outcome = outcome_of(report.status, report.retry_after);
                self.settle(outcome, Some(report));
                if keep_upstream {
                    connection.give_back(self.worker.config.limits.pool_idle_max, report.ended);
                }
                Verdict::Done(Ended::Upstream(outcome), keep_client)
            }
            End::Failed { cause: Cause::Reset, untouched: true } if reused && repeatable => Verdict::Stale,
            End::Failed { cause, .. } => match self.blame(cause, report) {
                Some(reason @ (Reason::RequestTimeout | Reason::Body)) => Verdict::Final(reason),
                Some(reason) => again(reason),
                None => Verdict::Done(Ended::Upstream(Outcome::Cancelled), false),
            },
            End::Broken { cause } => {
                let outcome = match cause {
                    Cause::ClientGone | Cause::BadBody => Outcome::Cancelled,
                    Cause::Timeout => Outcome::Timeout,
                    Cause::Reset | Cause::BadAnswer | Cause::Status => Outcome::Reset,
                };
                self.settle(outcome, Some(report));
                Verdict::Done(Ended::Upstream(outcome), false)
            }
        }
    }

    /// Settles a failure and says what to tell the client; `None` if there is no client to tell.
    fn blame(&self, cause: Cause, report: &Report) -> Option<Reason> {
        let (outcome, reason) = match cause {
            Cause::Reset => (Outcome::Reset, Reason::Reset),
            Cause::BadAnswer => (Outcome::Reset, Reason::BadAnswer),
            Cause::Status => (outcome_of(report.status, report.retry_after), Reason::Reset),
            Cause::Timeout => (Outcome::Timeout, Reason::RequestTimeout),
            Cause::BadBody => (Outcome::Cancelled, Reason::Body),
            Cause::ClientGone => {
                self.settle(Outcome::Cancelled, None);
                return None;
            }
        };
        self.settle(outcome, Some(report));
        Some(reason)
    }

    /// Teaches the endpoint's state and the policy how the attempt ended.
    fn settle(&self, outcome: Outcome, report: Option<&Report>) {
        let ending = report.map_or_else(
            || Ending::now(outcome),
            |r| Ending { outcome, status: r.status, first_byte: r.first_byte, load: r.load, at: r.ended },
        );
        attempt::settle(self.worker, &self.plan.target, (self.picked, &self.attempt), &ending);
    }
}

fn outcome_of(status: u16, retry_after: bool) -> Outcome {
    match status {
        429 => Outcome::RateLimited,
        503 if retry_after => Outcome::RateLimited,
        500.. => Outcome::ServerError,
        400.. => Outcome::ClientError,
        _ => Outcome::Success,
    }
}

impl From<NoPick> for Reason {
    fn from(none: NoPick) -> Self {
        match none {
            NoPick::NoEndpoint => Self::NoEndpoint,
            NoPick::PolicyNone => Self::PolicyNone,
        }
    }
}

async fn refused(
    worker: &Worker,
    client: &mut Client,
    facts: &Option<Box<RequestFacts>>,
    record: &mut Record<'_>,
    reason: Reason,
) -> (Ended, bool) {
    (Ended::Refused(reason), refuse(worker, client, facts, record, reason).await)
}

/// Answers in the upstream's place. A body that has not been read ends the connection.
async fn refuse(
    worker: &Worker,
    client: &mut Client,
    facts: &Option<Box<RequestFacts>>,
    record: &mut Record<'_>,
    reason: Reason,
) -> bool {
    if reason == Reason::ConnectFailed && record.is_to_workload() {
        // What the client would have seen had it dialled the workload itself.
        client.broken = true;
        return false;
    }
    let (to_head, close) = closing(worker, facts);
    if reason == Reason::Body {
        worker.bad_request(reason);
    }
    record.status = reason.status();
    client.out.clear();
    respond::refuse(&mut client.out, reason, to_head, close);
    client.socket.write_all(&client.out).await.is_ok() && !close
}

/// Whether an answer of ours goes without a body, and whether it ends the connection.
fn closing(worker: &Worker, facts: &Option<Box<RequestFacts>>) -> (bool, bool) {
    facts.as_deref().map_or((false, true), |f| {
        let open = f.head.keep_alive() && f.head.framing() == Framing::None && !f.head.is_http_10();
        (f.head.method() == "HEAD", !open || worker.draining.get())
    })
}
