//! Names for workloads: services by name from the snapshot, everything else from other resolvers.
//!
//! One thread with a runtime of its own, started by `app`; its state is `!Send`, like a worker's. What is ours is
//! answered at once where it is received; only what goes upstream becomes a task.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Dns;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use answer::Answerer;
use forward::Forwarder;
use limit::Limiter;
use server::Bound;
use sight::Sight;

mod answer;
mod cache;
mod facts;
pub mod forward;
mod limit;
mod metrics;
mod name;
mod reverse;
mod server;
mod sight;
pub mod wire;
mod zone;

pub use server::Sockets;

/// What the names thread is started with.
#[derive(Debug)]
pub struct Start {
    pub dns: Dns,
    pub sockets: Sockets,
    /// Served until the first one comes: has no services.
    pub snapshot: Arc<Snapshot>,
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The thread ends when its other end is gone.
    pub stop: watch::Receiver<()>,
    pub metrics: Metrics,
}

/// All state of the thread.
#[derive(Debug)]
struct Names {
    dns: Dns,
    answerer: RefCell<Answerer>,
    forwarder: Rc<Forwarder>,
    limiter: Option<RefCell<Limiter>>,
    sight: Sight,
    /// Questions that wait for somebody else's answer.
    waiting: Cell<usize>,
    connections: Cell<usize>,
}

/// Serves on the calling thread until it is told to stop. An error is fatal to the process: workloads without names
/// are cut off.
pub fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let Start { dns, sockets, snapshot, mut snapshots, mut stop, metrics } = start;
        let bound = sockets.into_bound()?;
        let listen: Vec<IpAddr> = bound.iter().map(|bound| bound.address.ip()).collect();
        let ourselves = bound.iter().map(|bound| bound.address).collect();
        let names = Rc::new(Names {
            answerer: RefCell::new(Answerer::new(snapshot, &dns, listen)),
            forwarder: Forwarder::new(&dns.forward, ourselves, &metrics),
            limiter: dns.limits.queries_per_second.map(|rate| RefCell::new(Limiter::new(rate))),
            sight: Sight::new(&metrics, dns.log_one_in),
            waiting: Cell::new(0),
            connections: Cell::new(0),
            dns,
        });
        // Before the first snapshot every name of a service would be denied, and clients would believe it for a while.
        let mut bound = Some(bound);
        loop {
            if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                names.answerer.borrow_mut().follow(snapshot);
                bound.take().into_iter().flatten().for_each(|bound| names.serve(bound));
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    // Control has ended, and the process will.
                    let _ = stop.changed().await;
                    return Ok(());
                },
                _ = stop.changed() => return Ok(()),
            }
        }
    })
}

impl Names {
    fn serve(self: &Rc<Self>, Bound { udp, tcp, address }: Bound) {
        tracing::debug!(%address, "names are answered");
        tokio::task::spawn_local(server::udp::run(Rc::clone(self), udp));
        tokio::task::spawn_local(server::tcp::run(Rc::clone(self), tcp));
    }
}

/// Where questions are asked, for people.
pub fn addresses(sockets: &Sockets) -> Vec<SocketAddr> {
    sockets.addresses()
}
