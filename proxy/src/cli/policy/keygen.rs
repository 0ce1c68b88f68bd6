//! `policy keygen`: a pair of keys for signed releases.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::say;
use crate::release::SigningKey;

#[derive(Debug, Args)]
pub(super) struct KeygenArgs {
    /// Writes PATH.key, for `policy push --sign`, and PATH.pub, for `trusted_keys`.
    #[arg(default_value = "release")]
    path: PathBuf,
}

pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let (key, pem) = SigningKey::generate()?;
    let (private, public) = (with(&args.path, ".key"), with(&args.path, ".pub"));
    write(&private, &pem, 0o600)?;
    write(&public, &key.public().pem(), 0o644)?;
    say(&format!("{} and {}: key {}\n", private.display(), public.display(), key.public().id()));
    Ok(ExitCode::SUCCESS)
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut whole = path.as_os_str().to_owned();
    whole.push(ending);
    whole.into()
}

/// A key that exists is never overwritten: what it has signed could not be signed again.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| path.display().to_string())
}
