//! A captured connection, from its arrival to its log line: this file is the contents page.
//!
//! Where was it meant to go → refused, or handed on unread (`pass`), or to a service (`outbound`), or to the workload
//! (`inbound`). The last two find out what the client speaks: HTTP/1.1 is served by `connection`, request after request;
//! everything else is relayed. Invariant: nothing that we have dialled ourselves is led anywhere.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::accept::Seat;
use super::connection::{self, Client, Peer};
use super::own_dials::OwnDials;
use super::record::connection::{Close, Relayed};
use super::record::{CapturedSeries, Kind, TcpSeries};
use super::socket::Socket;
use super::target::Target;
use super::{Direction, Door, Start, Worker};
use crate::config::{Capture, Mode};
use detect::{First, Speech};
use learned::Learned;
use relay::Side;
use workload::Workload;

mod detect;
mod inbound;
mod learned;
mod outbound;
mod relay;
mod workload;

/// How often the log has a line about connections refused for the same reason.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often, and how long after one another, it is looked whether a connection is our own.
const OWN_LOOKS: u32 = 20;
const OWN_PAUSE: Duration = Duration::from_millis(25);

/// Where a client meant to go.
#[derive(Debug)]
pub(super) enum Destination {
    /// To us: each request says where to.
    Authority,
    /// To one of these services, whose address it dialled.
    Services(Vec<Arc<str>>),
    Workload(Rc<Target>),
}

/// What a worker keeps for captured connections.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) own_dials: Arc<OwnDials>,
    /// Where captured connections arrive.
    listeners: Vec<SocketAddr>,
    /// Connections come untranslated.
    is_transparent: bool,
    learned: Learned,
    workload: Workload,
    series: CapturedSeries,
    /// By direction.
    passed: [TcpSeries; 2],
    /// When the log had a line last, by reason.
    complained: [Cell<Option<Instant>>; 4],
}

/// Why a connection is reset as soon as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// To an address that no service has, and those are not wanted.
    Unknown,
    /// To a virtual address that no service has.
    Unassigned,
    /// Nobody has led it here.
    NotRedirected,
    /// We have made it ourselves, or it was meant for our own listener.
    Loop,
}

/// A connection that has just come, and where it was meant to go.
struct Arrival<'w> {
    worker: &'w Worker,
    captured: &'w Captured,
    rules: &'w Capture,
    direction: Direction,
    client: Client,
    peer: Peer,
    dialled: SocketAddr,
    started: Instant,
    seat: Seat,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    worker: Rc<Worker>,
    (socket, address): (Socket, SocketAddr),
    direction: Direction,
    seat: Seat,
) {
    let (Some(captured), Some(rules)) = (&worker.captured, &worker.config.capture) else { return };
    let (client, peer, started) = (Client::new(socket), Peer::new(&worker, address), Instant::now());
    let mut found = captured.dialled(&client.socket, address, direction);
    if let Ok(dialled) = found
        && captured.is_own(address, dialled).await
    {
        found = Err((Refusal::Loop, dialled));
    }
    let (dialled, refusal) = found.map_or_else(|(refusal, at)| (at, Some(refusal)), |at| (at, None));
    let arrival =
        Arrival { worker: &worker, captured, rules, direction, client, peer, dialled, started, seat };
    match (refusal, direction) {
        (Some(refusal), _) => arrival.refuse(refusal),
        (None, Direction::Outbound) => outbound::serve(arrival).await,
        (None, Direction::Inbound) => inbound::serve(arrival).await,
    }
}

impl Captured {
    pub(super) fn new(start: &Start) -> Self {
        let captured = start.listeners.iter().filter(|(door, _)| *door != Door::Open);
        let nothing: Arc<str> = Arc::from("");
        let passed = |direction| TcpSeries::new(&start.metrics, direction, &nothing);
        Self {
            own_dials: Arc::clone(&start.own_dials),
            listeners: captured.filter_map(|(_, listener)| listener.local_addr().ok()).collect(),
            is_transparent: start.config.capture.as_ref().is_some_and(|capture| capture.mode == Mode::Tproxy),
            learned: Learned::default(),
            workload: Workload::new(&start.config, &start.metrics),
            series: CapturedSeries::new(&start.metrics),
            passed: [Direction::Outbound, Direction::Inbound].map(passed),
            complained: Default::default(),
        }
    }

    /// Of connections that go past us, or nowhere.
    pub(super) fn passed(&self, direction: Direction) -> &TcpSeries {
        &self.passed[direction as usize]
    }

    pub(super) fn flush(&self) {
        self.series.flush();
        self.passed.iter().for_each(TcpSeries::flush);
    }

    /// The address that the client dialled, by what the kernel has kept of it. A refusal comes with the nearest to it.
    fn dialled(
        &self,
        socket: &Socket,
        peer: SocketAddr,
        direction: Direction,
    ) -> Result<SocketAddr, (Refusal, SocketAddr)> {
        let (local, original) = socket.addresses().unwrap_or((peer, None));
        let translated = original.filter(|original| !same(*original, local));
        let is_listener = |address: SocketAddr| self.listeners.iter().any(|own| same(*own, address));
        let original = match translated {
            Some(original) => original,
            // The connection is to the very address that was dialled.
            None if self.is_transparent && !is_listener(local) => local,
            None => return Err((Refusal::NotRedirected, local)),
        };
        // What comes from outside was meant for this host, by whichever of its addresses.
        let wild = |own: &SocketAddr| {
            direction == Direction::Inbound && own.ip().is_unspecified() && own.port() == original.port()
        };
        let is_ours = is_listener(original) || self.listeners.iter().any(wild);
        if is_ours { Err((Refusal::Loop, original)) } else { Ok(original) }
    }

    /// Whether we have made it ourselves. If it seems so, its owner gets time to notice that it was reset: then its port
    /// has another user.
    async fn is_own(&self, peer: SocketAddr, dialled: SocketAddr) -> bool {
        for _ in 0..OWN_LOOKS {
            if !self.own_dials.know(peer, dialled) {
                return false;
            }
            tokio::time::sleep(OWN_PAUSE).await;
        }
        true
    }
}

impl Refusal {
    /// The machine-readable code: a metric label, and the reason in the access log.
    fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unassigned => "unassigned",
            Self::NotRedirected => "not-redirected",
            Self::Loop => "loop",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Unknown => "no service has this address, and capture.unknown is `refuse`",
            Self::Unassigned => "no service has this virtual address, perhaps not any more",
            Self::NotRedirected => {
                "nobody has led this connection here; HTTP clients that mean us use `outbound`"
            }
            Self::Loop => {
                "a connection of our own came back to us: run as the user, group or mark that the capture table \
                 exempts (`sidecar` in the network file)"
            }
        }
    }
}

impl<'w> Arrival<'w> {
    fn record(&self) -> Relayed<'w> {
        Relayed::begin(self.worker, self.direction, self.dialled, self.started)
    }

    fn count(&self, kind: Kind) {
        self.captured.series.count(self.direction, kind);
    }

    fn refuse(self, refusal: Refusal) {
        let Self { worker, captured, direction, dialled, .. } = &self;
        self.count(Kind::Refused);
        let labels = [direction.name(), refusal.code()];
        worker.metrics.captured_refused.with_label_values(&labels).inc();
        let complained = &captured.complained[refusal as usize];
        if complained.get().is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            complained.set(Some(Instant::now()));
            let (client, advice) = (self.peer.address, refusal.advice());
            tracing::warn!(direction = direction.name(), %client, %dialled, "connections are refused: {advice}");
        }
        self.end_broken(self.record(), Close::Rejected, refusal.code());
    }

    /// The client sees a reset.
    fn end_broken(&self, record: Relayed<'_>, close: Close, reason: &'static str) {
        self.client.socket.break_off();
        record.finish(close, reason, &self.peer);
    }

    /// Relays what both have said and will say, as far as the one who spoke first leaves anything to relay.
    async fn relay(&mut self, first: First, upstream: Side<'_>, record: &Relayed<'_>) -> Close {
        self.count(Kind::Tcp);
        let said = std::mem::take(&mut self.client.buffer);
        let client = Side { socket: &self.client.socket, said };
        match first {
            First::Client(Speech::Gone) => {
                upstream.socket.break_off();
                Close::Cancelled
            }
            First::ServerBroke => {
                client.socket.break_off();
                Close::Reset
            }
            First::Nobody => Close::Timeout,
            First::Client(_) | First::Server | First::ServerLeft => {
                relay::run(self.worker, client, upstream, self.rules.idle, record).await
            }
        }
    }

    /// The client speaks HTTP/1.1: from here on it is served like any other.
    async fn converse(mut self, destination: Destination) {
        self.count(Kind::Http);
        self.peer.destination = destination;
        connection::converse(self.worker, &mut self.client, &self.peer, &self.seat).await;
        connection::release(self.worker, self.client);
    }
}

/// The same place, in whichever form.
fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip().to_canonical() == b.ip().to_canonical() && a.port() == b.port()
}
