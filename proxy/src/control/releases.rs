//! Policies from the registry: fetched, verified, kept for a start without it, followed, and reported.
//!
//! `fetch` is the one way from a registry to a component, for the sidecar and for the verbs; `follow` calls it whenever
//! a policy's version in force moves, and tells control; `report` writes down what serves. Invariant: whatever the
//! registry says or fails to say, what is in force stays until something better has been verified.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::registry::kv::Kv;
use crate::backoff::Backoff;
use crate::config::{Config, Release};
use crate::http_client::Error;
use crate::release::{Current, Layout, Manifest, PART_BYTES_MAX, Unfit};

pub mod follow;
pub mod kept;
pub mod report;

/// How long a start, or a changed configuration, waits for a release that is not kept. Then the proxy's own balancer
/// serves until it comes.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// A release that has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    pub name: String,
    pub version: u64,
    /// JSON text, for uses that have none of their own.
    pub configuration: Option<Arc<str>>,
    /// Of the key that signed it, if it is signed; with trusted keys, it is one of them.
    pub key: Option<String>,
}

/// With its component.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub released: Arc<Released>,
    pub manifest: Manifest,
    pub component: Bytes,
}

/// Why a release could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Registry(#[from] Error),
    #[error("the registry has no release `{0}`: publish one with `outrigger policy push`")]
    Unpublished(String),
    #[error("release `{name}`, version {version}: {unfit}")]
    Unfit { name: String, version: u64, unfit: Unfit },
    #[error("what is in force of release `{0}` cannot be read: {1}")]
    Unreadable(String, String),
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release `{}`, version {}", self.name, self.version)
    }
}

/// The version in force, and the revision of what says so. `None`: nothing has been published.
pub async fn current(kv: &mut Kv, layout: &Layout, name: &str) -> Result<Option<(Current, u64)>, FetchError> {
    let Some(entry) = kv.read(&layout.current(name)).await? else { return Ok(None) };
    Ok(Some((read_current(name, &entry.value)?, entry.revision)))
}

pub fn read_current(name: &str, value: &[u8]) -> Result<Current, FetchError> {
    serde_json::from_slice(value).map_err(|error| FetchError::Unreadable(name.to_owned(), error.to_string()))
}

/// One version out of the registry, verified. A component that is `kept` is not fetched again.
pub async fn fetch(
    kv: &mut Kv,
    layout: &Layout,
    release: &Release,
    version: u64,
    (bytes_max, kept): (usize, Option<&Fetched>),
) -> Result<Fetched, FetchError> {
    let name = &release.name;
    let unfit = |unfit| FetchError::Unfit { name: name.clone(), version, unfit };
    let entry = kv.read(&layout.manifest(name, version)).await?;
    let entry = entry.ok_or_else(|| unfit(Unfit::NoManifest))?;
    let manifest = Manifest::read(&entry.value).map_err(unfit)?;
    manifest.verify(name, version, &release.trust, bytes_max).map_err(unfit)?;
    if let Some(kept) = kept.filter(|kept| kept.manifest.digest == manifest.digest) {
        return Ok(Fetched::new(manifest, kept.component.clone()));
    }
    let mut parts = Vec::with_capacity(manifest.parts);
    let mut found = 0;
    for index in 0..manifest.parts {
        let part = kv.read(&layout.part(name, &manifest.digest, index)).await?;
        let part = part.ok_or_else(|| unfit(Unfit::MissingPart(index)))?.value;
        found += part.len();
        if part.len() > PART_BYTES_MAX || found > manifest.size {
            return Err(unfit(Unfit::WrongSize { found, size: manifest.size }));
        }
        parts.push(part);
    }
    let component = manifest.assemble(&parts).map_err(unfit)?;
    Ok(Fetched::new(manifest, component.into()))
}

/// What a start or a changed configuration has to go by: what is kept, or else what the registry says within a time.
pub(super) async fn first(config: &Config, release: &Release) -> Result<Fetched, String> {
    let bytes_max = config.policy_host.component_bytes_max;
    if let Some(kept) = kept::load(kept::path(config, release), release, bytes_max).await {
        return Ok(kept);
    }
    let source = &config.registry.source;
    let (Some(mut kv), Some(layout)) = (Kv::of(source), Layout::of(source)) else {
        return Err("the registry is a file, which keeps no releases".to_owned());
    };
    let (mut backoff, end) = (Backoff::default(), Instant::now() + FIRST_WAIT);
    let mut problem = format!("the registry does not answer within {FIRST_WAIT:?}");
    loop {
        let attempt = async {
            let current = current(&mut kv, &layout, &release.name).await?;
            let (current, _) = current.ok_or_else(|| FetchError::Unpublished(release.name.clone()))?;
            fetch(&mut kv, &layout, release, current.version, (bytes_max, None)).await
        };
        match timeout_at(end, attempt).await {
            Ok(Ok(fetched)) => return Ok(fetched),
            Ok(Err(FetchError::Registry(error))) if !is_refusal(&error) => problem = error.to_string(),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(problem),
        }
        kv.turn();
        if timeout_at(end, sleep(backoff.pause())).await.is_err() {
            return Err(problem);
        }
    }
}

/// The registry has answered, and will answer so again: a missing right, say.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused(_, status, _) if status.is_client_error())
}

impl Fetched {
    /// Only of what has been verified.
    fn new(manifest: Manifest, component: Bytes) -> Self {
        let released = Released {
            name: manifest.policy.clone(),
            version: manifest.version,
            configuration: manifest.configuration.as_deref().map(Arc::from),
            key: manifest.signature.as_ref().map(|signature| signature.key.clone()),
        };
        Self { released: Arc::new(released), manifest, component }
    }

    /// From a copy of the manifest and the component, which may have come from anywhere.
    pub fn verified(
        manifest: Manifest,
        component: Bytes,
        release: &Release,
        bytes_max: usize,
    ) -> Result<Self, Unfit> {
        manifest.verify(&release.name, manifest.version, &release.trust, bytes_max)?;
        manifest.assemble(std::slice::from_ref(&component))?;
        Ok(Self::new(manifest, component))
    }
}

/// Where a release is kept, for those who look it up by its policy.
pub(super) fn kept_path(config: &Config, policy: &str) -> Option<std::path::PathBuf> {
    let (_, release) = config.releases().find(|(name, _)| *name == policy)?;
    kept::path(config, release)
}

/// Writes it there, on the blocking pool. A failure costs a start without the registry, and is said in the log.
pub(super) async fn keep(path: &Path, fetched: &Fetched) {
    let (path, fetched) = (path.to_owned(), fetched.clone());
    let saved = tokio::task::spawn_blocking(move || kept::save(&path, &fetched)).await;
    if let Err(error) = saved.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        tracing::warn!(%error, "the release cannot be kept; a start without the registry will do without it");
    }
}
