//! Start and stop, in order, in this one file: the only one that knows all sides.
//!
//! Start: ports, policies and catalogue, workers, names, then ready. Stop: not ready any more, out of the registry,
//! drain, names, leave: requests in flight may still ask for names. A thread that ends before it was told to is fatal to
//! the process: half a proxy is worse than none.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::control::{Control, Options, StartError};
use crate::handover::{HandoverError, Succession};
use crate::link::{COMMANDS_MAX, Command, REPORTS_MAX};
use crate::logging::AccessLog;
use crate::metrics::Metrics;
use crate::policy::{Engine, EngineError};
use crate::snapshot::Snapshot;
use crate::worker::{Door, OwnDials};
use crate::{names, worker};
use heirloom::Heirloom;
use ports::{Ports, addresses};

mod heirloom;
mod ports;

/// How long start waits for the workers to serve the first snapshot.
const READY_WAIT: Duration = Duration::from_secs(10);
/// How long connections that are told to end take for it.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
const NAMES: &str = "names";

/// A proxy that serves.
#[derive(Debug)]
pub struct Running {
    pub control: Control,
    /// Where requests are taken, ports filled in.
    pub outbound: Vec<SocketAddr>,
    /// Where the admin interface listens; `None` on a Unix socket.
    pub admin: Option<SocketAddr>,
    /// Where names are answered.
    pub names: Vec<SocketAddr>,
    /// Where captured connections arrive.
    pub captured: Captured,
    pub metrics: Metrics,
    /// Each worker's end: `Ok` when it was drained.
    ended: mpsc::Receiver<Ended>,
    workers: usize,
    /// The names thread ends when this is gone.
    names_stop: watch::Sender<()>,
    admin_task: JoinHandle<std::convert::Infallible>,
    /// Comes when the access log has all of what the workers have seen.
    access_written: Option<oneshot::Receiver<()>>,
    heirloom: Heirloom,
}

/// Where captured connections arrive, ports filled in.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// What the workload sends.
    pub outbound: Vec<SocketAddr>,
    /// What comes to the workload.
    pub inbound: Vec<SocketAddr>,
}

/// A thread's name, and its end.
type Ended = (String, Result<(), String>);

/// Why the proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot listen on {address}: {error}{}", ports::hint(.error))]
    Listen { address: String, error: io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error("cannot copy the sockets for a successor: {0}")]
    Copies(io::Error),
    #[error(transparent)]
    Control(#[from] StartError),
    #[error("metrics cannot be declared: {0}; this is a defect of outrigger")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("the workers do not serve the first snapshot; this is a defect of outrigger")]
    NotReady,
    #[error("thread {thread} has ended: {reason}; this is a defect of outrigger")]
    ThreadDied { thread: String, reason: String },
}

/// Starts everything on this runtime and the threads it needs. `compiler` is the program that compiles components in a
/// process of its own; without it they are compiled in this one. `handover` is where a process before us gives its sockets
/// away, and where we do.
pub async fn start(
    config_path: PathBuf,
    config: Config,
    compiler: Option<PathBuf>,
    handover: Option<PathBuf>,
) -> Result<Running, AppError> {
    let metrics = Metrics::new()?;
    allow_files(&config);
    let engine = engine(&config, compiler)?;
    let (ports, heirloom) = Heirloom::bind(&config, handover).await?;
    let Ports { workers: listeners, admin, names: sockets } = ports;
    let [outbound, captured @ ..] = Door::ALL.map(|door| addresses(&listeners, door));
    let names_at = sockets.as_ref().map(names::Sockets::addresses).unwrap_or_default();
    let (access, access_written) = access_log(&config, &metrics)?.unzip();

    let shared = Arc::new(config.clone());
    let (reports, from_workers) = mpsc::channel(REPORTS_MAX);
    let (ended_sender, ended) = mpsc::channel(config.workers + 1);
    let nothing = Arc::new(Snapshot::empty(Arc::clone(&shared)));
    let start = |index, listeners, own_dials, commands| worker::Start {
        index,
        config: Arc::clone(&shared),
        listeners,
        own_dials,
        snapshot: Arc::clone(&nothing),
        commands,
        reports: reports.clone(),
        metrics: metrics.clone(),
        access: access.as_ref().map(AccessLog::writer),
    };
    let commands = start_workers(listeners, start, &ended_sender)?;

    let options = Options {
        config_path,
        config,
        engine,
        metrics: metrics.clone(),
        workers: commands.clone(),
        reports: from_workers,
    };
    let control = Control::start(options).await?;
    let (names_stop, stop) = watch::channel(());
    if let (Some(sockets), Some(dns)) = (sockets, shared.dns.clone()) {
        let (snapshots, metrics, snapshot) = (control.snapshots(), metrics.clone(), nothing);
        let start = names::Start { dns, sockets, snapshot, snapshots, stop, metrics };
        spawn(NAMES.to_owned(), move || names::run(start), ended_sender)?;
    }
    // Without a catalogue there is nothing to wait for yet, and `/ready` has to say so.
    let has_snapshot = control.snapshots().borrow().is_some();
    if has_snapshot && !control.wait_for_version(1, READY_WAIT).await {
        return Err(AppError::NotReady);
    }
    let admin_address = admin.address();
    let admin = admin.serve(shared.admin.token.clone(), control.clone(), metrics.clone(), commands);
    let admin_task = tokio::spawn(heirloom.without_successor(admin));
    Ok(Running {
        control,
        outbound,
        admin: admin_address,
        names: names_at,
        captured: Captured::from(captured),
        metrics,
        ended,
        workers: shared.workers,
        names_stop,
        admin_task,
        access_written,
        heirloom,
    })
}

impl From<[Vec<SocketAddr>; 2]> for Captured {
    fn from([outbound, inbound]: [Vec<SocketAddr>; 2]) -> Self {
        Self { outbound, inbound }
    }
}

/// One thread for each set of listeners, with a queue of commands.
fn start_workers<L>(
    listeners: Vec<L>,
    start: impl Fn(usize, L, Arc<OwnDials>, mpsc::Receiver<Command>) -> worker::Start,
    ended: &mpsc::Sender<Ended>,
) -> Result<Vec<mpsc::Sender<Command>>, AppError> {
    let own_dials = Arc::new(OwnDials::default());
    let mut commands = Vec::with_capacity(listeners.len());
    for (index, listeners) in listeners.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        commands.push(sender);
        let start = start(index, listeners, Arc::clone(&own_dials), receiver);
        spawn(format!("worker-{index}"), move || worker::run(start), ended.clone())?;
    }
    Ok(commands)
}

fn engine(config: &Config, compiler: Option<PathBuf>) -> Result<Engine, EngineError> {
    match compiler {
        Some(program) => Engine::with_compiler_child(&config.policy_host, program),
        None => Engine::new(&config.policy_host),
    }
}

fn access_log(
    config: &Config,
    metrics: &Metrics,
) -> Result<Option<(AccessLog, oneshot::Receiver<()>)>, AppError> {
    if !config.log.access {
        return Ok(None);
    }
    let started = AccessLog::start(io::stdout(), metrics.access_log_dropped.clone());
    started.map(Some).map_err(AppError::Thread)
}

impl Running {
    /// Returns when a worker has ended without being told to, which nobody should survive.
    pub async fn failed(&mut self) -> AppError {
        match self.ended.recv().await {
            Some((thread, ended)) => AppError::ThreadDied {
                thread,
                reason: ended.err().unwrap_or_else(|| "without a reason".into()),
            },
            // All senders gone without a word cannot happen while workers run.
            None => AppError::ThreadDied { thread: "worker".into(), reason: "without a word".into() },
        }
    }

    /// Returns when requests are served: at once, unless the registry is away and no earlier catalogue is known.
    pub fn serves(&self) -> impl Future<Output = ()> + use<> {
        let control = self.control.clone();
        async move {
            while !control.wait_for_version(1, READY_WAIT).await {
                tracing::warn!("not ready: no catalogue yet");
            }
        }
    }

    /// From now on a successor may come; a process before us learns that it has one.
    pub async fn succeed(&mut self) -> Result<(), HandoverError> {
        self.heirloom.take_over().await
    }

    pub fn succession(&self) -> Succession {
        self.heirloom.succession.clone()
    }

    /// Finishes requests in flight, at most for `grace`. Answers whether all were finished.
    pub async fn drain(mut self, grace: Duration) -> bool {
        let succeeded = self.heirloom.succession.has_begun();
        // Its copies of the sockets would keep them open.
        drop(self.heirloom);
        let mut names_stop = Some(self.names_stop);
        if succeeded {
            // The successor answers what comes to the same sockets.
            drop(names_stop.take());
            self.control.drain_for_successor().await;
        } else {
            self.control.drain().await;
        }
        let mut left = self.workers;
        let mut finished = all_ended(&mut self.ended, &mut left, grace).await;
        if !finished && succeeded {
            self.control.close_idle().await;
            finished = all_ended(&mut self.ended, &mut left, CLOSE_WAIT).await;
        }
        drop(names_stop);
        if let Some(written) = self.access_written {
            // Nobody may be reading it; then the process does not stay for that.
            let _ = tokio::time::timeout(CLOSE_WAIT, written).await;
        }
        // The admin interface answers to the end, so that `/ready` says why.
        self.admin_task.abort();
        finished
    }
}

/// Whether all workers that are left have ended in time.
async fn all_ended(ended: &mut mpsc::Receiver<Ended>, left: &mut usize, at_most: Duration) -> bool {
    let all = async {
        while *left > 0 {
            match ended.recv().await {
                Some((thread, _)) if thread == NAMES => {}
                Some(_) => *left -= 1,
                None => break,
            }
        }
    };
    tokio::time::timeout(at_most, all).await.is_ok()
}

/// A thread whose end is told, a panic as well.
fn spawn(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ended: mpsc::Sender<Ended>,
) -> Result<(), AppError> {
    let thread = name.clone();
    let body = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let result = match result {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("it panicked".to_owned()),
        };
        // The queue has a place for each thread; whoever would read it may be gone, and then so is the process.
        let _ = ended.try_send((thread, result));
    };
    thread::Builder::new().name(name).spawn(body).map_err(AppError::Thread)?;
    Ok(())
}

/// Connections are files, and the usual soft limit of 1,024 is meant for programs that use `select`.
fn allow_files(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let captured = config.capture.iter().flat_map(|capture| [&capture.outbound, &capture.inbound]);
    let captured = captured.filter(|listen| !listen.addresses.is_empty()).count();
    let ways_in = captured + usize::from(!config.outbound.is_empty());
    // A client's connection, and one to an endpoint.
    let wanted = (config.limits.connections_max * config.workers * ways_in * 2) as u64;
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < wanted) {
        tracing::warn!(allowed, wanted, "limits.connections_max needs more open files; raise `ulimit -Hn`");
    }
}
