//! `policy show`: what a file claims to be, and whether the proxy would take it.

use std::process::ExitCode;

use clap::Args;

use super::{HostArgs, engine, read, say};
use crate::policy::{Compiled, Inspection, inspect};
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
    say(&described(&bytes, &inspection));
    match engine(&args.host)?.load(&bytes) {
        Ok(compiled) => {
            let Compiled { code_bytes, load_time, .. } = &*compiled;
            say(&format!("code     {code_bytes} bytes, compiled in {load_time:.1?}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            say(&format!("refused  {refusal}\n"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn described(bytes: &[u8], inspection: &Inspection) -> String {
    let kind = if inspection.is_module { "core module with its world" } else { "component" };
    format!(
        "digest   {}\nkind     {kind}\nsize     {} bytes\nroles    {}\nimports  {}\nexports  {}\n",
        Digest::of(bytes),
        bytes.len(),
        roles(inspection),
        listed(&inspection.imports),
        listed(&inspection.exports),
    )
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
