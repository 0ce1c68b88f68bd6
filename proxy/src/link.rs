//! What control and the workers say to each other. Neither imports the other; both import this.
//!
//! Every queue has a bound. Control waits when a worker's queue is full; a worker never waits for control: what it
//! cannot hand over now it offers again on its next tick.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::policy::{BalancerInstance, Failure, RouterInstance};
use crate::snapshot::{Digest, Snapshot};

/// Commands waiting for one worker.
pub const COMMANDS_MAX: usize = 4;
/// Reports waiting for control, from all workers.
pub const REPORTS_MAX: usize = 1024;

/// Where an instance works: the key under which a worker keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A pool's balancer, by `Pool::name`.
    Balancer(Arc<str>),
    /// A route's router, by route name.
    Router(Arc<str>),
}

/// Instances made ready for one worker: configured, updated, state imported.
#[derive(Debug)]
pub enum Instance {
    Balancer(Box<BalancerInstance>),
    Router(Box<RouterInstance>),
}

/// From control to one worker.
#[derive(Debug)]
pub enum Command {
    /// Serve this snapshot from now on. A slot without a new instance keeps the one it has, if the policy is the same.
    Deliver { snapshot: Arc<Snapshot>, instances: Vec<(Slot, Instance)> },
    /// Put this instance where one failed, or was wanted. Ignored if the slot has moved on to another digest.
    Replace { slot: Slot, digest: Digest, instance: Instance },
    /// The policy in this slot has failed too often, or refused: the fallback serves until the next instance.
    Quarantine { slot: Slot, digest: Digest },
    /// Give these instances up; the next pick wants them anew.
    Evict { slots: Vec<Slot> },
    /// Which balancers have an instance, and when each was asked last, in ns of `clock::now_ns`; 0 if never.
    LastUses { reply: oneshot::Sender<Vec<(Slot, u64)>> },
    /// Ask the instance in the slot for its state; empty if there is none or it fails.
    ExportState { slot: Slot, reply: oneshot::Sender<Vec<u8>> },
    /// Add local counters to the shared ones, then answer.
    Flush { reply: oneshot::Sender<()> },
    /// Stop accepting and finish requests in flight; the worker's thread ends when it is done. Idle connections are
    /// closed at once, or, if `patient`, with the answer to their next request or by another `Drain`.
    Drain { patient: bool },
}

/// From a worker to control.
#[derive(Debug)]
pub enum Report {
    /// All that `Deliver` said is in force on this worker.
    Applied { worker: usize, version: u64 },
    /// The instance in the slot failed and is gone; the fallback serves until `Replace`.
    Failed { worker: usize, slot: Slot, digest: Digest, failure: Failure },
    /// A pool whose instance nobody has made yet was picked from; the fallback serves until `Replace`.
    Wanted { worker: usize, slot: Slot, digest: Digest },
    /// An instance no longer used, to be dropped off the worker.
    Retired(Instance),
}
