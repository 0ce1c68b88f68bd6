//! `policy build`: plain cargo for the Wasm target, and the module that it makes turned into a component.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::say;
use crate::policy::compiler::{componentize, embed_world};
use crate::policy::inspect;

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// A crate's directory, or a core module.
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Where the component goes; by default into the crate's directory, or beside the module.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For modules whose tools do not say it, such as C's: load-balancer, request-router or policy.
    #[arg(long, visible_alias = "embed-world", value_name = "WORLD")]
    embed: Option<String>,
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let output = build(args)?;
    say(&format!("{}\n", output.display()));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn build(args: &BuildArgs) -> anyhow::Result<PathBuf> {
    let module = if args.source.is_dir() { cargo_build(&args.source)? } else { args.source.clone() };
    let mut bytes = std::fs::read(&module).with_context(|| module.display().to_string())?;
    if let Some(world) = &args.embed {
        bytes = embed_world(&bytes, world)?;
    }
    let component = componentize(&bytes)?;
    inspect(&component)?.admit()?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.source, &module));
    std::fs::write(&output, &component).with_context(|| output.display().to_string())?;
    eprintln!("{} bytes; next: outrigger policy check {}", component.len(), output.display());
    Ok(output)
}

fn default_output(source: &Path, module: &Path) -> PathBuf {
    let name = module.file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy");
    if source.is_dir() {
        return source.join(format!("{}.wasm", name.replace('_', "-")));
    }
    // `policy.core.wasm` becomes `policy.wasm`; a module without that ending is not overwritten.
    match name.strip_suffix(".core") {
        Some(name) => module.with_file_name(format!("{name}.wasm")),
        None => module.with_file_name(format!("{name}.component.wasm")),
    }
}

/// The module of the crate's `cdylib`, as cargo reports it.
fn cargo_build(dir: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(dir)
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start: is Rust installed?")?;
    let mut messages = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut messages)?;
    }
    if !child.wait()?.success() {
        anyhow::bail!("cargo build failed. If it lacks the target: rustup target add {TARGET}");
    }
    let manifest = dir.canonicalize()?.join("Cargo.toml");
    let modules: Vec<PathBuf> = messages.lines().filter_map(|line| module(line, &manifest)).collect();
    let missing = || format!("{}: no library with crate-type = [\"cdylib\"]", manifest.display());
    modules.into_iter().next_back().with_context(missing)
}

/// The file that one of cargo's messages announces, if it is what we look for.
fn module(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_ours = message["reason"] == "compiler-artifact"
        && message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
        && message["target"]["crate_types"]
            .as_array()
            .is_some_and(|types| types.iter().any(|t| t == "cdylib"));
    let files = message["filenames"].as_array().filter(|_| is_ours)?;
    files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

const TARGET: &str = "wasm32-unknown-unknown";
