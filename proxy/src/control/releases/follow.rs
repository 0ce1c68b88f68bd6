//! The task that follows the releases in use, and tells control what has been verified.
//!
//! It reads which versions are in force, looks after those that differ from what it has told, and waits until something
//! may have changed. Each round starts from what the registry says then, so that nothing has to be resumed: a watch
//! that dies without a sign costs a delay of `LOOK_EVERY` at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::{FetchError, Fetched, fetch, is_refusal, kept, read_current};
use crate::backoff::Backoff;
use crate::config::{Config, Release};
use crate::control::registry::kv::{Entry, Kv, Listing};
use crate::http_client::Error;
use crate::metrics::Metrics;
use crate::release::Layout;

/// Words that may wait for the control loop.
pub const SAID_MAX: usize = 16;
/// How long a watch is relied on.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// What was unfit may have been half-way written: it is tried again after this.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// A release that moves, moves for all sidecars at once: they ask within this time of each other.
const SPREAD: Duration = Duration::from_millis(500);

/// To control.
#[derive(Debug)]
pub enum Said {
    /// What is in force in the registry has been verified.
    Release { policy: Arc<str>, fetched: Box<Fetched> },
    /// It cannot be used, and what serves goes on serving.
    Unfit { policy: Arc<str>, version: Option<u64>, reason: String },
    /// Whether the registry can be asked.
    Trouble(Option<String>),
}

/// Releases in use, by the policies' names here.
pub type Wanted = BTreeMap<Arc<str>, Release>;

#[derive(Debug)]
pub struct Follower {
    kv: Kv,
    layout: Layout,
    /// For what is kept on disk, and for the bound on components.
    config: Arc<Config>,
    wanted: watch::Receiver<Arc<Wanted>>,
    said: mpsc::Sender<Said>,
    told: BTreeMap<Arc<str>, Told>,
    metrics: Metrics,
    backoff: Backoff,
}

/// What has been told about a policy.
#[derive(Debug)]
struct Told {
    about: Release,
    /// Of the version in force; `None`: there is none.
    revision: Option<u64>,
    /// If it was unfit: why, and when it is tried again.
    unfit: Option<(String, Instant)>,
}

enum End {
    Failed(Error),
    /// Control has ended.
    Unwanted,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Follower {
    /// `None` with a file.
    pub fn new(
        config: &Arc<Config>,
        wanted: watch::Receiver<Arc<Wanted>>,
        said: mpsc::Sender<Said>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let source = &config.registry.source;
        Some(Self {
            kv: Kv::of(source)?,
            layout: Layout::of(source)?,
            config: Arc::clone(config),
            wanted,
            said,
            told: BTreeMap::new(),
            metrics: metrics.clone(),
            backoff: Backoff::default(),
        })
    }

    /// Until control has ended.
    pub async fn run(mut self) {
        loop {
            match self.round().await {
                Ok(()) => self.backoff.reset(),
                Err(End::Unwanted) => return,
                Err(End::Failed(error)) => {
                    self.metrics.registry_failures.inc();
                    if self.tell(Said::Trouble(Some(error.to_string()))).await.is_err() {
                        return;
                    }
                    self.kv.turn();
                    sleep(self.backoff.pause()).await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), End> {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        self.told.retain(|policy, told| wanted.get(policy) == Some(&told.about));
        if wanted.is_empty() {
            return self.wanted.changed().await.map_err(|_| End::Unwanted);
        }
        let currents = self.layout.currents();
        let listing = self.kv.list(&currents).await?;
        self.tell(Said::Trouble(None)).await?;
        for (policy, release) in &*wanted {
            self.look_after(policy, release, &listing).await?;
        }
        let again = self.told.values().filter_map(|told| told.unfit.as_ref()).map(|(_, at)| *at).min();
        let until = again.map_or(LOOK_EVERY, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            changed = self.wanted.changed() => changed.map_err(|_| End::Unwanted),
            changed = self.kv.changed(&currents, listing.revision, until) => {
                changed?;
                sleep(self.backoff.within(SPREAD)).await;
                Ok(())
            }
        }
    }

    async fn look_after(
        &mut self,
        policy: &Arc<str>,
        release: &Release,
        listing: &Listing,
    ) -> Result<(), End> {
        let entry = listing.get(&self.layout.current(&release.name));
        let revision = entry.map(|entry| entry.revision);
        let before = self.told.get(policy);
        let known = before.filter(|told| told.revision == revision);
        let unfit = known.and_then(|told| told.unfit.clone());
        if known.is_some() && unfit.as_ref().is_none_or(|(_, again_at)| *again_at > Instant::now()) {
            return Ok(());
        }
        let (said, unfit) = match self.fetched(release, entry).await {
            Ok(fetched) => {
                (Some(Said::Release { policy: Arc::clone(policy), fetched: Box::new(fetched) }), None)
            }
            Err(FetchError::Registry(error)) if !is_refusal(&error) => return Err(error.into()),
            Err(error) => {
                let version = match &error {
                    FetchError::Unfit { version, .. } => Some(*version),
                    _ => None,
                };
                let reason = error.to_string();
                let news = unfit.is_none_or(|(before, _)| before != reason);
                let said = Said::Unfit { policy: Arc::clone(policy), version, reason: reason.clone() };
                let again_at = Instant::now() + self.backoff.about(RETRY_EVERY);
                (news.then_some(said), Some((reason, again_at)))
            }
        };
        self.told.insert(Arc::clone(policy), Told { about: release.clone(), revision, unfit });
        match said {
            Some(said) => self.tell(said).await,
            None => Ok(()),
        }
    }

    async fn fetched(&mut self, release: &Release, entry: Option<&Entry>) -> Result<Fetched, FetchError> {
        let entry = entry.ok_or_else(|| FetchError::Unpublished(release.name.clone()))?;
        let current = read_current(&release.name, &entry.value)?;
        let bytes_max = self.config.policy_host.component_bytes_max;
        let kept = kept::load(kept::path(&self.config, release), release, bytes_max).await;
        fetch(&mut self.kv, &self.layout, release, current.version, (bytes_max, kept.as_ref())).await
    }

    async fn tell(&self, said: Said) -> Result<(), End> {
        self.said.send(said).await.map_err(|_| End::Unwanted)
    }
}
