//! `outrigger run`: the sidecar itself, from start to a drained end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ready;
use crate::app::{self, Running};
use crate::{config, logging};

/// Arguments of `outrigger run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file (YAML); it is watched, and changes take effect without a restart.
    #[arg(value_name = "FILE", default_value = "outrigger.yaml")]
    config: PathBuf,
    /// Written once requests are served, with the addresses in use as JSON; removed at the end.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// How long requests in flight may take to finish after SIGTERM or SIGINT; a second signal ends at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    /// Takes over the sockets of the process that was started with the same path, and gives them to the next one: so a
    /// new process begins before the old one is told to end, and no connection is lost.
    #[arg(long, value_name = "SOCKET")]
    handover: Option<PathBuf>,
}

/// Runs until told to stop. The exit code is 0 after a clean drain.
pub fn run(args: RunArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return ExitCode::FAILURE;
        }
    };
    // Kept to the end: what is still waiting is written when it goes.
    let _log = match logging::init(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("outrigger: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outrigger: cannot start the control runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(serve(&args, config)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outrigger: {error:#}");
            ExitCode::FAILURE
        }
    };
    // A compile under way has nobody to wait for it.
    runtime.shutdown_background();
    code
}

async fn serve(args: &RunArgs, config: config::Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // This very program, even after its file has been replaced by an upgrade.
    let compiler = Some(PathBuf::from("/proc/self/exe"));
    let mut running = app::start(args.config.clone(), config, compiler, args.handover.clone()).await?;
    let succession = running.succession();
    let mut serves = std::pin::pin!(running.serves());
    let mut announced = false;
    let failure = loop {
        tokio::select! {
            () = &mut serves, if !announced => {
                running.succeed().await?;
                announce(args.ready_file.as_deref(), &running)?;
                announced = true;
            }
            failure = running.failed() => break Some(failure),
            () = either(&mut terminate, &mut interrupt) => break None,
        }
    };
    let code = match failure {
        Some(failure) => {
            tracing::error!(%failure, "ending");
            eprintln!("outrigger: {failure}");
            ExitCode::FAILURE
        }
        None => drain(args, running, &mut terminate, &mut interrupt).await,
    };
    // A successor's, if there is one.
    if let Some(path) = args.ready_file.as_ref().filter(|_| !succession.has_begun()) {
        // Whoever removed it before us wanted the same.
        let _ = std::fs::remove_file(path);
    }
    Ok(code)
}

async fn drain(args: &RunArgs, running: Running, terminate: &mut Signal, interrupt: &mut Signal) -> ExitCode {
    tracing::info!(grace_s = args.grace, "draining; a second signal ends at once");
    let finished = tokio::select! {
        finished = running.drain(Duration::from_secs(args.grace)) => finished,
        () = either(terminate, interrupt) => false,
    };
    if finished {
        tracing::info!("drained");
        return ExitCode::SUCCESS;
    }
    tracing::warn!("ending with requests in flight");
    ExitCode::FAILURE
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}

/// Says where requests are taken: in the log, and in the file that scripts wait for, which appears whole.
fn announce(ready_file: Option<&Path>, running: &Running) -> anyhow::Result<()> {
    let text = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (outbound, names) = (text(&running.outbound), text(&running.names));
    let captured = [&running.captured.outbound, &running.captured.inbound].map(|listen| text(listen));
    let admin = running.admin.map(|a| a.to_string());
    tracing::info!(
        outbound = outbound.join(","),
        captured = captured.concat().join(","),
        admin = admin.as_deref().unwrap_or("unix"),
        names = names.join(","),
        "ready"
    );
    let Some(path) = ready_file else { return Ok(()) };
    let captured = serde_json::json!({ "outbound": captured[0], "inbound": captured[1] });
    let ready =
        serde_json::json!({ "outbound": outbound, "captured": captured, "admin": admin, "names": names });
    ready::write(path, &ready)
}
