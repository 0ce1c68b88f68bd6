//! Workers: threads that carry traffic, each with its own runtime, listeners, connections and policy instances.
//!
//! `app` starts them and sends them commands; nothing here is shared with another worker but the endpoints' counters.
//! Everything is `!Send`, so the compiler proves that there is no lock on the request path.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::Config;
use crate::head::HeadLimits;
use crate::link::{Command, Instance, Report};
use crate::logging::AccessWriter;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use accept::Connections;
use captured::Captured;
use generation::Generation;
use record::ServiceSeries;
use respond::Reason;
use socket::Socket;
use target::{Active, Target};
use upstream::Upstream;

mod accept;
mod attempt;
mod body;
mod captured;
mod connection;
mod deadline;
mod exchange;
mod generation;
mod http1;
mod mirror;
mod orca;
mod own_dials;
mod record;
mod request;
mod respond;
mod route;
mod socket;
mod target;
mod upstream;

pub use own_dials::OwnDials;

/// How often instances that ask for it are ticked and local counters are looked after.
const TICK: Duration = Duration::from_millis(100);
/// How often local counters are added to the shared ones when nobody scrapes.
const FLUSH_TICKS: u32 = 10;
/// Buffers kept for another use, and the size above which one is not kept.
const BUFFERS_MAX: usize = 256;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Reports that wait because control's queue is full; each slot has at most one, plus instances to be dropped.
const UNSENT_MAX: usize = 4096;

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    pub index: usize,
    pub config: Arc<Config>,
    /// Non-blocking, bound and listening.
    pub listeners: Vec<(Door, TcpListener)>,
    /// Of all workers.
    pub own_dials: Arc<OwnDials>,
    /// Served until the first `Deliver`: has no services.
    pub snapshot: Arc<Snapshot>,
    pub commands: mpsc::Receiver<Command>,
    pub reports: mpsc::Sender<Report>,
    pub metrics: Metrics,
    pub access: Option<AccessWriter>,
}

/// How connections come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// From clients that mean to speak to us.
    Open,
    /// From the workload, which meant to speak to somebody else.
    Outbound,
    /// From clients of the workload.
    Inbound,
}

impl Door {
    pub const ALL: [Self; Self::COUNT] = [Self::Open, Self::Outbound, Self::Inbound];
    const COUNT: usize = 3;

    fn captured(self) -> Option<Direction> {
        match self {
            Self::Open => None,
            Self::Outbound => Some(Direction::Outbound),
            Self::Inbound => Some(Direction::Inbound),
        }
    }
}

/// Which way traffic goes, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// One worker's whole state.
#[derive(Debug)]
pub(crate) struct Worker {
    index: usize,
    config: Arc<Config>,
    head_limits: HeadLimits,
    itself: Weak<Self>,
    generation: RefCell<Rc<Generation>>,
    active: Active,
    upstreams: RefCell<HashMap<SocketAddr, Rc<Upstream>>>,
    connections: Connections,
    buffers: RefCell<Vec<Vec<u8>>>,
    random: Cell<u64>,
    draining: Cell<bool>,
    /// Idle connections stay while we drain.
    patient: Cell<bool>,
    /// If captured connections are taken.
    captured: Option<Captured>,
    /// Mirrored requests under way.
    copies: Cell<usize>,
    metrics: Metrics,
    access: Option<RefCell<AccessWriter>>,
    unrouted: ServiceSeries,
    no_route: Arc<str>,
    reports: mpsc::Sender<Report>,
    unsent: RefCell<Vec<Report>>,
}

/// Runs a worker on the calling thread until it is drained. Control's end is the end of the process, so an error
/// here is fatal to it.
pub fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(61)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let captured = start.config.capture.is_some();
        let captured = captured.then(|| Captured::new(&start));
        let listeners = start.listeners.into_iter().map(|(door, l)| Ok((door, Socket::listener(l.into())?)));
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        let limits = &start.config.limits;
        let no_service: Arc<str> = Arc::from("");
        let worker = Rc::new_cyclic(|itself| Worker {
            index: start.index,
            head_limits: HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.headers_max },
            config: Arc::clone(&start.config),
            itself: Weak::clone(itself),
            generation: RefCell::new(Rc::new(Generation::empty(start.snapshot))),
            active: Active::default(),
            upstreams: RefCell::default(),
            connections: Connections::default(),
            buffers: RefCell::default(),
            random: Cell::new(seed(start.index)),
            draining: Cell::new(false),
            patient: Cell::new(false),
            captured,
            copies: Cell::new(0),
            unrouted: ServiceSeries::new(&start.metrics, Direction::Outbound, &no_service),
            metrics: start.metrics,
            access: start.access.map(RefCell::new),
            no_route: no_service,
            reports: start.reports,
            unsent: RefCell::default(),
        });
        worker.serve(listeners, start.commands).await;
        worker.flush();
        Ok(())
    })
}

impl Worker {
    async fn serve(self: &Rc<Self>, listeners: Vec<(Door, Socket)>, mut commands: mpsc::Receiver<Command>) {
        // Until the first snapshot is in force, connections wait in the kernel: nobody is told that a service does
        // not exist because we have not read of it yet.
        let mut waiting = Some(listeners);
        let mut accepting = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        while !self.draining.get() {
            if self.generation.borrow().snapshot.version > 0 {
                let accept =
                    |(door, listener)| tokio::task::spawn_local(accept::run(Rc::clone(self), listener, door));
                accepting.extend(waiting.take().into_iter().flatten().map(accept));
            }
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => self.draining.set(true),
                },
                _ = ticks.tick() => {
                    count = count.wrapping_add(1);
                    self.tick(count);
                }
            }
        }
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
        if !self.patient.get() {
            self.connections.close_idle();
        }
        let mut left = std::pin::pin!(self.connections.all_left());
        loop {
            tokio::select! {
                () = &mut left => return,
                Some(command) = commands.recv() => self.obey(command),
                _ = ticks.tick() => self.tick(0),
            }
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Deliver { snapshot, instances } => {
                let version = snapshot.version;
                let began = Instant::now();
                let before = self.generation();
                let next = Rc::new(before.next(self, snapshot, instances));
                *self.generation.borrow_mut() = next;
                drop(before);
                let took = began.elapsed().as_secs_f64();
                self.metrics.worker_swap.with_label_values(&[&self.index.to_string()]).observe(took);
                self.report(Report::Applied { worker: self.index, version });
            }
            Command::Replace { slot, digest, instance } => {
                self.generation().replace(self, &slot, digest, instance);
            }
            Command::Evict { slots } => self.generation().evict(self, &slots),
            Command::LastUses { reply } => {
                let _ = reply.send(self.active.last_uses());
            }
            Command::Quarantine { slot, digest } => self.generation().quarantine(self, &slot, digest),
            // Whoever asked may have given up waiting.
            Command::ExportState { slot, reply } => {
                let _ = reply.send(self.generation().export_state(self, &slot));
            }
            Command::Flush { reply } => {
                self.flush();
                let _ = reply.send(());
            }
            Command::Drain { .. } if self.draining.get() => self.connections.close_idle(),
            Command::Drain { patient } => {
                self.draining.set(true);
                self.patient.set(patient);
            }
        }
    }

    fn tick(&self, count: u32) {
        let now_ns = crate::clock::now_ns();
        self.active.tick(self, now_ns);
        self.generation().tick(self, now_ns);
        let unsent = std::mem::take(&mut *self.unsent.borrow_mut());
        for report in unsent {
            self.report(report);
        }
        if count.is_multiple_of(FLUSH_TICKS) {
            self.flush();
            self.tidy();
        }
    }

    /// Closes connections idle for too long, and forgets addresses that nobody refers to any more.
    fn tidy(&self) {
        let Some(since) = Instant::now().checked_sub(self.idle_timeout()) else { return };
        self.upstreams.borrow_mut().retain(|_, upstream| {
            upstream.close_idle_since(since);
            Rc::strong_count(upstream) > 1
        });
    }

    fn flush(&self) {
        self.active.flush(self);
        self.generation().flush();
        self.unrouted.flush();
        if let Some(captured) = &self.captured {
            captured.flush();
        }
        let open = i64::try_from(self.connections.open()).unwrap_or(i64::MAX);
        self.metrics.connections.with_label_values(&[&self.index.to_string()]).set(open);
        if let Some(access) = &self.access {
            access.borrow_mut().flush();
        }
    }

    /// Of connections that no service claims yet or any more.
    fn idle_timeout(&self) -> Duration {
        self.generation.borrow().snapshot.config.defaults.timeouts.idle
    }

    fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation.borrow())
    }

    /// The target has work, or has finished some.
    fn touch(&self, target: &Rc<Target>) {
        self.active.touch(target);
    }

    fn upstream(&self, address: SocketAddr) -> Rc<Upstream> {
        let own_dials = || self.captured.as_ref().map(|captured| Arc::clone(&captured.own_dials));
        let mut upstreams = self.upstreams.borrow_mut();
        let upstream =
            upstreams.entry(address).or_insert_with(|| Rc::new(Upstream::new(address, own_dials())));
        Rc::clone(upstream)
    }

    fn series(&self, service: &Arc<str>) -> Rc<ServiceSeries> {
        Rc::new(ServiceSeries::new(&self.metrics, Direction::Outbound, service))
    }

    /// 64 random bits (wyrand): for spreading load, not for secrets.
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0xa076_1d64_78bd_642f);
        self.random.set(state);
        let product = u128::from(state) * u128::from(state ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    fn keep_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= BUFFER_BYTES_MAX && buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }

    fn bad_request(&self, reason: Reason) {
        // Refusals are rare: no handle is kept for them.
        self.metrics.bad_requests.with_label_values(&[reason.code()]).inc();
    }

    /// Hands an instance to control, to be dropped off the worker.
    fn retire(&self, instance: Option<Instance>) {
        if let Some(instance) = instance {
            self.report(Report::Retired(instance));
        }
    }

    /// Never waits: what control cannot take now is offered again on the next tick. False if it is lost.
    fn report(&self, report: Report) -> bool {
        if let Err(mpsc::error::TrySendError::Full(report)) = self.reports.try_send(report) {
            let mut unsent = self.unsent.borrow_mut();
            if unsent.len() >= UNSENT_MAX {
                return false;
            }
            unsent.push(report);
        }
        true
    }
}

/// Differs between workers and processes.
fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(index)
}
