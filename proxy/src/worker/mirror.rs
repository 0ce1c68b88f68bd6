//! Copies of requests for a second backend, whose answers are read and thrown away.
//!
//! A copy never delays or fails the request it was made from: it has a task of its own, and where too many are under
//! way it is left out. Requests with a body are not copied.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use super::generation::Generation;
use super::http1::{Buffer, Forwarding, request_head};
use super::route::Plan;
use super::target::Target;
use super::upstream::Connection;
use super::upstream::balance::Attempt;
use crate::clock;
use crate::head::{Framing, Progress, RequestFacts, RequestHead, ResponseHead};

/// Copies under way per worker.
const COPIES_MAX: usize = 64;
/// An answer larger than this ends its connection instead of being read to its end.
const DISCARD_BYTES_MAX: usize = 1 << 20;

/// Sends a copy if the plan asks for one.
pub(super) fn maybe(worker: &Worker, generation: &Rc<Generation>, plan: &Plan, facts: Option<&RequestFacts>) {
    let target = plan.mirror.and_then(|index| generation.target(worker, index));
    let (Some(target), Some(facts)) = (target, facts) else { return };
    if facts.head.framing() != Framing::None || worker.copies.get() >= COPIES_MAX {
        return;
    }
    let Some(worker) = worker.itself.upgrade() else { return };
    let (target, head, source) = (Rc::clone(target), facts.head.clone(), facts.source);
    let mut out = Vec::new();
    let forward = plan.forward.as_deref();
    request_head(
        &mut out,
        &head,
        &Forwarding { fields: worker.config.forwarded, source, forward, copy: true },
    );
    worker.copies.set(worker.copies.get() + 1);
    tokio::task::spawn_local(async move {
        let timeout = target.pool.settings.timeouts.request;
        // What comes of a copy is nobody's concern.
        let _ = tokio::time::timeout(timeout, send(&worker, &target, &out, head, source)).await;
        worker.touch(&target);
        worker.copies.set(worker.copies.get() - 1);
    });
}

async fn send(worker: &Worker, target: &Target, out: &[u8], head: RequestHead, source: IpAddr) -> Option<()> {
    let to_head = head.method() == "HEAD";
    let mut facts = Some(Box::new(RequestFacts { head, source, ..RequestFacts::default() }));
    let attempt = Attempt { hash: worker.random(), number: 0, now_ns: clock::now_ns(), previous: None };
    let picked = target.balancer.pick(worker, &mut facts, attempt).ok()?;
    let limits = &worker.config.limits;
    let timeout: Duration = target.pool.settings.timeouts.connect;
    let connection = match picked.upstream.reuse() {
        Some(connection) => connection,
        None => picked.upstream.connect(limits.endpoint_connections_max, timeout).await.ok()?,
    };
    connection.stream.write_all(out).await.ok()?;
    if discard(worker, &connection, to_head).await? {
        connection.give_back(limits.pool_idle_max, Instant::now());
    }
    Some(())
}

/// Reads an answer to its end. Answers whether the connection can be used again.
async fn discard(worker: &Worker, connection: &Connection, to_head: bool) -> Option<bool> {
    let mut buffer = Buffer::default();
    let mut response = ResponseHead::default();
    loop {
        if buffer.read_from(&connection.stream).await.ok()? == 0 {
            return None;
        }
        if let Progress::Complete(length) =
            response.parse(buffer.filled(), worker.head_limits, to_head).ok()?
        {
            buffer.consume(length);
            if response.status >= 200 {
                break;
            }
        }
    }
    let mut body = super::body::Body::new(response.framing());
    let mut seen = 0;
    loop {
        let taken = body.advance(buffer.filled(), |_| {});
        buffer.consume(taken);
        seen += taken;
        if body.is_done() {
            return Some(response.keep_alive() && buffer.is_empty());
        }
        if body.bad.is_some()
            || seen > DISCARD_BYTES_MAX
            || buffer.read_from(&connection.stream).await.ok()? == 0
        {
            return None;
        }
    }
}
