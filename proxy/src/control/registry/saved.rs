//! The last good catalogue on disk: what a start without the registry serves.
//!
//! Control reads it once at the start and writes it after changes, at a bounded rate, off the loop. Sidecars with the
//! same registry may share a file: it is replaced whole. Its age is taken from the clock that counts from the machine's
//! boot on; the wall clock, which may have been set meanwhile, serves over a boot alone.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::instance::{Written, service_name};
use crate::config::{Config, RegistrySource};
use crate::metrics::unix_seconds;
use crate::snapshot::{Catalogue, EndpointRecord, Records};

const FILE_BYTES_MAX: u64 = 256 << 20;

/// Read and written one endpoint after the other: in a large catalogue a second form of all of them would be the most
/// that a sidecar ever holds.
#[derive(Debug, Serialize, Deserialize)]
struct File<S> {
    /// In seconds since 1970.
    saved_at: f64,
    /// The same within one boot.
    #[serde(default)]
    booted: Option<Booted>,
    services: S,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
struct Read(EndpointRecord);

impl TryFrom<Written> for Read {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        written.record().map(Self)
    }
}

struct Saving<'a>(&'a Catalogue);

impl Serialize for Saving<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = |records: &Records| records.iter().map(Written::of).collect::<Vec<_>>();
        serializer
            .collect_map(self.0.services.iter().map(|(name, records)| (name.as_ref(), written(records))))
    }
}

/// A moment in the life of a running system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Booted {
    /// The kernel's name for this boot.
    id: String,
    /// Seconds since then, sleep included.
    at: f64,
}

impl Booted {
    /// `None` if the kernel does not say which boot this is.
    fn now() -> Option<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let since = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
        Some(Self { id, at: since.as_secs_f64() })
    }
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
    type Services = BTreeMap<String, Vec<Read>>;
    let file: File<Services> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut services = BTreeMap::new();
    for (name, read) in file.services {
        service_name(&name)?;
        services.insert(name.into(), read.into_iter().map(|Read(record)| record).collect());
    }
    Ok((Catalogue { services }, age(file.saved_at, file.booted, Booted::now())))
}

fn age(saved_at: f64, saved: Option<Booted>, now: Option<Booted>) -> Duration {
    let seconds = match (saved, now) {
        (Some(saved), Some(now)) if saved.id == now.id => now.at - saved.at,
        // A wall clock that was set back makes it look new.
        _ => unix_seconds(SystemTime::now()) - saved_at,
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Replaces the file whole.
pub fn save(path: &Path, catalogue: &Catalogue) -> std::io::Result<()> {
    let saved_at = unix_seconds(SystemTime::now());
    let file = File { saved_at, booted: Booted::now(), services: Saving(catalogue) };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut new = BufWriter::new(std::fs::File::create(&beside)?);
    let written = serde_json::to_writer(&mut new, &file).map_err(std::io::Error::from);
    let whole = written.and_then(|()| new.flush()).and_then(|()| new.get_ref().sync_all());
    let replaced = whole.and_then(|()| std::fs::rename(&beside, path));
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
        // Whatever the wall clock says now.
        let text = std::fs::read_to_string(&path).unwrap();
        let mut day_before: serde_json::Value = serde_json::from_str(&text).unwrap();
        day_before["saved_at"] = (day_before["saved_at"].as_f64().unwrap() - 86_400.0).into();
        std::fs::write(&path, day_before.to_string()).unwrap();
        assert!(load(&path).unwrap().1 < Duration::from_secs(60));
        // Only the wall clock knows about another boot.
        day_before["booted"]["id"] = "another".into();
        std::fs::write(&path, day_before.to_string()).unwrap();
        assert!(load(&path).unwrap().1 > Duration::from_secs(86_000));
        save(&path, &all).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        for broken in [&text[..text.len() / 2], "", "{}", &text.replace("10.0.0.0:80", "nowhere")] {
            std::fs::write(&path, broken).unwrap();
            assert!(load(&path).is_none(), "{broken}");
        }
    }
}
