//! What comes to the workload: handed on to the address that was dialled.
//!
//! The workload is connected to before anything is read, so that a client sees at once that nobody listens, and a server
//! that speaks first does so at once. If the client turns out to speak HTTP/1.1, the connection is kept for its requests.

use tokio::time::Instant;

use super::detect::{self, First, Speech};
use super::relay::Side;
use super::{Arrival, Destination};
use crate::worker::http1::Buffer;
use crate::worker::record::Kind;
use crate::worker::record::connection::{Close, Relayed};
use crate::worker::respond::Reason;
use crate::worker::target::Target;
use crate::worker::upstream::{ConnectError, Connection};

pub(super) async fn serve(mut arrival: Arrival<'_>) {
    let Arrival { worker, captured, rules, dialled, .. } = arrival;
    let opaque = rules.opaque_inbound.hold(dialled.port());
    let target = captured.workload.at(worker, dialled);
    let mut record = arrival.record();
    record.routed(&target);
    // One that was kept and is alive shows that the workload listens.
    let kept = if opaque { None } else { worker.upstream(dialled).reuse() };
    let mut connection = match kept {
        Some(kept) => kept,
        None => match connect(&arrival, &target).await {
            Ok(connection) => connection,
            Err(reason) => return unreached(&arrival, record, reason),
        },
    };
    let mut answer = Buffer::default();
    let first = match opaque {
        true => Ok(First::Client(Speech::Other)),
        false => first(&mut arrival, &target, &mut connection, &mut answer).await,
    };
    let first = match first {
        Ok(First::Client(Speech::Http)) => {
            connection.give_back(worker.config.limits.pool_idle_max, Instant::now());
            record.withdraw();
            return arrival.converse(Destination::Workload(target)).await;
        }
        Ok(first) => first,
        Err(reason) => return unreached(&arrival, record, reason),
    };
    let workload = Side { socket: &connection.stream, said: answer };
    let close = arrival.relay(first, workload, &record).await;
    record.finish(close, "", &arrival.peer);
}

/// Who speaks first. A connection that was kept has served requests: it is good for them alone, and while it lives.
async fn first(
    arrival: &mut Arrival<'_>,
    target: &Target,
    connection: &mut Connection,
    answer: &mut Buffer,
) -> Result<First, Reason> {
    loop {
        let first = detect::first_to_speak(arrival, &connection.stream, answer).await;
        match first {
            First::Server | First::ServerLeft | First::ServerBroke if connection.reused => {
                *answer = Buffer::default();
                *connection = connect(arrival, target).await?;
            }
            First::Client(Speech::Other) if connection.reused => {
                *connection = connect(arrival, target).await?;
                return Ok(first);
            }
            _ => return Ok(first),
        }
    }
}

async fn connect(arrival: &Arrival<'_>, target: &Target) -> Result<Connection, Reason> {
    let upstream = arrival.worker.upstream(arrival.dialled);
    let connected = upstream.connect(target.open_max, target.pool.settings.timeouts.connect).await;
    connected.map_err(|error| match error {
        ConnectError::Full => Reason::Overloaded,
        ConnectError::Refused => Reason::ConnectFailed,
        ConnectError::Timeout => Reason::ConnectTimeout,
    })
}

/// As if the client had dialled the workload itself.
fn unreached(arrival: &Arrival<'_>, record: Relayed<'_>, reason: Reason) {
    arrival.count(Kind::Tcp);
    let close = if reason == Reason::Overloaded { Close::Rejected } else { Close::Refused };
    arrival.end_broken(record, close, reason.code());
}
