//! Configuration: from YAML text to a `Config` that is valid by construction.
//!
//! `yaml` reads text into the types of `written`; `resolve` checks and completes them into the types of `resolved`,
//! the only ones that other modules see. All errors of a file are reported together, each with its line and column.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

mod builtin;
pub(crate) mod diagnostic;
pub(crate) mod resolve;
pub mod resolved;
pub(crate) mod schema;
pub(crate) mod written;
pub(crate) mod yaml;

pub use builtin::{BUILTIN_POLICIES, DEFAULT_BALANCER, PolicyKind, builtin_kind};
pub use diagnostic::Diagnostic;
pub use resolved::*;
pub use schema::schema;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the configuration file. Relative paths in it start at its directory.
pub fn load(path: &Path) -> Result<Config, Vec<Diagnostic>> {
    let text = read_text(path, FILE_BYTES_MAX).map_err(|error| vec![error])?;
    parse(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new("")))
}

/// Makes a configuration from text. `file_name` is for messages; relative paths start at `base_dir`.
pub fn parse(text: &str, file_name: &str, base_dir: &Path) -> Result<Config, Vec<Diagnostic>> {
    let (written, mut problems) = yaml::read(text, file_name)?;
    let config = resolve::resolve(written, base_dir, &mut problems);
    problems.finish()?;
    Ok(config)
}

/// A whole file as text, within a limit.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<String, Diagnostic> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| Diagnostic::of_file(&name, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Diagnostic::of_file(&name, format!("larger than {bytes_max} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| not_utf8(&name, error.as_bytes(), error.utf8_error().valid_up_to()))
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Diagnostic {
    let good = String::from_utf8_lossy(&bytes[..valid]);
    let last = good.rsplit('\n').next().unwrap_or_default();
    let mut problem = Diagnostic::of_file(name, "not UTF-8 from here on");
    problem.place.line = good.matches('\n').count() + 1;
    problem.place.column = last.chars().count() + 1;
    problem
}

#[cfg(test)]
mod tests;
