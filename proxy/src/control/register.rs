//! The workload's own entry in the registry: written, kept, repaired, and taken back before the proxy drains.
//!
//! One task that control starts and stops. It lives on its own connection, so that neither the catalogue nor the
//! entry holds up the other. Invariant: whatever happened to the entry (lease ended, key deleted, registry restored
//! empty), the next renewal finds out and writes it anew.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::config::{Config, Register, RegistrySource};
use crate::http_client::Error;
use crate::metrics::Metrics;
use entry::{Entry, State};

pub mod entry;
pub mod health;
pub mod load;

/// How long a stop waits for the registry to take the entry back; its time to live does the rest.
const LEAVE_TIME: Duration = Duration::from_secs(3);
/// Between saying that the workload drains and taking the entry away: others see the one before the other, and have
/// turned to other endpoints when the drain begins.
const LEAVE_NOTICE: Duration = Duration::from_millis(300);
/// Renewals within one time to live.
const RENEWALS: u32 = 3;
/// Loads closer together than this are the same.
const LOAD_STEP: f64 = 0.02;

/// How the task ends.
#[derive(Debug)]
enum Stop {
    /// The entry is taken back, which is answered.
    Leave(oneshot::Sender<()>),
    /// The entry is somebody else's by now.
    Abandon,
}

/// The running task.
#[derive(Debug, Clone)]
pub struct Registration {
    stop: mpsc::Sender<Stop>,
}

impl Registration {
    /// `None` if nothing is to be registered.
    pub fn start(config: &Config, metrics: &Metrics) -> Option<Self> {
        let register = config.registry.register.clone()?;
        let entry = match &config.registry.source {
            // Configuration refuses it.
            RegistrySource::File(_) => return None,
            RegistrySource::Etcd(etcd) => Entry::etcd(etcd, &register),
            RegistrySource::Consul(consul) => Entry::consul(consul, &register),
        };
        let (health, healthy) = watch::channel(register.check.is_none());
        metrics.workload_healthy.set(i64::from(register.check.is_none()));
        if let Some(check) = register.check.clone() {
            tokio::spawn(health::watch(check, health, metrics.workload_healthy.clone()));
        }
        let (stop, stopped) = mpsc::channel(1);
        let task = Task { entry, register, metrics: metrics.clone(), healthy, backoff: Backoff::default() };
        tokio::spawn(task.run(stopped));
        Some(Self { stop })
    }

    /// Takes the entry back. Returns when the registry has, or after a bounded time.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        let ask = async {
            // If the task is gone, so is its entry before long.
            if self.stop.send(Stop::Leave(reply)).await.is_ok() {
                let _ = done.await;
            }
        };
        if timeout(LEAVE_TIME, ask).await.is_err() {
            tracing::warn!("the registry does not take the workload's entry back; it will expire");
        }
    }

    /// Touches the entry no more.
    pub async fn abandon(&self) {
        // If the task is gone, it does not either.
        let _ = self.stop.send(Stop::Abandon).await;
    }
}

struct Task {
    entry: Entry,
    register: Register,
    metrics: Metrics,
    healthy: watch::Receiver<bool>,
    backoff: Backoff,
}

impl Task {
    async fn run(mut self, mut stopped: mpsc::Receiver<Stop>) {
        let mut state = State { healthy: *self.healthy.borrow(), draining: false, load: None };
        let mut meter = load::Meter::default();
        let mut load_at = Instant::now();
        let mut renew_at = Instant::now();
        let mut checked = true;
        loop {
            tokio::select! {
                stop = stopped.recv() => {
                    let reply = match stop {
                        Some(Stop::Abandon) => return,
                        Some(Stop::Leave(reply)) => Some(reply),
                        None => None,
                    };
                    state.draining = true;
                    self.leave(&state).await;
                    // Whoever asked may have given up waiting.
                    let _ = reply.map(|reply| reply.send(()));
                    return;
                }
                () = sleep_until(renew_at) => {}
                changed = self.healthy.changed(), if checked => {
                    // Without a check there is nobody to change it.
                    checked = changed.is_ok();
                    state.healthy = *self.healthy.borrow();
                }
                () = sleep_until(load_at), if self.register.report_load.is_some() => {
                    load_at = Instant::now() + self.register.report_load.unwrap_or(LEAVE_TIME);
                    let Some(load) = meter.read() else { continue };
                    if state.load.is_some_and(|old| (old - load).abs() < LOAD_STEP) {
                        continue;
                    }
                    state.load = Some(load);
                }
            }
            renew_at = Instant::now() + self.announce(&state).await;
        }
    }

    /// Writes the entry if it is not there as it should be. Answers when to look again.
    async fn announce(&mut self, state: &State) -> Duration {
        match self.entry.announce(state).await {
            Ok(anew) => {
                if anew {
                    tracing::info!(service = self.register.service, id = self.register.id, "registered");
                    self.metrics.registrations.inc();
                }
                self.metrics.registered.set(1);
                self.backoff.reset();
                self.backoff.about(self.register.ttl / RENEWALS)
            }
            Err(error) => {
                self.failed(&error);
                self.entry.turn();
                self.backoff.pause().min(self.register.ttl / RENEWALS)
            }
        }
    }

    fn failed(&self, error: &Error) {
        self.metrics.registry_failures.inc();
        if self.metrics.registered.get() == 1 {
            tracing::warn!(%error, "the workload's registration cannot be renewed");
        }
        self.metrics.registered.set(0);
    }

    async fn leave(&mut self, state: &State) {
        let told = self.entry.announce(state).await;
        if told.is_ok() {
            sleep(LEAVE_NOTICE).await;
        }
        if let Err(error) = self.entry.leave().await {
            tracing::warn!(%error, "the workload's entry cannot be taken back; it will expire");
        }
        self.metrics.registered.set(0);
    }
}
