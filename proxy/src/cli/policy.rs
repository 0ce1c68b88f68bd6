//! `outrigger policy`: from an empty folder to a policy that can be trusted with traffic.
//!
//! No verb needs a running proxy: they work on files, and those about releases on a registry. Loading goes through the
//! same engine as in the proxy, so what passes here loads there.

mod bench;
mod build;
mod check;
mod history;
mod keygen;
mod new;
mod publish;
mod push;
mod registry;
mod releases;
mod rollback;
mod show;
mod subject;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::PolicyHost;
use crate::policy::{Compiled, Engine, builtin};

/// Writes, builds and tries out policies.
#[derive(Debug, Args)]
pub struct PolicyCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Writes the crate of a new policy: a balancer that works, with tests.
    New(new::NewArgs),
    /// Builds a component from a crate, or from a core module.
    Build(build::BuildArgs),
    /// Says what the proxy would refuse, and runs the conformance kit on the component.
    Check(check::CheckArgs),
    /// Measures a component: time per call, memory, start and compile time.
    Bench(bench::BenchArgs),
    /// Says what a file is: digest, roles, imports, size.
    Show(show::ShowArgs),
    /// Checks a component and publishes it in the registry, for every sidecar that follows it.
    Push(push::PushArgs),
    /// Lists what is published: versions, which is in force, which sidecars run it and which refuse it.
    Releases(releases::ReleasesArgs),
    /// Puts an earlier version in force again.
    Rollback(rollback::RollbackArgs),
    /// Lists who put which version in force, when and why.
    History(history::HistoryArgs),
    /// Makes a pair of keys for signed releases.
    Keygen(keygen::KeygenArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Balancer,
    Router,
}

/// Bounds like those of `policy_host` in the configuration.
#[derive(Debug, Args)]
struct HostArgs {
    /// Linear memory of one instance, in MiB; JavaScript and Python need 256.
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    memory: usize,
    /// Goes through the component even where its core module can be called directly.
    #[arg(long)]
    through_component: bool,
}

/// Runs the verb. Messages go to standard error, results to standard output.
pub fn run(command: &PolicyCommand) -> ExitCode {
    let done = match &command.verb {
        Verb::New(args) => new::run(args),
        Verb::Build(args) => build::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Show(args) => show::run(args),
        Verb::Push(args) => push::run(args),
        Verb::Releases(args) => releases::run(args),
        Verb::Rollback(args) => rollback::run(args),
        Verb::History(args) => history::run(args),
        Verb::Keygen(args) => keygen::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints a result. A reader that has gone away, such as `head`, is no error.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// The bytes of a built-in policy or of a file.
fn read(source: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(bytes) = builtin::bytes(source)
        && !Path::new(source).exists()
    {
        return Ok(bytes.to_vec());
    }
    std::fs::read(source).map_err(|error| {
        let names: Vec<&str> = builtin::names().collect();
        anyhow::anyhow!("{source}: {error}. It is not a built-in policy either: {}", names.join(", "))
    })
}

fn engine(args: &HostArgs) -> anyhow::Result<Engine> {
    let host = PolicyHost {
        cache_dir: None,
        memory_bytes_max: args.memory << 20,
        component_bytes_max: COMPONENT_BYTES_MAX,
        instances_max: 1,
        call_budget: Duration::from_millis(2),
        update_budget: Duration::from_millis(50),
        direct_calls: !args.through_component,
        quarantine_failures: 5,
        quarantine_window: Duration::from_secs(60),
    };
    Ok(Engine::new(&host)?)
}

/// The role asked for, or the only one there is.
fn role(compiled: &Compiled, wanted: Option<Role>) -> anyhow::Result<Role> {
    let roles = compiled.roles();
    match wanted {
        Some(role) => Ok(role),
        None if roles.balancer && roles.router => anyhow::bail!("it has both roles: choose one with --role"),
        None if roles.balancer => Ok(Role::Balancer),
        None => Ok(Role::Router),
    }
}

fn load(source: &str, args: &HostArgs) -> anyhow::Result<Arc<Compiled>> {
    let bytes = read(source)?;
    engine(args)?.load(&bytes).map_err(|refusal| anyhow::anyhow!("{source}: {refusal}"))
}

/// Larger than in the proxy: whoever runs this by hand has asked for it.
const COMPONENT_BYTES_MAX: usize = 128 << 20;

#[cfg(test)]
mod tests;
