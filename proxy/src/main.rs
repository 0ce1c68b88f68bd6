//! The program `outrigger`: verbs, and nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger::cli::{check, demo, policy, run};

/// Its pages come back to the system sooner than the standard allocator's, and small requests cost less.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sidecar proxy whose balancing and routing policies are WebAssembly components, swapped at run time.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the sidecar.
    Run(run::RunArgs),
    /// See it at work: three backends, load, and policies swapped while requests flow.
    Demo(demo::DemoArgs),
    /// Check a configuration and the services file it names; print every error with its place.
    Check(check::CheckArgs),
    /// Write, build, check and measure policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run(args) => run::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Policy(command) => policy::run(command),
    }
}
