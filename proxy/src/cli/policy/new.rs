//! `policy new`: the crate of a policy that works, passes the conformance kit, and needs nothing but Rust.
//!
//! The SDK is written into the crate's `vendor/` unless a path to one is given, so that the policy fits the contract
//! of the very program that will run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::say;

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Of the crate: letters, digits, `-` and `_`.
    name: String,
    /// A router instead of a balancer.
    #[arg(long)]
    router: bool,
    /// The directory to make; by default the name.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Depends on the SDK at this path instead of a copy in `vendor/`.
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let dir = write(args)?;
    let shown = dir.display();
    say(&format!("{shown} is ready:\n  cd {shown} && cargo test\n  outrigger policy build {shown}\n"));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn write(args: &NewArgs) -> anyhow::Result<PathBuf> {
    if !is_crate_name(&args.name) {
        anyhow::bail!("`{}` does not name a crate: a letter first, then letters, digits, - and _", args.name);
    }
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if dir.exists() {
        anyhow::bail!("{} exists already", dir.display());
    }
    let sdk = match &args.sdk {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None => PathBuf::from(VENDORED),
    };
    let manifest = MANIFEST.replace("{name}", &args.name).replace("{sdk}", &sdk.display().to_string());
    let source = if args.router { ROUTER } else { BALANCER };
    put(&dir.join("Cargo.toml"), &manifest)?;
    put(&dir.join("src/lib.rs"), source)?;
    put(&dir.join(".gitignore"), "/target\n*.wasm\n")?;
    if args.sdk.is_none() {
        for (path, text) in SDK {
            put(&dir.join(VENDORED).join(path), text)?;
        }
    }
    Ok(dir)
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let context = || path.display().to_string();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(context)?;
    }
    fs::write(path, text).with_context(context)
}

fn is_crate_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

const VENDORED: &str = "vendor/outrigger-sdk";
const MANIFEST: &str = include_str!("new/Cargo.toml.in");
const BALANCER: &str = include_str!("new/balancer.rs.in");
const ROUTER: &str = include_str!("new/router.rs.in");

// `SDK`: path and text of each of its files.
include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
