//! `policy history`: who put which version of a release in force, when and why.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::registry::{RegistryArgs, checked_name};
use super::say;
use crate::cli::table::columns;
use crate::control::registry::kv::Kv;
use crate::logging::utc;
use crate::release::{Action, Change, Layout, shortened};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The release.
    name: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn run(args: &HistoryArgs) -> anyhow::Result<ExitCode> {
    checked_name(&args.name)?;
    let changes = args.registry.with(async |kv, layout| changes(kv, layout, &args.name).await)?;
    if changes.is_empty() {
        anyhow::bail!("the registry has no release `{}`", args.name);
    }
    say(&if args.json { format!("{:#}\n", json!(changes)) } else { table(&changes) });
    Ok(ExitCode::SUCCESS)
}

/// Oldest first.
async fn changes(kv: &mut Kv, layout: &Layout, name: &str) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for entry in kv.list(&layout.changes(name)).await?.entries {
        match serde_json::from_slice(&entry.value) {
            Ok(change) => changes.push(change),
            Err(error) => eprintln!("warning: {}: {error}", entry.key),
        }
    }
    Ok(changes)
}

fn table(changes: &[Change]) -> String {
    let rows = changes.iter().map(|change| {
        let action = match change.action {
            Action::Push => "push",
            Action::Rollback => "rollback",
        };
        vec![
            utc(change.at),
            action.to_owned(),
            change.from.map_or_else(|| "-".to_owned(), |from| from.to_string()),
            change.to.to_string(),
            shortened(&change.digest).chars().take(12).collect(),
            shortened(&change.by),
            shortened(&change.message),
        ]
    });
    let mut text = String::new();
    columns(&mut text, &["AT", "WHAT", "FROM", "TO", "DIGEST", "BY", "MESSAGE"], rows.collect());
    text
}
