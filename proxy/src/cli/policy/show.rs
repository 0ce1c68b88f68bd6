//! `policy show`: what a file claims to be, and whether the proxy would take it.

use std::process::ExitCode;

use clap::Args;

use super::{HostArgs, engine, read};
use crate::policy::{Inspection, inspect};
use crate::snapshot::Digest;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// A component, a core module that describes its world, or the name of a built-in policy.
    file: String,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let inspection = inspect(&bytes).map_err(|refusal| anyhow::anyhow!("{}: {refusal}", args.file))?;
    println!("digest   {}", Digest::of(&bytes));
    println!("kind     {}", if inspection.is_module { "core module with its world" } else { "component" });
    println!("size     {} bytes", bytes.len());
    println!("roles    {}", roles(&inspection));
    println!("imports  {}", listed(&inspection.imports));
    println!("exports  {}", listed(&inspection.exports));
    match engine(&args.host)?.load(&bytes) {
        Ok(compiled) => {
            println!("code     {} bytes, compiled in {:.1?}", compiled.code_bytes, compiled.load_time);
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            println!("refused  {refusal}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn roles(inspection: &Inspection) -> String {
    let named = [
        (inspection.roles.balancer, "balancer"),
        (inspection.roles.router, "router"),
        (inspection.has_state, "hands over state"),
    ];
    let names: Vec<&str> = named.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join("\n         ") }
}
