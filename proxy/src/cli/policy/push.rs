//! `policy push`: checks a component as `policy check` does, and publishes it for every sidecar that follows it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

use super::publish::{Draft, Published, publish};
use super::registry::{RegistryArgs, WordsArgs, checked_name};
use super::{HostArgs, Role, check, engine, read, say};
use crate::policy::{Compiled, inspect};
use crate::release::{COMPONENT_BYTES_MAX, CONFIGURATION_BYTES_MAX, SigningKey, is_configuration};

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// A component, or a core module that describes its world.
    file: String,
    /// The release that it is a version of; sidecars name it as `policies: {NAME: {release: …}}`.
    #[arg(long)]
    name: String,
    /// The policy's configuration, a JSON object or @FILE: for uses that have none of their own.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// Signs it with this private key (`policy keygen`).
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// Publishes it under this version, which is higher than all before. Default: the next.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// For the check alone, where the release has no configuration of its own and the policy needs one.
    #[arg(long, value_name = "JSON", conflicts_with = "config")]
    check_config: Option<String>,
    /// Backends granted to a router in the check.
    #[arg(long, value_delimiter = ',', default_value = "stable,canary")]
    backends: Vec<String>,
    #[command(flatten)]
    words: WordsArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) fn run(args: &PushArgs) -> anyhow::Result<ExitCode> {
    checked_name(&args.name)?;
    args.words.checked()?;
    let component = read(&args.file)?;
    if component.len() > COMPONENT_BYTES_MAX {
        bail!("{}: {} bytes, of which {COMPONENT_BYTES_MAX} are allowed", args.file, component.len());
    }
    let configuration = args.config.as_deref().map(configuration).transpose()?;
    let key = args.sign.as_deref().map(signing_key).transpose()?;
    let compiled = engine(&args.host)?.load(&component);
    let compiled = compiled.map_err(|refusal| anyhow::anyhow!("{}: {refusal}", args.file))?;
    if !passes(args, &compiled, configuration.as_deref()) {
        say(&format!("{} does not pass, and is not published\n", args.file));
        return Ok(ExitCode::FAILURE);
    }
    let draft = Draft {
        name: args.name.clone(),
        contract: contract(&component)?,
        component: component.into(),
        configuration,
        by: args.words.by(),
        message: args.words.message.clone(),
        version: args.version,
        key,
    };
    let published = args.registry.with(async |kv, layout| publish(kv, layout, &draft).await)?;
    say(&match published {
        Published::Anew(manifest) => {
            let signed = manifest.signature.map(|s| format!(", signed with key {}", s.key));
            let (version, digest) = (manifest.version, manifest.digest);
            format!("{} {version} is in force: {digest}{}\n", args.name, signed.unwrap_or_default())
        }
        Published::Same(manifest) => {
            format!("{} {} is in force already; nothing is published\n", args.name, manifest.version)
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// The conformance kit, for each role that it has. What is wrong is printed.
fn passes(args: &PushArgs, compiled: &Arc<Compiled>, configuration: Option<&str>) -> bool {
    let config = configuration.or(args.check_config.as_deref()).unwrap_or("{}");
    let roles = [(compiled.roles().balancer, Role::Balancer), (compiled.roles().router, Role::Router)];
    let reports: Vec<_> = roles
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, role)| check::conformance(compiled, *role, config, (&args.backends, &[])))
        .collect();
    for report in reports.iter().filter(|report| !report.passed()) {
        say(&report.to_string());
    }
    reports.iter().all(outrigger_sdk::testing::conformance::Report::passed)
}

fn configuration(written: &str) -> anyhow::Result<String> {
    let text = match written.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| file.to_owned())?,
        None => written.to_owned(),
    };
    let text = text.trim().to_owned();
    if !is_configuration(&text) {
        bail!("--config: a JSON object of at most {CONFIGURATION_BYTES_MAX} bytes is needed");
    }
    Ok(text)
}

fn signing_key(file: &Path) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    SigningKey::parse(&text).with_context(|| file.display().to_string())
}

/// The package that it implements, as in `outrigger:policy@0.1.0`.
fn contract(component: &[u8]) -> anyhow::Result<String> {
    let exports = inspect(component)?.exports;
    let package = exports.iter().find_map(|name| {
        let (interface, version) = name.split_once('@')?;
        let (package, _) = interface.split_once('/')?;
        Some(format!("{package}@{version}"))
    });
    package.context("it exports nothing with a version")
}
