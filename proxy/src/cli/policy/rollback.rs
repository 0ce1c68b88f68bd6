//! `policy rollback`: puts an earlier version of a release in force again, for every sidecar that follows it.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::publish::{Move, Pointer};
use super::registry::{RegistryArgs, WordsArgs, checked_name, manifests};
use super::say;
use crate::config::Release;
use crate::control::registry::kv::Kv;
use crate::control::releases::fetch;
use crate::release::{Action, COMPONENT_BYTES_MAX, Layout, Manifest, Trust};

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The release.
    name: String,
    /// The version to go to. Default: the newest before the one in force.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    #[command(flatten)]
    words: WordsArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn run(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    checked_name(&args.name)?;
    args.words.checked()?;
    let by = args.words.by();
    let manifest = args.registry.with(async |kv, layout| roll_back(kv, layout, args, &by).await)?;
    say(&format!("{} {} is in force again: {}\n", args.name, manifest.version, manifest.digest));
    Ok(ExitCode::SUCCESS)
}

async fn roll_back(kv: &mut Kv, layout: &Layout, args: &RollbackArgs, by: &str) -> anyhow::Result<Manifest> {
    let pointer = Pointer::read(kv, layout, &args.name).await?;
    let Some(current) = pointer.current else { bail!("the registry has no release `{}`", args.name) };
    let kept = manifests(kv, layout, &args.name).await?;
    let earlier = kept.iter().find(|manifest| manifest.version < current.version);
    let version = match args.to {
        Some(version) => version,
        None => earlier.context("no version before this one is kept")?.version,
    };
    if version == current.version {
        bail!("version {version} is in force already");
    }
    // What cannot be read whole is no version to go to.
    let trust = Trust { at_least: 0, keys: Vec::new().into() };
    let release = Release { name: args.name.clone(), trust };
    let fetched = fetch(kv, layout, &release, version, (COMPONENT_BYTES_MAX, None)).await?;
    let manifest = fetched.manifest;
    let made = Move { action: Action::Rollback, to: &manifest, by, message: &args.words.message };
    if !kv.change(&pointer.moved(layout, &made)?).await? {
        bail!("somebody else has moved release `{}` meanwhile; look again", args.name);
    }
    Ok(manifest)
}
