//! Tells when watched files may have changed.
//!
//! Control owns one `Watcher`, the embedded registry another; each awaits `changed`. inotify on the directories says when to look, a poll catches what
//! it does not see (network file systems, directories that come and go). Only "may have changed" is promised: the
//! same content can be reported twice, so the caller compares. Invariant: a change made after `set_files` returned
//! is reported, however the file was written: in place, by renaming over it, or by swapping a link on its path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A burst of events is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(20);
/// Files that are written without pause are still reported this often.
const BURST_MAX: Duration = Duration::from_millis(250);
/// How often files are looked at without any event.
const POLL: Duration = Duration::from_secs(2);
/// Events waiting to be looked at; if more come, every file counts as changed.
const EVENTS_MAX: usize = 256;

/// Watches a set of files.
#[derive(Debug)]
pub struct Watcher {
    /// `None`: inotify is not to be had, so only the poll works.
    notifier: Option<RecommendedWatcher>,
    events: mpsc::Receiver<PathBuf>,
    events_lost: Arc<AtomicBool>,
    files: BTreeMap<PathBuf, Watched>,
    directories: BTreeMap<PathBuf, Identity>,
    /// To be reported by `changed`.
    dirty: BTreeSet<PathBuf>,
    /// Start of the events that no quiet has followed yet.
    burst: Option<Instant>,
    poll: Duration,
    next_poll: Instant,
}

#[derive(Debug)]
struct Watched {
    absolute: PathBuf,
    /// Where links on the path lead, if they do.
    target: Option<PathBuf>,
    /// `None` while there is no file.
    stamp: Option<Stamp>,
}

/// What differs after a change, as good as always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    identity: Identity,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Watcher {
    /// Watches `files`, which need not exist. Call it, or `set_files`, before reading them.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let events_lost = Arc::new(AtomicBool::new(false));
        let notifier = notifier(sender, Arc::clone(&events_lost));
        if let Err(error) = &notifier {
            tracing::warn!(%error, "no file notifications; files are looked at every {POLL:?}");
        }
        Self::build(files, notifier.ok(), events, events_lost, POLL)
    }

    fn build(
        files: impl IntoIterator<Item = PathBuf>,
        notifier: Option<RecommendedWatcher>,
        events: mpsc::Receiver<PathBuf>,
        events_lost: Arc<AtomicBool>,
        poll: Duration,
    ) -> Self {
        let mut watcher = Self {
            notifier,
            events,
            events_lost,
            files: BTreeMap::new(),
            directories: BTreeMap::new(),
            dirty: BTreeSet::new(),
            burst: None,
            poll,
            next_poll: Instant::now() + poll,
        };
        watcher.set_files(files);
        watcher
    }

    /// Replaces the set of files. Those that stay keep their state; new ones are as they are now.
    pub fn set_files(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let mut before = std::mem::take(&mut self.files);
        for file in files {
            let watched = before.remove(&file).unwrap_or_else(|| Watched::new(&file));
            self.files.insert(file, watched);
        }
        self.dirty.retain(|file| self.files.contains_key(file));
        self.watch_directories();
        // What changed between the first look and the start of the watch.
        self.look();
    }

    /// Waits until files may have changed, and says which. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            self.wait().await;
            self.look();
            self.watch_directories();
            if !self.dirty.is_empty() {
                return std::mem::take(&mut self.dirty).into_iter().collect();
            }
        }
    }

    /// Until a burst of events is over, or the poll is due.
    async fn wait(&mut self) {
        if !self.dirty.is_empty() {
            self.burst.get_or_insert_with(Instant::now);
        }
        loop {
            let until = match self.burst {
                Some(start) => (Instant::now() + QUIET).min(start + BURST_MAX),
                None => self.next_poll,
            };
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                Some(path) = self.events.recv() => {
                    self.note(&path);
                    self.burst.get_or_insert_with(Instant::now);
                }
            }
        }
        self.burst = None;
        self.next_poll = Instant::now() + self.poll;
    }

    fn note(&mut self, path: &Path) {
        for (file, watched) in &self.files {
            if watched.absolute == path || watched.target.as_deref() == Some(path) {
                self.dirty.insert(file.clone());
            }
        }
    }

    /// Compares every file with what it was.
    fn look(&mut self) {
        let all = self.events_lost.swap(false, Ordering::AcqRel);
        for (file, watched) in &mut self.files {
            if watched.look() || all {
                self.dirty.insert(file.clone());
            }
        }
    }

    /// Watches the directories where a file is named or really lies, as far as they exist now.
    fn watch_directories(&mut self) {
        let Some(notifier) = &mut self.notifier else { return };
        let places = self.files.values().flat_map(|file| [Some(&file.absolute), file.target.as_ref()]);
        let wanted: BTreeSet<_> = places.flatten().filter_map(|path| path.parent()).collect();
        self.directories.retain(|directory, identity| {
            let keep = wanted.contains(directory.as_path())
                && std::fs::metadata(directory).is_ok_and(|metadata| Identity::of(&metadata) == *identity);
            if !keep {
                // It is gone from inotify already if the directory was deleted.
                let _ = notifier.unwatch(directory);
            }
            keep
        });
        for directory in wanted {
            if self.directories.contains_key(directory) {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(directory) else { continue };
            match notifier.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.directories.insert(directory.to_owned(), Identity::of(&metadata))),
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "cannot watch; left to the poll");
                }
            }
        }
    }
}

impl Watched {
    fn new(file: &Path) -> Self {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let mut watched = Self { absolute, target: None, stamp: None };
        watched.look();
        watched
    }

    /// Whether the file differs from the last look.
    fn look(&mut self) -> bool {
        let stamp = std::fs::metadata(&self.absolute).ok().map(|metadata| Stamp::of(&metadata));
        self.target = std::fs::canonicalize(&self.absolute).ok().filter(|target| *target != self.absolute);
        let differs = stamp != self.stamp;
        self.stamp = stamp;
        differs
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.size(),
            identity: Identity::of(metadata),
        }
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Runs on notify's own thread.
fn notifier(
    sender: mpsc::Sender<PathBuf>,
    events_lost: Arc<AtomicBool>,
) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let paths = match event {
            Ok(event) if event.need_rescan() => vec![PathBuf::new()],
            Ok(event) if is_change(event.kind) => event.paths,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "file notifications failed");
                vec![PathBuf::new()]
            }
        };
        for path in paths {
            // An empty path belongs to no file: something is lost. The receiver wakes for either.
            if path.as_os_str().is_empty() {
                events_lost.store(true, Ordering::Release);
            }
            if sender.try_send(path).is_err() {
                events_lost.store(true, Ordering::Release);
            }
        }
    })
}

/// Reading is none: the caller's own reading would otherwise report the file again.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests;
