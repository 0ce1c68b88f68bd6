//! `outrigger net run`: the process that keeps the network as the file says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::ready;
use crate::config::{Log, LogFormat};
use crate::net::watch::metrics::Metrics;
use crate::net::watch::server::{self, Sight};
use crate::net::watch::{Keeper, Options};
use crate::{logging, net};

/// Make the network as the file says, follow the file, and put right what others change, until told to stop.
///
/// SIGTERM and Ctrl-C end this process and leave the network as it is: `outrigger net undo` removes it. SIGHUP reads
/// the file again.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The network file (YAML); it is watched.
    file: PathBuf,
    /// Folder in which we remember what is ours.
    #[arg(long, value_name = "FOLDER", default_value = net::STATE)]
    state: PathBuf,
    /// How long to wait for another run to end.
    #[arg(long, value_name = "SECONDS", default_value_t = super::WAIT_SECONDS, value_parser = super::seconds())]
    wait: u64,
    /// Where /metrics, /ready and /live are told by HTTP [default: nowhere].
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Written once the file is in force, with the address in use as JSON; removed at the end.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// What is logged: a filter as in `info` or `info,outrigger=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Log lines as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs until told to stop. The exit code is 0 after an end in order.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let format = if args.json { LogFormat::Json } else { LogFormat::Text };
    // Kept to the end: what is still waiting is written when it goes.
    let _log = match logging::init(&Log { format, filter: args.log.clone(), access: false }) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("outrigger: {error}");
            return ExitCode::FAILURE;
        }
    };
    match on_a_thread(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever looks for the processes in a workload's namespace, to end them, looks at main threads: ours must never be
/// found there, and the one that does the work is there for moments.
fn on_a_thread(args: &RunArgs) -> anyhow::Result<()> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("outrigger: cannot start the runtime")?;
        let done = runtime.block_on(serve(args));
        // The look-up of a name may still be under way.
        runtime.shutdown_background();
        done
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("net".into()).spawn_scoped(scope, work);
        let joined = thread.context("outrigger: cannot start a thread")?.join();
        joined
            .unwrap_or_else(|_| Err(anyhow::anyhow!("outrigger: the thread has failed: please report this")))
    })
}

async fn serve(args: &RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let listener = match args.listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.with_context(|| format!("cannot listen on {address}"))?)
        }
        None => None,
    };
    let admin = listener.as_ref().map(TcpListener::local_addr).transpose().context("where we listen")?;
    let metrics = Metrics::new().context("metrics")?;
    let wait = Duration::from_secs(args.wait);
    let options = Options { file: args.file.clone(), state: args.state.clone(), wait };
    let mut keeper = Keeper::new(options, metrics.clone())?;
    if let Some(listener) = listener {
        tokio::spawn(server::serve(listener, metrics, keeper.sight()));
    }
    tokio::spawn(tell_ready(keeper.sight(), args.ready_file.clone(), admin));
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    keeper.run(stop, hang_ups().context("cannot listen for SIGHUP")?).await;
    tracing::info!("ending; the network stays, `outrigger net undo` removes it");
    if let Some(path) = &args.ready_file {
        // Whoever removed it before us wanted the same.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Writes the ready-file once.
async fn tell_ready(mut sight: watch::Receiver<Sight>, path: Option<PathBuf>, admin: Option<SocketAddr>) {
    // If the other end is gone, so is the process.
    if sight.wait_for(|sight| sight.is_ready).await.is_err() {
        return;
    }
    tracing::info!(admin = admin.map(|admin| admin.to_string()), "ready");
    if let Some(path) = path
        && let Err(error) = ready::write(&path, &serde_json::json!({ "admin": admin }))
    {
        tracing::error!("{error:#}");
    }
}

/// Several in a row are one.
fn hang_ups() -> std::io::Result<mpsc::Receiver<()>> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            // A full queue says so already.
            if sender.try_send(()).is_err() && sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}
