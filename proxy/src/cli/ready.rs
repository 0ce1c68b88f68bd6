//! The file that scripts wait for: it says where a server listens.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// The file appears whole.
pub(super) fn write(path: &Path, addresses: &Value) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let beside = path.with_extension("partial");
        std::fs::File::create(&beside)?.write_all(addresses.to_string().as_bytes())?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
