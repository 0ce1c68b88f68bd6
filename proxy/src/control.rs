//! The control side: turns configuration, registry and policies into snapshots, and sees to it that workers serve
//! them.
//!
//! One task on the control thread owns all of it. It waits on queues alone: files are read and components compiled
//! and prepared on the blocking pool. Whatever breaks outside, the last good state stays in force and is reported.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver as Current;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, Diagnostic};
use crate::link::{Command, Report};
use crate::metrics::Metrics;
use crate::policy::Engine;
use crate::snapshot::{Digest, Snapshot};
use register::Registration;
use releases::report::LEAVE_TIME;

mod addresses;
pub mod admin;
mod events;
pub mod policies;
pub mod prepare;
pub mod publish;
mod reconcile;
pub mod register;
pub mod registry;
pub mod releases;
mod sources;
pub mod status;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

pub use reconcile::{ApplyError, Confirmed};
pub use status::Status;

/// What control needs to begin.
#[derive(Debug)]
pub struct Options {
    /// Watched from now on.
    pub config_path: PathBuf,
    /// As loaded from it already: the number of workers follows from it.
    pub config: Config,
    pub engine: Engine,
    pub metrics: Metrics,
    /// One per worker, in order.
    pub workers: Vec<mpsc::Sender<Command>>,
    /// From all workers.
    pub reports: mpsc::Receiver<Report>,
}

/// Asks of the running control task. The task ends when all clones and the admin interface are gone.
#[derive(Debug, Clone)]
pub struct Control {
    asks: mpsc::Sender<Ask>,
    snapshots: Current<Option<Arc<Snapshot>>>,
    status: Current<Arc<Status>>,
    applied: Current<u64>,
    registration: Option<Registration>,
    /// Until this sidecar has taken back what it reported about releases.
    reporting: Option<Current<()>>,
}

/// Why the program cannot start. Every text names a file and, where there is one, a line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", listed(.0))]
    Registry(Vec<Diagnostic>),
    #[error("{0}")]
    Policy(String),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// A request to change something.
#[derive(Debug)]
pub enum Ask {
    /// Try this component under this name.
    Put { policy: Arc<str>, component: bytes::Bytes, reply: Reply },
    /// Go back to the version before, or to the one whose digest begins so.
    Rollback { policy: Arc<str>, to: Option<String>, reply: Reply },
    /// Lift the quarantine; fresh instances of the same version.
    Reset { policy: Arc<str>, reply: Reply },
    /// Say that the end is near: `/ready` says no.
    Leave,
    /// Tell the workers to finish; see `Command::Drain`.
    Drain { patient: bool },
}

/// Where the answer to an `Ask` goes.
pub type Reply = oneshot::Sender<Result<Done, Denied>>;

/// The change is in force on all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub digest: Digest,
    pub version: u64,
}

/// The change is not in force; what was still is, except after `NotApplied`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("there is no policy `{0}`: name it in the configuration first")]
    UnknownPolicy(Arc<str>),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NoVersion(#[from] policies::NoVersion),
    #[error("a later change of the same policy has overtaken this one")]
    Overtaken,
    #[error("version {0} is published, but not all workers serve it yet")]
    NotApplied(u64),
    #[error("control has ended")]
    Ended,
}

impl Control {
    /// Loads everything, publishes the first snapshot and goes on by itself on this runtime. Returns when the
    /// workers have been told: they may start before or after. If a registry over the network is away and no earlier
    /// catalogue is known, it returns all the same, and the first snapshot comes with the registry.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        events::start(options).await
    }

    /// The snapshot published last.
    pub fn snapshots(&self) -> Current<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Returns when all workers serve this version or a later one; false if that has not come to pass in time.
    pub async fn wait_for_version(&self, version: u64, at_most: Duration) -> bool {
        let mut applied = self.applied.clone();
        let wait = applied.wait_for(|by_all| *by_all >= version);
        match tokio::time::timeout(at_most, wait).await {
            Ok(Ok(_)) => true,
            // Control has ended, and the process will.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => false,
        }
    }

    pub async fn put(&self, policy: &str, component: bytes::Bytes) -> Result<Done, Denied> {
        self.ask(|reply| Ask::Put { policy: policy.into(), component, reply }).await
    }

    pub async fn rollback(&self, policy: &str, to: Option<String>) -> Result<Done, Denied> {
        self.ask(|reply| Ask::Rollback { policy: policy.into(), to, reply }).await
    }

    pub async fn reset(&self, policy: &str) -> Result<Done, Denied> {
        self.ask(|reply| Ask::Reset { policy: policy.into(), reply }).await
    }

    /// `/ready` says no from now on, the workload leaves the registry, and then every worker is told to finish.
    pub async fn drain(&self) {
        // If control has ended, its workers have been told to.
        let _ = self.asks.send(Ask::Leave).await;
        let deregistered = async {
            if let Some(registration) = &self.registration {
                registration.stop().await;
            }
        };
        let silent = async {
            if let Some(mut reporting) = self.reporting.clone() {
                // Its other end goes with the reporter; if that takes too long, the lease ends by itself.
                let _ = tokio::time::timeout(LEAVE_TIME, reporting.changed()).await;
            }
        };
        tokio::join!(deregistered, silent);
        let _ = self.asks.send(Ask::Drain { patient: false }).await;
    }

    /// Another process serves in our place: what the registry says of the workload is its own by now, and connections
    /// get until `close_idle` to end by themselves.
    pub async fn drain_for_successor(&self) {
        if let Some(registration) = &self.registration {
            registration.abandon().await;
        }
        let _ = self.asks.send(Ask::Drain { patient: true }).await;
    }

    pub async fn close_idle(&self) {
        let _ = self.asks.send(Ask::Drain { patient: false }).await;
    }

    async fn ask(&self, ask: impl FnOnce(Reply) -> Ask) -> Result<Done, Denied> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Denied::Ended)?;
        answer.await.unwrap_or(Err(Denied::Ended))
    }
}

fn listed(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
