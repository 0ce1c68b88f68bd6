//! `outrigger registry`: the embedded registry, from start to an end in order.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::ready;
use crate::registry_server::settings::{self, Flags, Settings};
use crate::{logging, registry_server};

/// Run the embedded registry.
///
/// For a laptop, a test or a single host: one process, its data on one disk. It is no cluster; where one machine is
/// not enough, use Consul, whose interface this speaks a part of, or etcd.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    /// Settings (YAML); everything has a default, and flags go before the file.
    #[arg(value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the HTTP interface listens [default: 127.0.0.1:8500]; beyond loopback, the file has to give tokens.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where Consul's DNS names are answered, over UDP and TCP [default: nowhere]; Consul uses port 8600.
    #[arg(long, value_name = "IP:PORT")]
    dns: Option<SocketAddr>,
    /// Folder for the data [default: registry-data].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Written once requests are served, with the addresses in use as JSON; removed at the end.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Say what is wrong with the settings, each error with its place, and start nothing.
    #[arg(long)]
    check: bool,
}

/// Runs until told to stop. The exit code is 0 after an end in order.
pub fn run(args: RegistryArgs) -> ExitCode {
    let flags = Flags { listen: args.listen, dns: args.dns, data: args.data.clone() };
    let settings = match settings::load(args.config.as_deref(), flags) {
        Ok(settings) => settings,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return ExitCode::FAILURE;
        }
    };
    if args.check {
        // If nobody reads the output any more, there is nobody to tell.
        let _ = writeln!(std::io::stdout(), "ok: {}", summary(&settings));
        return ExitCode::SUCCESS;
    }
    // Kept to the end: what is still waiting is written when it goes.
    let _log = match logging::init(&settings.log) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("outrigger: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outrigger: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(serve(&args, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger: {error:#}");
            ExitCode::FAILURE
        }
    };
    // The look-up of a name may still be under way.
    runtime.shutdown_background();
    code
}

fn summary(settings: &Settings) -> String {
    let clients = |tls: &crate::tls::Server| match tls.settings.client_ca_file {
        Some(_) => ", TLS, clients with certificates",
        None => ", TLS",
    };
    format!(
        "{}{}, data in {}, tokens: {}",
        settings.listen,
        settings.tls.as_ref().map_or("", clients),
        settings.data.display(),
        settings.tokens.len()
    )
}

async fn serve(args: &RegistryArgs, settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let data = settings.data.display().to_string();
    let running = registry_server::start(settings).await?;
    let (http, dns) = (running.http, running.dns);
    tracing::info!(%http, dns = dns.map(|dns| dns.to_string()), data, "ready");
    if let Some(path) = &args.ready_file {
        ready::write(path, &serde_json::json!({ "http": http, "dns": dns }))?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    running.stop().await;
    if let Some(path) = &args.ready_file {
        // Whoever removed it before us wanted the same.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
