//! A captured connection that is relayed, or refused: counted and logged once, also when it is dropped.
//!
//! Bytes are counted as they move, since such a connection may live for days.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{TcpSeries, who_picked};
use crate::logging::ConnectionRecord;
use crate::snapshot::Endpoint;
use crate::worker::connection::Peer;
use crate::worker::target::Target;
use crate::worker::upstream::balance::Picked;
use crate::worker::{Direction, Worker};

/// How a connection ended, as metrics and the access log have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Close {
    /// Both sides have said all they had to.
    Success,
    /// The other side broke it off.
    Reset,
    /// The client did.
    Cancelled,
    /// Nothing moved for too long.
    Timeout,
    /// The other side could not be connected to.
    Refused,
    /// We wanted no connection, or had nowhere to lead it.
    Rejected,
    /// The task was dropped, for the worker ends.
    Aborted,
}

impl Close {
    pub(super) const NAMES: [&str; 7] =
        ["success", "reset", "cancelled", "timeout", "refused", "rejected", "aborted"];

    pub(in crate::worker) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// One connection on its way. Finish it with `finish`; dropped, it counts as aborted.
#[derive(Debug)]
pub(in crate::worker) struct Relayed<'w> {
    worker: &'w Worker,
    direction: Direction,
    started: Instant,
    time: SystemTime,
    dialled: SocketAddr,
    /// `None` if it goes past us, or nowhere.
    target: Option<Rc<Target>>,
    endpoint: Option<Arc<Endpoint>>,
    by_policy: Option<bool>,
    attempts: u32,
    received: Cell<u64>,
    sent: Cell<u64>,
    done: bool,
}

impl<'w> Relayed<'w> {
    pub(in crate::worker) fn begin(
        worker: &'w Worker,
        direction: Direction,
        dialled: SocketAddr,
        started: Instant,
    ) -> Self {
        Self {
            worker,
            direction,
            started,
            time: if worker.access.is_some() { SystemTime::now() } else { SystemTime::UNIX_EPOCH },
            dialled,
            target: None,
            endpoint: None,
            by_policy: None,
            attempts: 0,
            received: Cell::new(0),
            sent: Cell::new(0),
            done: false,
        }
    }

    pub(in crate::worker) fn routed(&mut self, target: &Rc<Target>) {
        self.target = Some(Rc::clone(target));
    }

    pub(in crate::worker) fn picked(&mut self, picked: &Picked, attempts: u32) {
        self.endpoint = Some(Arc::clone(&picked.endpoint));
        self.by_policy = picked.by_policy;
        self.attempts = attempts;
    }

    /// It is not to be counted: requests on it will be.
    pub(in crate::worker) fn withdraw(mut self) {
        self.done = true;
    }

    /// So many bytes have come from the client and gone on.
    pub(in crate::worker) fn received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        if let Some(series) = self.series() {
            series.received.inc_by(bytes as u64);
        }
    }

    /// So many bytes have gone to the client.
    pub(in crate::worker) fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        if let Some(series) = self.series() {
            series.sent.inc_by(bytes as u64);
        }
    }

    /// `reason` is empty if nothing went wrong.
    pub(in crate::worker) fn finish(mut self, close: Close, reason: &'static str, peer: &Peer) {
        self.done = true;
        let took = self.count(close);
        let Some(access) = &self.worker.access else { return };
        let target = self.target.as_deref();
        access.borrow_mut().record(&ConnectionRecord {
            time: self.time,
            direction: self.direction.name(),
            client: &peer.text,
            destination: self.dialled,
            service: target.map_or("", |t| &t.pool.service),
            pool: target.map_or("", |t| &t.pool.name),
            endpoint: self.endpoint.as_ref().map_or("", |e| &e.text),
            outcome: close.name(),
            reason,
            attempts: self.attempts,
            bytes_in: self.received.get(),
            bytes_out: self.sent.get(),
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            policy: target.map_or("", |t| &t.pool.balancer.policy),
            digest: target.map_or("", |t| &t.digest),
            pick: who_picked(self.by_policy),
        });
    }

    /// Answers how long it lived.
    fn count(&self, close: Close) -> Duration {
        let took = self.started.elapsed();
        if let Some(target) = &self.target {
            self.worker.touch(target);
        }
        if let Some(series) = self.series() {
            series.ended(close, took);
        }
        took
    }

    fn series(&self) -> Option<&TcpSeries> {
        match &self.target {
            Some(target) => Some(target.series.tcp()),
            None => self.worker.captured.as_ref().map(|captured| captured.passed(self.direction)),
        }
    }
}

impl Drop for Relayed<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.count(Close::Aborted);
        }
    }
}
