//! What this sidecar runs, written down in the registry for those who push: which version, or why not.
//!
//! One key per policy, written when it changes and kept by a lease, so that a sidecar that has gone is forgotten. It is
//! a report and no more: nothing here changes what serves, and a registry that takes no writes is said once.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::config::RegistrySource;
use crate::control::registry::kv::{Kv, Lease, Step};
use crate::http_client::Error;
use crate::metrics::Metrics;
use crate::release::{Layout, Running, shortened};

/// After a sidecar has gone, so long at most it is still among those that run.
const TTL: Duration = Duration::from_secs(90);
const RENEWALS: u32 = 3;
/// Changes that come closer together are written as one.
const REST: Duration = Duration::from_millis(500);
/// How long the end waits for the registry to forget this sidecar; the lease does the rest.
pub const LEAVE_TIME: Duration = Duration::from_secs(1);

/// By the name of the release.
pub type Report = BTreeMap<String, Running>;

#[derive(Debug)]
pub struct Reporter {
    kv: Kv,
    layout: Layout,
    /// `None`: this sidecar is about to end.
    report: watch::Receiver<Option<Report>>,
    lease: Option<Lease>,
    written: Report,
    metrics: Metrics,
    backoff: Backoff,
    /// The last attempt failed, which has been said.
    failing: bool,
}

impl Reporter {
    /// Starts the task; `None` with a file. The other end of what is returned goes when the task ends.
    pub fn start(
        source: &RegistrySource,
        report: watch::Receiver<Option<Report>>,
        metrics: &Metrics,
    ) -> Option<watch::Receiver<()>> {
        let (running, runs) = watch::channel(());
        let reporter = Self {
            kv: Kv::of(source)?,
            layout: Layout::of(source)?,
            report,
            lease: None,
            written: Report::new(),
            metrics: metrics.clone(),
            backoff: Backoff::default(),
            failing: false,
        };
        tokio::spawn(async move {
            reporter.run().await;
            drop(running);
        });
        Some(runs)
    }

    async fn run(mut self) {
        loop {
            let Some(report) = self.report.borrow_and_update().clone() else { break };
            let look_at = Instant::now() + self.turn(&report).await;
            // Without a report and without a lease there is nothing to look after.
            let idle = self.lease.is_none() && report.is_empty();
            tokio::select! {
                () = sleep_until(look_at), if !idle => {}
                changed = self.report.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    if self.report.borrow().is_some() {
                        sleep(REST).await;
                    }
                }
            }
        }
        // Otherwise the lease ends by itself.
        let _ = timeout(LEAVE_TIME, self.end()).await;
    }

    /// Writes what has changed, and renews. Answers when to look again.
    async fn turn(&mut self, report: &Report) -> Duration {
        match self.write(report).await {
            Ok(()) => {
                self.backoff.reset();
                self.failing = false;
                self.backoff.about(TTL / RENEWALS)
            }
            Err(error) => {
                self.metrics.registry_failures.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "what runs here cannot be reported to the registry");
                }
                self.kv.turn();
                self.backoff.pause()
            }
        }
    }

    async fn write(&mut self, report: &Report) -> Result<(), Error> {
        if report.is_empty() {
            return self.end().await;
        }
        if let Some(lease) = &self.lease
            && !self.kv.renew(lease).await?
        {
            self.lease = None;
        }
        let lease = match &self.lease {
            Some(lease) => lease.clone(),
            None => {
                self.written.clear();
                self.kv.grant(TTL).await?
            }
        };
        self.lease = Some(lease.clone());
        let gone: Vec<String> =
            self.written.keys().filter(|name| !report.contains_key(*name)).cloned().collect();
        for name in gone {
            let Some(old) = self.written.remove(&name) else { continue };
            self.kv.change(&[Step::Delete(self.layout.running(&name, &old.sidecar))]).await?;
        }
        for (name, running) in report {
            if self.written.get(name) == Some(running) {
                continue;
            }
            // Text and numbers: it cannot fail.
            let value = serde_json::to_vec(running).unwrap_or_default();
            self.kv.put_leased(&self.layout.running(name, &running.sidecar), &value, &lease).await?;
            self.written.insert(name.clone(), running.clone());
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        self.written.clear();
        match self.lease.take() {
            Some(lease) => self.kv.end(&lease).await,
            None => Ok(()),
        }
    }
}

/// A name for this process that its host's other sidecars do not have, fit for a key.
pub fn sidecar_name() -> String {
    let system = rustix::system::uname();
    let host = shortened(&system.nodename().to_string_lossy());
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    format!("{}-{}", host.chars().map(plain).collect::<String>(), std::process::id())
}
