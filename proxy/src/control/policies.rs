//! The policy store: which component serves each policy name, what served before, and how it behaves.
//!
//! Owned by the control loop alone. Nothing here blocks: components are loaded by `load` on the blocking pool, and a
//! version enters the store only after it has been proven in all its uses and published.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::publish::{Pin, Pins};
use super::releases::Released;
use crate::clock;
use crate::config::{Config, PolicyHost, PolicyOrigin, Release};
use crate::policy::{Compiled, Engine, Failure, PolicyMetrics, Refusal, builtin};
use crate::snapshot::Digest;

/// Versions kept of each policy besides the one in force.
const PREVIOUS_MAX: usize = 8;

/// All policies, by name.
#[derive(Debug, Default)]
pub struct Policies {
    entries: BTreeMap<Arc<str>, Entry>,
}

/// One policy name.
#[derive(Debug)]
pub struct Entry {
    pub current: Version,
    /// Newest first.
    pub previous: VecDeque<Version>,
    pub epoch: u64,
    /// What the policy counts for itself; outlives versions.
    pub metrics: Arc<PolicyMetrics>,
    pub failures_total: u64,
    pub last_failure: Option<String>,
    pub quarantined: bool,
    /// Times of the failures in the window, in ms of `clock::now_ms`, oldest first.
    recent: VecDeque<u64>,
}

/// A component and where it came from.
#[derive(Debug, Clone)]
pub struct Version {
    pub compiled: Arc<Compiled>,
    pub source: Source,
    /// In force, or loaded.
    pub since: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Builtin,
    File(PathBuf),
    /// Pushed through the admin interface; forgotten at the next start.
    Admin,
    Release(Arc<Released>),
}

/// Where the configuration says that a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Builtin,
    File(PathBuf),
    Release(Release),
}

/// Why there is no component to try.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot be read from {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("there is no policy of this name")]
    Unknown,
    #[error("{0}: {1}")]
    Release(Arc<Released>, Refusal),
    #[error("{0}")]
    NotHeard(String),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("loading it ended in a panic, which is a fault of this program")]
    Panicked,
}

/// What to do about a failed instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Replace,
    /// It has failed too often just now.
    Quarantine,
    /// It is out of service already.
    Leave,
}

/// Why there is nothing to go back to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVersion {
    #[error("no version before this one is kept")]
    None,
    #[error("no version with a digest that begins with `{0}` is kept")]
    Digest(String),
}

impl Policies {
    /// Of all that are known, and of releases that this configuration waits for.
    pub fn pins(&self, config: &Config) -> Pins {
        let absent = config.releases().map(|(name, _)| (Arc::from(name), Pin::absent()));
        absent.chain(self.entries.iter().map(|(name, entry)| (Arc::clone(name), entry.pin()))).collect()
    }

    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.entries.iter()
    }

    /// The pin that a version would get if it came into force.
    pub fn pin_of(&self, name: &str, version: &Version) -> Pin {
        let epoch = self.entries.get(name).map_or(1, |entry| entry.epoch + 1);
        version.pin(epoch)
    }

    /// The numbers kept for a policy, or fresh ones for a name not seen before.
    pub fn metrics_of(&self, name: &str) -> Arc<PolicyMetrics> {
        self.entries
            .get(name)
            .map_or_else(|| Arc::new(PolicyMetrics::new(name)), |entry| Arc::clone(&entry.metrics))
    }

    /// Puts a proven version in force. The one before is kept for a rollback; failures are forgotten.
    pub fn adopt(&mut self, name: &Arc<str>, version: Version, metrics: Arc<PolicyMetrics>) {
        let Some(entry) = self.entries.get_mut(name) else {
            self.entries.insert(Arc::clone(name), Entry::new(version, metrics));
            return;
        };
        let digest = version.compiled.digest();
        let version = Version { since: SystemTime::now(), ..version };
        let replaced = std::mem::replace(&mut entry.current, version);
        entry.previous.retain(|kept| kept.compiled.digest() != digest);
        if replaced.compiled.digest() != digest {
            entry.previous.push_front(replaced);
            entry.previous.truncate(PREVIOUS_MAX);
        }
        entry.epoch += 1;
        entry.recent.clear();
        entry.quarantined = false;
    }

    /// Forgets policies that the configuration no longer knows; returns their names.
    pub fn retain(&mut self, config: &Config) -> Vec<Arc<str>> {
        let gone = |name: &Arc<str>| !is_known(config, name);
        let names: Vec<Arc<str>> = self.entries.keys().filter(|name| gone(name)).cloned().collect();
        for name in &names {
            self.entries.remove(name);
        }
        names
    }

    /// Counts a failure of an instance.
    pub fn fail(&mut self, name: &str, failure: &Failure, host: &PolicyHost) -> Verdict {
        let Some(entry) = self.entries.get_mut(name) else { return Verdict::Leave };
        entry.failures_total += 1;
        entry.last_failure = Some(failure.to_string());
        entry.recent.push_back(clock::now_ms());
        entry.verdict(host)
    }

    /// Takes a policy out of service whatever its count: its replacement could not even be made.
    pub fn quarantine(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.quarantined = true;
        }
    }

    /// The version to go back to: the one before, or the newest whose digest begins with `to`.
    pub fn earlier(&self, name: &str, to: Option<&str>) -> Result<Version, NoVersion> {
        let mut kept = self.entries.get(name).into_iter().flat_map(|entry| &entry.previous);
        match to {
            None => kept.next().ok_or(NoVersion::None),
            Some(to) => kept
                .find(|version| !to.is_empty() && version.compiled.digest().to_string().starts_with(to))
                .ok_or_else(|| NoVersion::Digest(to.to_owned())),
        }
        .cloned()
    }
}

impl Entry {
    fn new(current: Version, metrics: Arc<PolicyMetrics>) -> Self {
        Self {
            current,
            previous: VecDeque::new(),
            epoch: 1,
            metrics,
            failures_total: 0,
            last_failure: None,
            quarantined: false,
            recent: VecDeque::new(),
        }
    }

    pub fn pin(&self) -> Pin {
        self.current.pin(self.epoch)
    }

    fn verdict(&mut self, host: &PolicyHost) -> Verdict {
        let window = u64::try_from(host.quarantine_window.as_millis()).unwrap_or(u64::MAX);
        let oldest = clock::now_ms().saturating_sub(window);
        while self.recent.front().is_some_and(|&at| at < oldest) {
            self.recent.pop_front();
        }
        if self.quarantined {
            self.recent.clear();
            return Verdict::Leave;
        }
        if self.recent.len() < usize::try_from(host.quarantine_failures).unwrap_or(usize::MAX) {
            return Verdict::Replace;
        }
        self.quarantined = true;
        Verdict::Quarantine
    }
}

impl Version {
    pub fn new(compiled: Arc<Compiled>, source: Source) -> Self {
        Self { compiled, source, since: SystemTime::now() }
    }

    pub fn digest(&self) -> Digest {
        self.compiled.digest()
    }

    fn pin(&self, epoch: u64) -> Pin {
        let configuration = match &self.source {
            Source::Release(released) => released.configuration.clone(),
            Source::Builtin | Source::File(_) | Source::Admin => None,
        };
        Pin { digest: self.digest(), epoch, configuration }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("builtin"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Admin => f.write_str("admin"),
            Self::Release(released) => released.fmt(f),
        }
    }
}

/// Whether the name may be used at all.
pub fn is_known(config: &Config, name: &str) -> bool {
    config.policies.contains_key(name) || builtin::bytes(name).is_some()
}

/// Where the configuration says that a policy comes from.
pub fn origin_of(config: &Config, name: &str) -> Option<Origin> {
    match config.policies.get(name).map(|policy| &policy.origin) {
        Some(PolicyOrigin::File(file)) => Some(Origin::File(file.clone())),
        Some(PolicyOrigin::Release(release)) => Some(Origin::Release(release.clone())),
        None => builtin::bytes(name).map(|_| Origin::Builtin),
    }
}

/// Compiles a built-in policy, on the blocking pool.
pub async fn load_builtin(engine: Engine, name: Arc<str>) -> Result<Version, LoadError> {
    let job = move || {
        let bytes = builtin::bytes(&name).ok_or(LoadError::Unknown)?;
        Ok(Version::new(engine.load(bytes)?, Source::Builtin))
    };
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(LoadError::Panicked))
}

/// Reads and compiles, on the blocking pool. `None` if it is the component in force already, which saves compiling.
pub async fn load_file(
    engine: Engine,
    path: PathBuf,
    limit: usize,
    in_force: Option<Digest>,
) -> Result<Option<Version>, LoadError> {
    let job = move || {
        let bytes = read(&path, limit).map_err(|error| LoadError::Read { path: path.clone(), error })?;
        if in_force == Some(Digest::of(&bytes)) {
            return Ok(None);
        }
        Ok(Some(Version::new(engine.load(&bytes)?, Source::File(path))))
    };
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(LoadError::Panicked))
}

/// Compiles what has been verified, on the blocking pool.
pub async fn load_release(
    engine: Engine,
    released: Arc<Released>,
    component: bytes::Bytes,
) -> Result<Version, LoadError> {
    let job = move || match engine.load(&component) {
        Ok(compiled) => Ok(Version::new(compiled, Source::Release(released))),
        Err(refusal) => Err(LoadError::Release(released, refusal)),
    };
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(LoadError::Panicked))
}

/// Compiles what came with a request, on the blocking pool.
pub async fn load_pushed(engine: Engine, bytes: bytes::Bytes) -> Result<Version, LoadError> {
    let job = move || Ok(Version::new(engine.load(&bytes)?, Source::Admin));
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(LoadError::Panicked))
}

/// One byte more than allowed is enough for the engine to refuse the size.
fn read(path: &PathBuf, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How long the control loop waits for workers to hand over state before it goes on without.
pub const EXPORT_WAIT: Duration = Duration::from_secs(1);
