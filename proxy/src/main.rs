//! The program `outrigger`: verbs, and nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger::cli::{check, cni, demo, doctor, net, policy, registry, run, status, wait};
use outrigger::policy::compiler;

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
    /// Watch policies at work: three backends, a sidecar and a load on this machine, for 24 seconds.
    Demo(demo::DemoArgs),
    /// Check a configuration and the services file it names; print every error with its place.
    Check(check::CheckArgs),
    /// Wait until a sidecar is ready, then run a command in this process's place.
    Wait(wait::WaitArgs),
    /// Show services, endpoints and policies of a running sidecar.
    Status(status::StatusArgs),
    /// Write, build, check and measure policies.
    Policy(policy::PolicyCommand),
    /// Run the embedded registry: services, checks and keys on one machine, behind a part of Consul's interface.
    Registry(registry::RegistryArgs),
    /// Put workloads on this host's network, and lead their traffic into sidecars.
    Net(net::NetCommand),
    /// Say what this kernel, these privileges and the other tables on this host allow, and what to change.
    ///
    /// What can be tried is tried in a network namespace that ends with the try; nothing on the host changes. Exit code 1
    /// if something that is needed does not work.
    Doctor(doctor::DoctorArgs),
    /// Be a CNI plugin, for podman, containerd and others.
    Cni(cni::CniCommand),
    /// Compiles a component from standard input to standard output, within limits; `run` starts it.
    #[command(name = compiler::CHILD_VERB, hide = true)]
    CompileComponent,
}

fn main() -> ExitCode {
    if cni::is_asked() {
        return cni::run(&cni::CniCommand::default());
    }
    match Arguments::parse().verb {
        Verb::Run(args) => run::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Policy(command) => policy::run(&command),
        Verb::Registry(args) => registry::run(args),
        Verb::Net(command) => net::run(command),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Cni(command) => cni::run(&command),
        Verb::CompileComponent => compiler::child_main(),
    }
}
