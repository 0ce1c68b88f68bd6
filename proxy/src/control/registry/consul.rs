//! Consul's HTTP API, as far as a sidecar needs it; the embedded registry speaks the same part.
//!
//! One task per followed service holds a blocking query on `/v1/health/service/<name>`; another, unless services are
//! named, one on `/v1/catalog/services`. They report to `follow`, which tells control. Each answer is the whole truth
//! about one service, so nothing has to be resumed; an index that goes back is forgotten, as the rules of blocking
//! queries say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::News;
use super::instance::{BadEntries, Load, service_name};
use crate::backoff::Backoff;
use crate::config::Consul;
use crate::http_client::{Answer, Client, Error};
use crate::metrics::Metrics;
use crate::snapshot::{Delta, Records};

pub mod wire;

/// How long the server may hold a query back.
const WAIT: Duration = Duration::from_secs(30);
/// At most so many answers at once, and one more in each pause: a service in turmoil costs no more.
const BURST: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Services followed at once: each holds a connection.
const FOLLOWED_MAX: usize = 512;
/// Reports that may wait.
const REPORTS_MAX: usize = 64;
/// After the list of services, how long the first word waits for all of them.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// A client with what the configuration says about each request.
pub fn client(consul: &Consul) -> Client {
    let mut client = Client::new(consul.servers.clone(), consul.tls.clone(), consul.timeout);
    // A token is printable ASCII: configuration sees to it.
    if let Some(Ok(mut token)) = consul.token.as_ref().map(|token| HeaderValue::from_str(&token.0)) {
        token.set_sensitive(true);
        client.fields.push((HeaderName::from_static("x-consul-token"), token));
    }
    client
}

/// What a task has learned.
#[derive(Debug)]
enum Report {
    Services(BTreeSet<String>),
    Service {
        name: Arc<str>,
        records: Records,
        loads: Vec<Load>,
    },
    /// Of the catalogue (`None`) or of one service.
    Failed {
        name: Option<Arc<str>>,
        error: Error,
    },
}

#[derive(Debug)]
struct Follower {
    consul: Consul,
    metrics: Metrics,
    news: mpsc::Sender<News>,
    reports: mpsc::Sender<Report>,
    /// Their tasks, which end with them.
    followed: BTreeMap<Arc<str>, Task>,
    known: BTreeMap<Arc<str>, Records>,
    failing: BTreeSet<Option<Arc<str>>>,
    /// Until when the first word waits; `None` once it has been said.
    first_until: Option<Instant>,
    /// Whether all has been said once.
    complete: bool,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Until control has ended.
pub async fn follow(
    consul: Consul,
    services: Option<BTreeSet<String>>,
    metrics: Metrics,
    news: mpsc::Sender<News>,
) {
    let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
    let mut follower = Follower {
        consul,
        metrics,
        news,
        reports,
        followed: BTreeMap::new(),
        known: BTreeMap::new(),
        failing: BTreeSet::new(),
        first_until: None,
        complete: false,
    };
    let _catalogue = match services {
        Some(names) => {
            follower.follow_only(names);
            None
        }
        None => {
            let query = Query::new(&follower.consul, "/v1/catalog/services", None);
            Some(Task(tokio::spawn(query.run(follower.metrics.clone(), follower.reports.clone()))))
        }
    };
    loop {
        let first_at = follower.first_until.unwrap_or_else(|| Instant::now() + WAIT);
        let told = tokio::select! {
            Some(report) = reported.recv() => follower.report(report).await,
            () = sleep_until(first_at) => follower.first().await,
            () = follower.news.closed() => return,
        };
        if told.is_err() {
            return;
        }
    }
}

type Told = Result<(), mpsc::error::SendError<News>>;

impl Follower {
    async fn report(&mut self, report: Report) -> Told {
        match report {
            Report::Services(names) => {
                self.failing.remove(&None);
                let before = self.followed.len();
                let gone = self.follow_only(names);
                if self.followed.is_empty() && self.first_until.is_some() || gone && self.complete {
                    return self.whole().await;
                }
                if before == self.followed.len() { self.confirmed().await } else { Ok(()) }
            }
            Report::Service { name, records, loads } => {
                self.failing.remove(&Some(Arc::clone(&name)));
                if !self.followed.contains_key(&name) {
                    return Ok(());
                }
                let same = self.known.get(&name) == Some(&records);
                self.known.insert(Arc::clone(&name), Arc::clone(&records));
                if !self.complete && self.known.len() == self.followed.len() {
                    return self.whole().await;
                }
                if self.first_until.is_none() && !same {
                    let services = [(name, Some(records))].into();
                    self.news.send(News::Changed(Delta { whole: false, services })).await?;
                }
                if !loads.is_empty() {
                    self.news.send(News::Loads(loads)).await?;
                }
                self.confirmed().await
            }
            Report::Failed { name, error } => {
                self.metrics.registry_failures.inc();
                self.failing.insert(name);
                self.news.send(News::Trouble(format!("consul: {error}"))).await
            }
        }
    }

    /// Everything that is known, and nothing else is.
    async fn whole(&mut self) -> Told {
        self.complete = true;
        self.first_until = None;
        let services = self.known.iter().map(|(name, records)| (Arc::clone(name), Some(Arc::clone(records))));
        self.news.send(News::Changed(Delta { whole: true, services: services.collect() })).await
    }

    /// Some services have not answered: the others need not wait for them.
    async fn first(&mut self) -> Told {
        if self.first_until.take().is_none() || self.known.is_empty() {
            return Ok(());
        }
        let services = self.known.iter().map(|(name, records)| (Arc::clone(name), Some(Arc::clone(records))));
        self.news.send(News::Changed(Delta { whole: false, services: services.collect() })).await
    }

    async fn confirmed(&mut self) -> Told {
        match self.failing.is_empty() && self.complete {
            true => self.news.send(News::Confirmed).await,
            false => Ok(()),
        }
    }

    /// Begins and ends tasks; answers whether any service has gone.
    fn follow_only(&mut self, names: BTreeSet<String>) -> bool {
        let before = self.followed.len();
        self.followed.retain(|name, _| names.contains(&**name));
        let gone = before > self.followed.len();
        self.known.retain(|name, _| names.contains(&**name));
        self.failing.retain(|name| name.as_ref().is_none_or(|name| names.contains(&**name)));
        for name in names {
            if self.followed.contains_key(name.as_str()) {
                continue;
            }
            if self.followed.len() >= FOLLOWED_MAX {
                tracing::error!(FOLLOWED_MAX, "too many services to follow; name those that are needed");
                break;
            }
            let path = format!("/v1/health/service/{name}");
            let name: Arc<str> = name.into();
            let query = Query::new(&self.consul, &path, Some(Arc::clone(&name)));
            let task = Task(tokio::spawn(query.run(self.metrics.clone(), self.reports.clone())));
            self.followed.insert(name, task);
        }
        if !self.complete {
            self.first_until.get_or_insert_with(|| Instant::now() + FIRST_WAIT);
        }
        gone
    }
}

/// A blocking query, asked again and again.
struct Query {
    client: Client,
    path: String,
    /// `None`: the list of services.
    name: Option<Arc<str>>,
    index: u64,
    backoff: Backoff,
    /// Answers that may still come without a pause, and since when they are counted.
    allowed: u32,
    since: Instant,
}

impl Query {
    fn new(consul: &Consul, path: &str, name: Option<Arc<str>>) -> Self {
        let datacenter = consul.datacenter.as_ref().map(|dc| format!("&dc={dc}")).unwrap_or_default();
        Self {
            client: client(consul),
            path: format!("{path}?wait={}s{datacenter}", WAIT.as_secs()),
            name,
            index: 0,
            backoff: Backoff::default(),
            allowed: BURST,
            since: Instant::now(),
        }
    }

    async fn run(mut self, metrics: Metrics, reports: mpsc::Sender<Report>) {
        let mut bad = BadEntries::default();
        loop {
            let report = match self.ask(&metrics).await {
                Ok(answer) => self.read(&answer, &metrics, &mut bad),
                Err(error) => Err(error),
            };
            match report {
                Ok(Some(report)) => {
                    self.backoff.reset();
                    if reports.send(report).await.is_err() {
                        return;
                    }
                    self.rest().await;
                }
                Ok(None) => self.rest().await,
                Err(error) => {
                    // What it said about itself may be as wrong as the rest.
                    self.index = 0;
                    let name = self.name.clone();
                    if reports.send(Report::Failed { name, error }).await.is_err() {
                        return;
                    }
                    self.client.turn();
                    sleep(self.backoff.pause()).await;
                }
            }
        }
    }

    async fn ask(&mut self, metrics: &Metrics) -> Result<Answer, Error> {
        let path = format!("{}&index={}", self.path, self.index);
        // A server adds up to a sixteenth of the wait.
        let held = if self.index == 0 { Duration::ZERO } else { WAIT + WAIT / 16 };
        let within = held + self.client.timeout;
        let answer = self.client.exchange(Method::GET, &path, Bytes::new(), within).await?;
        let index = answer.fields.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(index) = index else {
            return Err(Error::Nonsense(self.client.server(), "no X-Consul-Index".to_owned()));
        };
        if index < self.index {
            metrics.registry_resyncs.with_label_values(&["gone-back"]).inc();
        }
        self.index = next_index(self.index, index);
        Ok(answer)
    }

    /// `None`: a name that no service can have.
    fn read(
        &self,
        answer: &Answer,
        metrics: &Metrics,
        bad: &mut BadEntries,
    ) -> Result<Option<Report>, Error> {
        let nonsense = |error: serde_json::Error| Error::Nonsense(self.client.server(), error.to_string());
        let Some(name) = &self.name else {
            let names = wire::services(&answer.body).map_err(nonsense)?;
            let (good, foreign): (BTreeSet<_>, BTreeSet<_>) =
                names.into_iter().partition(|name| service_name(name).is_ok());
            for name in foreign {
                bad.note(metrics, &name, "it cannot be the name of a service".to_owned());
            }
            return Ok(Some(Report::Services(good)));
        };
        let (mut all, mut loads) = (BTreeMap::new(), Vec::new());
        for entry in wire::entries(&answer.body).map_err(nonsense)? {
            let id = format!("{name}/{}", entry.id());
            match entry.instance() {
                Ok(instance) => {
                    bad.good(&id);
                    loads.extend(instance.load_at(name));
                    let place = all.entry(instance.record.address).or_insert_with(|| instance.clone());
                    if place.revision <= instance.revision {
                        *place = instance;
                    }
                }
                Err(reason) => bad.note(metrics, &id, reason),
            }
        }
        let records = all.into_values().map(|instance| instance.record).collect();
        Ok(Some(Report::Service { name: Arc::clone(name), records, loads }))
    }

    async fn rest(&mut self) {
        let earned = self.since.elapsed().as_millis() / PAUSE.as_millis();
        if earned > 0 {
            self.allowed = self.allowed.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.since = Instant::now();
        }
        match self.allowed.checked_sub(1) {
            Some(left) => self.allowed = left,
            None => sleep(PAUSE).await,
        }
    }
}

/// One that goes back means nothing any more, and 0 would not block.
fn next_index(before: u64, now: u64) -> u64 {
    if now < before { 0 } else { now.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_is_forgotten() {
        assert_eq!([next_index(0, 0), next_index(5, 7), next_index(7, 7), next_index(7, 3)], [1, 7, 7, 0]);
    }
}
