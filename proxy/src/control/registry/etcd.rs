//! The catalogue from etcd.
//!
//! `Follower` lists what is below `<prefix>/services/` once, then watches it from that revision on. Whatever ends
//! the watch, it resumes where it was; it lists again only if that revision has been compacted away or the store is
//! not the one it was. Beside the watch, linearizable reads through the same member prove that it hears from the
//! quorum: a watch through a member that was cut off is silent, not broken.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::News;
use super::instance::{BadEntries, Directory, Instance, service_name};
use crate::backoff::Backoff;
use crate::config::Etcd;
use crate::etcd::Gateway;
use crate::etcd::wire::{self, Event, KeyValue, Watched};
use crate::http_client::{Error, Lines};
use crate::metrics::Metrics;
use crate::snapshot::Delta;

/// How often the registry is asked whether it is still the one it was.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// A watch is begun anew after this: one that has died without a sign does no lasting harm.
const WATCH_AGE_MAX: Duration = Duration::from_secs(600);
/// Keys fetched at once.
const PAGE: usize = 2_000;
/// Lines of a watch taken together.
const LINES_MAX: usize = 64;

/// Follows the services in one etcd.
#[derive(Debug)]
pub struct Follower {
    gateway: Gateway,
    ranges: Vec<Range>,
    prefix: String,
    directory: Directory,
    bad: BadEntries,
    store: Option<Store>,
    metrics: Metrics,
    news: mpsc::Sender<News>,
    backoff: Backoff,
}

/// Keys that are followed, from `from` to before `to`.
#[derive(Debug)]
struct Range {
    from: String,
    to: String,
    /// First revision not seen yet.
    next: i64,
}

/// Which store the directory is from, and as of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Store {
    cluster: u64,
    revision: i64,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    Failed(Error),
    /// The directory can no longer be brought up to date step by step; said is why.
    Resync(&'static str),
    /// Control has ended.
    Unwanted,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Follower {
    pub fn new(
        etcd: &Etcd,
        services: Option<BTreeSet<String>>,
        metrics: Metrics,
        news: mpsc::Sender<News>,
    ) -> Self {
        let prefix = format!("{}/services/", etcd.prefix);
        let range = |from: String| Range { to: wire::after_prefix(&from), from, next: 0 };
        let ranges = match services {
            None => vec![range(prefix.clone())],
            Some(names) => names.iter().map(|name| range(format!("{prefix}{name}/"))).collect(),
        };
        Self {
            gateway: Gateway::new(etcd),
            ranges,
            prefix,
            directory: Directory::default(),
            bad: BadEntries::default(),
            store: None,
            metrics,
            news,
            backoff: Backoff::default(),
        }
    }

    /// Until control has ended.
    pub async fn run(mut self) {
        loop {
            let Err(end) = self.session().await;
            match end {
                End::Unwanted => return,
                End::Resync(reason) => {
                    tracing::warn!(reason, "the registry is read anew");
                    self.metrics.registry_resyncs.with_label_values(&[reason]).inc();
                    self.store = None;
                }
                End::Failed(error) => {
                    self.metrics.registry_failures.inc();
                    if self.news.send(News::Trouble(format!("etcd: {error}"))).await.is_err() {
                        return;
                    }
                    self.gateway.turn();
                }
            }
            sleep(self.backoff.pause()).await;
        }
    }

    async fn session(&mut self) -> Result<Infallible, End> {
        self.confirm().await?;
        match self.store {
            Some(_) => self.check_history().await?,
            None => self.list().await?,
        }
        let mut watch = self.watch().await?;
        self.backoff.reset();
        let mut ends = Instant::now() + self.backoff.about(WATCH_AGE_MAX);
        let mut confirm_at = Instant::now() + self.backoff.about(CONFIRM_EVERY);
        loop {
            tokio::select! {
                line = watch.next() => {
                    let Some(line) = line? else { return Err(self.ended("the watch has ended").into()) };
                    let mut watched = vec![self.watched(&line)?];
                    // What has come meanwhile makes one change.
                    while watched.len() < LINES_MAX
                        && let Ok(Ok(Some(line))) = timeout(Duration::ZERO, watch.next()).await
                    {
                        watched.push(self.watched(&line)?);
                    }
                    self.take(watched).await?;
                }
                () = sleep_until(confirm_at) => {
                    self.confirm().await?;
                    confirm_at = Instant::now() + self.backoff.about(CONFIRM_EVERY);
                }
                // From where this one is: nothing is lost between the two.
                () = sleep_until(ends) => {
                    watch = self.watch().await?;
                    ends = Instant::now() + self.backoff.about(WATCH_AGE_MAX);
                }
            }
        }
    }

    fn ended(&self, why: &str) -> Error {
        Error::Nonsense(self.gateway.server(), why.to_owned())
    }

    /// Asks the quorum; a store that has gone back, or is another one, ends the session.
    async fn confirm(&mut self) -> Result<(), End> {
        let header = self.gateway.range(self.prefix.as_bytes(), b"", 1, 0).await?.header;
        if let Some(store) = self.store {
            if header.cluster_id != store.cluster {
                return Err(End::Resync("another-store"));
            }
            if header.revision < store.revision {
                return Err(End::Resync("gone-back"));
            }
            self.tell(News::Confirmed).await?;
        }
        Ok(())
    }

    /// Whether everything since the last event seen can still be told. A watch alone does not say so: older versions of
    /// etcd silently skip a deletion in the very revision that was compacted (etcd-io/etcd#18089).
    async fn check_history(&mut self) -> Result<(), End> {
        let seen = self.ranges.iter().map(|range| range.next - 1).min().unwrap_or_default();
        match self.gateway.range(self.prefix.as_bytes(), b"", 1, seen).await {
            Ok(_) => Ok(()),
            Err(Error::Refused(_, _, text)) if text.contains("compacted") => Err(End::Resync("compacted")),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything, page by page and all of one revision.
    async fn list(&mut self) -> Result<(), End> {
        let before = std::mem::take(&mut self.directory);
        let mut store: Option<Store> = None;
        for index in 0..self.ranges.len() {
            let (mut from, to) =
                (self.ranges[index].from.clone().into_bytes(), self.ranges[index].to.clone());
            loop {
                let revision = store.map_or(0, |store| store.revision);
                let page = self.gateway.range(&from, to.as_bytes(), PAGE, revision).await;
                let page = page.inspect_err(|_| self.store = None)?;
                let header = &page.header;
                store.get_or_insert(Store { cluster: header.cluster_id, revision: header.revision });
                for kv in &page.kvs {
                    self.put(kv, Some(&before));
                }
                match page.kvs.last().filter(|_| page.more) {
                    Some(last) => from = [&last.key[..], &[0]].concat(),
                    None => break,
                }
            }
        }
        let names: Vec<_> = self.directory.names().cloned().collect();
        let services = names.into_iter().map(|name| {
            let records = self.directory.records(&name);
            (name, records)
        });
        let delta = Delta { whole: true, services: services.collect() };
        let next = store.map_or(0, |store| store.revision) + 1;
        self.ranges.iter_mut().for_each(|range| range.next = next);
        self.store = store;
        let loads = self.directory.loads();
        self.tell(News::Changed(delta)).await?;
        self.tell(News::Loads(loads)).await
    }

    async fn watch(&mut self) -> Result<Lines, End> {
        let requests: Vec<String> = (1_i64..)
            .zip(&self.ranges)
            .map(|(id, range)| wire::watch_request(id, &range.from, &range.to, range.next))
            .collect();
        Ok(self.gateway.watch(requests.concat()).await?)
    }

    fn watched(&self, line: &[u8]) -> Result<Watched, End> {
        let watched = wire::watched(line).map_err(|why| self.ended(&why))?;
        if watched.compact_revision > 0 {
            return Err(End::Resync("compacted"));
        }
        if watched.canceled {
            return Err(self.ended(&format!("the watch was cancelled: {}", watched.reason)).into());
        }
        Ok(watched)
    }

    async fn take(&mut self, watched: Vec<Watched>) -> Result<(), End> {
        let mut touched = BTreeSet::new();
        let mut loads = BTreeMap::new();
        for one in watched {
            for event in &one.events {
                let kv = event.kv();
                let Some((service, id)) = self.names_of(&kv.key) else { continue };
                let before = self.directory.get(&service, &id).map(|instance| instance.record.clone());
                match event {
                    Event::Put(kv) => self.put(kv, None),
                    Event::Delete(_) => self.directory.remove(&service, &id),
                }
                let after = self.directory.get(&service, &id);
                let name = service.as_str().into();
                loads.extend(after.and_then(|i| i.load_at(&name)).map(|load| ((service.clone(), id), load)));
                if after.map(|instance| &instance.record) != before.as_ref() {
                    touched.insert(service);
                }
            }
            // A line without events says that there are none up to here.
            let progress = (!one.created && one.events.is_empty()).then_some(one.header.revision);
            let last = one.events.iter().map(|event| event.kv().mod_revision).max().or(progress);
            let place = usize::try_from(one.watch_id - 1).ok().and_then(|at| self.ranges.get_mut(at));
            if let (Some(range), Some(last)) = (place, last) {
                // Parts of one revision may come in several answers: after the last of them comes a later one.
                range.next = range.next.max(if one.fragment { last } else { last + 1 });
            }
            if let Some(store) = &mut self.store {
                store.revision = store.revision.max(one.header.revision);
            }
        }
        if !touched.is_empty() {
            let services = touched.into_iter().map(|name| {
                let records = self.directory.records(&name);
                (name.as_str().into(), records)
            });
            self.tell(News::Changed(Delta { whole: false, services: services.collect() })).await?;
        }
        if !loads.is_empty() {
            self.tell(News::Loads(loads.into_values().collect())).await?;
        }
        Ok(())
    }

    /// Takes an instance over. One that cannot be read leaves what it was before, if anything.
    fn put(&mut self, kv: &KeyValue, before: Option<&Directory>) {
        let Some((service, id)) = self.names_of(&kv.key) else { return };
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        match service_name(&service).and_then(|()| Instance::read(&kv.value, kv.mod_revision)) {
            Ok(instance) => {
                self.bad.good(&key);
                self.directory.put(&service, &id, instance);
            }
            Err(reason) => {
                self.bad.note(&self.metrics, &key, reason);
                if let Some(old) = before.and_then(|before| before.get(&service, &id)) {
                    self.directory.put(&service, &id, old.clone());
                }
            }
        }
    }

    /// Service and instance; `None` for a key of another form, which is somebody else's.
    fn names_of(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (service, id) = rest.split_once('/')?;
        (!id.is_empty()).then(|| (service.to_owned(), id.to_owned()))
    }

    async fn tell(&self, news: News) -> Result<(), End> {
        self.news.send(news).await.map_err(|_| End::Unwanted)
    }
}
