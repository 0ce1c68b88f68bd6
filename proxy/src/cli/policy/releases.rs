//! `policy releases`: which versions there are, which is in force, and who runs or refuses it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::publish::Pointer;
use super::registry::{RegistryArgs, checked_name, manifests};
use super::say;
use crate::cli::table::columns;
use crate::control::registry::kv::Kv;
use crate::control::releases::read_current;
use crate::logging::utc;
use crate::release::{Current, Layout, Manifest, Running, shortened};

#[derive(Debug, Args)]
pub(super) struct ReleasesArgs {
    /// The release; left out, all are listed.
    name: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// All about one release.
struct Seen {
    name: String,
    current: Option<Current>,
    versions: Vec<Manifest>,
    sidecars: Vec<Running>,
}

pub(super) fn run(args: &ReleasesArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.name else {
        let all = args.registry.with(async |kv, layout| all(kv, layout).await)?;
        say(&if args.json { format!("{:#}\n", list_json(&all)) } else { list_table(&all) });
        return Ok(ExitCode::SUCCESS);
    };
    checked_name(name)?;
    let seen = args.registry.with(async |kv, layout| seen(kv, layout, name).await)?;
    if seen.current.is_none() && seen.versions.is_empty() {
        anyhow::bail!("the registry has no release `{name}`");
    }
    say(&if args.json { format!("{:#}\n", seen.json()) } else { seen.table() });
    Ok(ExitCode::SUCCESS)
}

async fn all(kv: &mut Kv, layout: &Layout) -> anyhow::Result<Vec<(String, Current)>> {
    let currents = layout.currents();
    let mut all = Vec::new();
    for entry in kv.list(&currents).await?.entries {
        let name = entry.key.strip_prefix(&currents).unwrap_or(&entry.key).to_owned();
        match read_current(&name, &entry.value) {
            Ok(current) => all.push((name, current)),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    Ok(all)
}

async fn seen(kv: &mut Kv, layout: &Layout, name: &str) -> anyhow::Result<Seen> {
    let current = Pointer::read(kv, layout, name).await?.current;
    let versions = manifests(kv, layout, name).await?;
    let listing = kv.list(&layout.runnings(name)).await?;
    // What cannot be read is no report.
    let sidecars = listing.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    Ok(Seen { name: name.to_owned(), current, versions, sidecars: sidecars.collect() })
}

fn list_json(all: &[(String, Current)]) -> serde_json::Value {
    all.iter().map(|(name, current)| json!({ "release": name, "version": current.version })).collect()
}

fn list_table(all: &[(String, Current)]) -> String {
    let rows = all.iter().map(|(name, current)| vec![shortened(name), current.version.to_string()]);
    let mut text = String::new();
    columns(&mut text, &["RELEASE", "IN FORCE"], rows.collect());
    text
}

impl Seen {
    fn in_force(&self, version: u64) -> bool {
        self.current.is_some_and(|current| current.version == version)
    }

    fn running(&self, version: u64) -> usize {
        self.sidecars.iter().filter(|sidecar| sidecar.version == Some(version)).count()
    }

    fn json(&self) -> serde_json::Value {
        let versions = self.versions.iter().map(|manifest| {
            let mut shown = json!(manifest);
            shown["in_force"] = self.in_force(manifest.version).into();
            shown["sidecars"] = self.running(manifest.version).into();
            shown
        });
        json!({
            "release": self.name,
            "in_force": self.current.map(|current| current.version),
            "versions": versions.collect::<Vec<_>>(),
            "sidecars": self.sidecars,
        })
    }

    fn table(&self) -> String {
        let rows = self.versions.iter().map(|manifest| {
            let in_force = if self.in_force(manifest.version) { "in force" } else { "" };
            vec![
                manifest.version.to_string(),
                in_force.to_owned(),
                self.running(manifest.version).to_string(),
                shortened(&manifest.digest).chars().take(12).collect(),
                manifest.size.to_string(),
                utc(manifest.published_at),
                shortened(&manifest.published_by),
                manifest.signature.as_ref().map_or_else(|| "-".to_owned(), |s| shortened(&s.key)),
                shortened(&manifest.message),
            ]
        });
        let mut text = String::new();
        let head = ["VERSION", "STATE", "SIDECARS", "DIGEST", "BYTES", "PUBLISHED", "BY", "KEY", "MESSAGE"];
        columns(&mut text, &head, rows.collect());
        let others = self.sidecars.iter().filter(|sidecar| {
            let known = |version| self.versions.iter().any(|manifest| manifest.version == version);
            sidecar.refused.is_some() || !sidecar.version.is_some_and(known)
        });
        let others: Vec<Vec<String>> = others
            .map(|sidecar| {
                let version = |version: Option<u64>| version.map_or_else(|| "none".into(), |v| v.to_string());
                let refused = sidecar.refused.as_ref();
                let refuses = refused.map_or_else(String::new, |refused| version(refused.version));
                let reason = refused.map_or_else(String::new, |refused| shortened(&refused.reason));
                vec![shortened(&sidecar.sidecar), version(sidecar.version), refuses, reason]
            })
            .collect();
        if !others.is_empty() {
            columns(&mut text, &["SIDECAR", "RUNS", "REFUSES", "BECAUSE"], others);
        }
        if self.current.is_none() {
            let _ = writeln!(text, "\nno version is in force");
        }
        text
    }
}
