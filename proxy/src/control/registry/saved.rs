//! The last good catalogue on disk: what a start without the registry serves.
//!
//! Control reads it once at the start and writes it after changes, at a bounded rate, off the loop. Sidecars with the
//! same registry may share a file: it is replaced whole.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::instance::{Written, service_name};
use crate::config::{Config, RegistrySource};
use crate::metrics::unix_seconds;
use crate::snapshot::Catalogue;

const FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    /// In seconds since 1970.
    saved_at: f64,
    services: BTreeMap<String, Vec<Written>>,
}

/// Where the catalogue of this registry is kept; `None` if it is not.
pub fn path(config: &Config) -> Option<PathBuf> {
    let registry = &config.registry;
    let source = match &registry.source {
        // It is a file already.
        RegistrySource::File(_) => return None,
        RegistrySource::Etcd(etcd) => format!("etcd {:?} {}", etcd.servers, etcd.prefix),
        RegistrySource::Consul(consul) => format!("consul {:?} {:?}", consul.servers, consul.datacenter),
    };
    let digest = Sha256::digest(format!("{source} {:?}", registry.services));
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(config.state_dir.as_ref()?.join(format!("catalogue-{name}.json")))
}

/// The catalogue and its age; `None` if there is none that can be used, which is said in the log.
pub fn load(path: &Path) -> Option<(Catalogue, Duration)> {
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the saved catalogue cannot be read");
            return None;
        }
    };
    let read = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| error.to_string());
    let parsed = read.and_then(|_| parse(&bytes));
    match parsed {
        Ok(saved) => Some(saved),
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "the saved catalogue cannot be used");
            None
        }
    }
}

fn parse(bytes: &[u8]) -> Result<(Catalogue, Duration), String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut services = BTreeMap::new();
    for (name, written) in file.services {
        service_name(&name)?;
        let records = written.into_iter().map(Written::record).collect::<Result<_, _>>()?;
        services.insert(name.into(), records);
    }
    // A clock that was set back makes it look new.
    let age = (unix_seconds(SystemTime::now()) - file.saved_at).max(0.0);
    Ok((Catalogue { services }, Duration::try_from_secs_f64(age).unwrap_or(Duration::MAX)))
}

/// Replaces the file whole.
pub fn save(path: &Path, catalogue: &Catalogue) -> std::io::Result<()> {
    let services = catalogue.services.iter();
    let services = services.map(|(name, all)| (name.to_string(), all.iter().map(Written::of).collect()));
    let file = File { saved_at: unix_seconds(SystemTime::now()), services: services.collect() };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut new = std::fs::File::create(&beside)?;
    let written = new.write_all(&serde_json::to_vec(&file)?).and_then(|()| new.sync_all());
    let replaced = written.and_then(|()| std::fs::rename(&beside, path));
    if replaced.is_err() {
        // What is half written is of no use.
        let _ = std::fs::remove_file(&beside);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::catalogue;

    #[test]
    fn comes_back_as_it_was() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("deep/catalogue.json");
        assert!(load(&path).is_none());
        let all = catalogue(&[("api", 2), ("web", 3)]);
        save(&path, &all).unwrap();
        let (loaded, age) = load(&path).unwrap();
        assert_eq!(loaded, all);
        assert!(age < Duration::from_secs(60));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        for broken in [&text[..text.len() / 2], "", "{}", &text.replace("10.0.0.0:80", "nowhere")] {
            std::fs::write(&path, broken).unwrap();
            assert!(load(&path).is_none(), "{broken}");
        }
    }
}
