//! `outrigger net run`: the process that stays, and keeps the network as the file says.
//!
//! `Keeper::run` is its contents page: it waits for the file, for the kernel, for its own times, and then looks at
//! everything in one pass (`run::keep`). Nothing is lost if it dies or is stopped: the network stays, and the next one
//! goes on from the store. Invariant: only a pass changes the kernel, and only under the store's lock, so that `apply`
//! and `undo` work beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::NetError;
use super::item::{Change, Item, Place};
use super::run::{Kept, Update, keep};
use super::settings::{self, Settings};
use super::store::{Record, Store, StoreError};
use crate::backoff::Backoff;
use crate::config::Diagnostic;
use crate::watch::Watcher;

mod ears;
pub mod metrics;
mod overlays;
mod pace;
pub mod server;

use ears::Ears;
use metrics::Metrics;
use overlays::Overlays;
use pace::Pace;
use server::Sight;

/// For what the kernel does not tell of, such as `accept_ra`.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often metrics are brought up to date that nothing else changes.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// What the process is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The network file.
    pub file: PathBuf,
    /// Folder of the store.
    pub state: PathBuf,
    /// How long another run is waited for.
    pub wait: Duration,
}

/// Why it cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", shown(.0))]
    File(Vec<Diagnostic>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything the process knows.
pub struct Keeper {
    options: Options,
    metrics: Metrics,
    sight: watch::Sender<Sight>,
    watcher: Watcher,
    ears: Ears,
    heard: mpsc::Receiver<Place>,
    paces: BTreeMap<Place, Pace>,
    overlays: Overlays,
    /// Of networks on many hosts, not yet in force.
    has_news: bool,
    /// What was left out, since something of somebody else's is there.
    yielded: Vec<String>,
    clashes: Vec<String>,
    /// A file that has been read, and is not in force yet.
    coming: Option<Settings>,
    /// A file has come into force since the start.
    has_applied: bool,
    /// Why the file on disk cannot come into force.
    refusal: Option<String>,
    /// Why the last pass failed.
    failure: Option<String>,
    waiting: BTreeMap<String, String>,
    times: Times,
    backoff: Backoff,
    /// One process for each store.
    _alone: Store,
}

/// When what is due by itself.
#[derive(Debug)]
struct Times {
    look: Instant,
    count: Instant,
    /// After a failure.
    retry: Option<Instant>,
}

impl Keeper {
    /// Reads the file, which has to be good. Has to be called within a runtime.
    pub fn new(options: Options, metrics: Metrics) -> Result<Self, StartError> {
        let alone = Store::for_one(&options.state)?;
        // Watched before it is read.
        let watcher = Watcher::new([options.file.clone()]);
        let file = settings::load(&options.file).map_err(StartError::File)?;
        let (sender, heard) = mpsc::channel(ears::HEARD_MAX);
        let now = Instant::now();
        Ok(Self {
            sight: watch::Sender::new(Sight::default()),
            watcher,
            ears: Ears::new(sender),
            heard,
            paces: BTreeMap::new(),
            overlays: Overlays::new(options.state.clone()),
            has_news: false,
            yielded: Vec::new(),
            clashes: Vec::new(),
            coming: Some(file),
            has_applied: false,
            refusal: None,
            failure: None,
            waiting: BTreeMap::new(),
            times: Times { look: now, count: now + COUNT_EVERY, retry: None },
            backoff: Backoff::default(),
            options,
            metrics,
            _alone: alone,
        })
    }

    pub fn sight(&self) -> watch::Receiver<Sight> {
        self.sight.subscribe()
    }

    /// Until `stop` says so; the network stays as it is. `again` asks for the file to be read anew.
    pub async fn run(&mut self, stop: impl Future<Output = ()>, mut again: mpsc::Receiver<()>) {
        tokio::pin!(stop);
        loop {
            let due = self.due(Instant::now());
            tokio::select! {
                biased;
                () = &mut stop => return,
                files = self.watcher.changed() => self.files_changed(&files).await,
                Some(()) = again.recv() => self.read().await,
                Some(place) = self.heard.recv() => {
                    self.paces.entry(place).or_default().disturbed(Instant::now());
                }
                () = self.overlays.changed() => self.news(),
                () = sleep_until(due) => self.act().await,
            }
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let paces = self.paces.values().filter_map(Pace::due);
        // A pass that has failed is repeated at its own time, whatever happens meanwhile.
        let pass = match self.times.retry {
            Some(retry) => retry,
            None if self.coming.is_some() || self.has_news => now,
            None => paces.min().map_or(self.times.look, |due| due.min(self.times.look)),
        };
        pass.min(self.times.count)
    }

    async fn files_changed(&mut self, files: &[PathBuf]) {
        if files.contains(&self.options.file) {
            self.read().await;
        }
        // Another one is a namespace that has come or gone.
        if files.iter().any(|file| *file != self.options.file) {
            self.paces.entry(Place::Host).or_default().disturbed(Instant::now());
        }
    }

    fn news(&mut self) {
        self.has_news = true;
        self.show();
    }

    async fn read(&mut self) {
        let file = self.options.file.clone();
        let read = tokio::task::spawn_blocking(move || settings::load(&file)).await;
        match read.unwrap_or_else(|error| Err(vec![Diagnostic::of_file("", error.to_string())])) {
            Ok(settings) => {
                self.refusal = None;
                self.coming = Some(settings);
                self.times.retry = None;
            }
            Err(problems) => {
                problems.iter().for_each(|problem| tracing::error!("{problem}"));
                tracing::error!("the network file is refused; what was in force before stays");
                self.coming = None;
                self.refusal = Some(shown(&problems));
            }
        }
        self.show();
    }

    async fn act(&mut self) {
        let now = Instant::now();
        if now >= self.times.count {
            self.times.count = now + COUNT_EVERY;
            self.metrics.show_passed(&self.ears.passed());
            self.overlays.show(&self.metrics);
        }
        if self.due(now) <= now {
            self.pass().await;
        }
    }

    /// A file that cannot come into force does not keep what is in force from being repaired.
    async fn pass(&mut self) {
        self.times.look = Instant::now() + self.backoff.about(LOOK_EVERY);
        self.times.retry = None;
        let overlays = self.overlays.known();
        let has_news = std::mem::take(&mut self.has_news);
        if let Some(file) = self.coming.clone() {
            match self.keep(Update { file: Some(file), overlays: overlays.clone() }).await {
                Ok(kept) => {
                    self.coming = None;
                    self.refusal = None;
                    self.has_applied = true;
                    self.applied(&kept);
                    return self.done(kept, false);
                }
                Err(error) => {
                    tracing::error!(%error, "the network file cannot come into force; it is tried again");
                    self.metrics.applies.with_label_values(&["failed"]).inc();
                    self.refusal = Some(error.to_string());
                    self.times.retry = Some(Instant::now() + self.backoff.pause());
                }
            }
        }
        match self.keep(Update { file: None, overlays }).await {
            Ok(kept) => {
                if has_news {
                    self.applied(&kept);
                }
                self.done(kept, !has_news);
            }
            Err(error) => {
                self.has_news |= has_news;
                tracing::error!(%error, "the network could not be looked at or put right; it is tried again");
                self.metrics.failures.inc();
                self.metrics.drift.set(1);
                self.failure = Some(error.to_string());
                self.times.retry = Some(Instant::now() + self.backoff.pause());
                self.show();
            }
        }
    }

    async fn keep(&self, update: Update) -> Result<Kept, NetError> {
        let store = Store::to_write(&self.options.state, self.options.wait).await?;
        self.metrics.looks.inc();
        keep(&store, update).await
    }

    fn applied(&self, kept: &Kept) {
        let result = if kept.changes.is_empty() { "unchanged" } else { "changed" };
        self.metrics.applies.with_label_values(&[result]).inc();
        tracing::info!(changes = kept.changes.len(), "what was asked for is in force");
    }

    fn done(&mut self, kept: Kept, is_repair: bool) {
        let now = Instant::now();
        let Kept { changes, gone, yielded, clashes, underlays, waiting, arrived, record, grounds } = kept;
        for workload in gone {
            tracing::info!(workload, "its namespace is gone; forgotten, since the file does not name it");
        }
        for (workload, reason) in waiting.iter().filter(|(id, why)| self.waiting.get(*id) != Some(*why)) {
            tracing::warn!(workload, reason, "a workload waits");
        }
        self.waiting = waiting;
        let clashes = clashes.iter().map(|(network, clash)| format!("network `{network}`: {clash}"));
        self.clashes = clashes.collect();
        self.yielded = yielded.iter().map(ToString::to_string).collect();
        let repaired = if is_repair { self.repaired(&changes, &arrived) } else { BTreeSet::new() };
        if self.times.retry.is_none() {
            self.backoff.reset();
        }
        self.failure = None;
        self.paces.retain(|place, _| grounds.iter().any(|ground| ground.place == *place));
        for place in grounds.iter().map(|ground| &ground.place) {
            let pace = self.paces.entry(place.clone()).or_default();
            pace.looked(now, repaired.contains(place));
        }
        if !changes.is_empty() {
            // What has just been made has numbers that nobody knows yet.
            self.paces.entry(Place::Host).or_default().disturbed(now);
        }
        self.metrics.drift.set(0);
        self.metrics.show(&record, self.waiting.len());
        self.watcher.set_files(self.files(&record));
        self.ears.follow(grounds);
        self.overlays.follow(&record, underlays);
        let overlays = record.settings.networks.iter().filter(|(_, network)| network.overlay.is_some());
        let is_leased = overlays.map(|(name, _)| name).all(|name| record.overlays.contains_key(name));
        self.sight.send_modify(|sight| sight.is_ready = self.has_applied && is_leased);
        self.show();
    }

    /// What was not asked for by anybody, and is no workload that has come: somebody has changed it.
    fn repaired(&self, changes: &[Change], arrived: &BTreeSet<String>) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for change in changes {
            let has_arrived = match (&change.place, &change.to) {
                (Place::Inside(at), _) | (Place::Host, Some(Item::Cable { at, .. })) => {
                    arrived.contains(&at.workload)
                }
                (Place::Host, _) => false,
            };
            if has_arrived || change.to.is_none() {
                tracing::info!("{change}");
            } else {
                tracing::warn!("somebody has changed it, so put right: {change}");
                places.insert(change.place.clone());
            }
        }
        for place in &places {
            let label = if *place == Place::Host { "host" } else { "workload" };
            self.metrics.repairs.with_label_values(&[label]).inc();
        }
        places
    }

    /// The network file, and the namespaces that workloads come and go with.
    fn files(&self, record: &Record) -> Vec<PathBuf> {
        let namespaces = record.settings.workloads.values().map(|workload| workload.namespace.path());
        namespaces.chain([self.options.file.clone()]).collect()
    }

    fn show(&mut self) {
        self.overlays.show(&self.metrics);
        self.metrics.file_refused.set(self.refusal.is_some().into());
        let fights = self.paces.values().filter(|pace| pace.is_fought_over()).count();
        self.metrics.fights.set(i64::try_from(fights).unwrap_or(i64::MAX));
        let waiting = self.waiting.iter().map(|(id, why)| format!("workload `{id}` waits: {why}"));
        let left_out = self.yielded.iter().map(|item| format!("left out, since there is another: {item}"));
        let troubles = self.refusal.iter().chain(&self.failure).chain(&self.clashes).cloned().chain(waiting);
        let troubles = troubles.chain(self.overlays.troubles()).chain(left_out).collect();
        self.sight.send_modify(|sight| sight.troubles = troubles);
    }
}

fn shown(problems: &[Diagnostic]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
