//! What registries say, on its way into the catalogue.
//!
//! A file is read whole and compared. A registry over the network tells what has changed, and the loop looks after
//! what no message announces: its silence, endpoints kept in spite of it, and the copy on disk.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{Ended, Events};
use crate::config::Diagnostic;
use crate::control::reconcile::{Change, Reconciler};
use crate::control::registry::guard::{self, Guard, Key};
use crate::control::registry::{self, Load, NEWS_MAX, News, saved};
use crate::snapshot::{Catalogue, Delta};

/// How often silence is noticed and kept endpoints are tried.
const TICK: Duration = Duration::from_secs(1);
/// How often at most the catalogue is written to disk; a large one less often, so that writing it all takes no more than
/// this part of one core however fast it changes.
const SAVE_EVERY: Duration = Duration::from_secs(10);
const SAVE_SHARE: u32 = 200;

/// What the loop needs for a registry over the network.
#[derive(Debug)]
pub(super) struct Network {
    news: mpsc::Receiver<News>,
    guard: Guard,
    ticks: Interval,
    /// The registry has said something in full.
    heard: bool,
    /// A probe is under way.
    probing: bool,
    /// The catalogue differs from the one on disk.
    unsaved: bool,
    /// When it may be written.
    save_at: Instant,
}

impl Network {
    /// `None` with a file.
    pub(super) fn start(state: &mut Reconciler) -> Option<Self> {
        let settings = &state.config.registry;
        let news = registry::follow(settings, &state.metrics)?;
        if state.waiting.is_some() {
            state.faults.registry = vec!["it has not been heard yet, and no catalogue is saved".to_owned()];
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let guard = Guard::new(settings.mass_removal.clone(), state.catalogue.clone());
        Some(Self {
            news,
            guard,
            ticks,
            heard: false,
            probing: false,
            unsaved: false,
            save_at: Instant::now(),
        })
    }
}

/// The next news, all at once that have come; none of them means that it is time to look around. For ever without a
/// network.
pub(super) async fn heard(network: &mut Option<Network>) -> Vec<News> {
    let Some(network) = network else { return std::future::pending().await };
    let mut batch = Vec::new();
    tokio::select! {
        biased;
        count = network.news.recv_many(&mut batch, NEWS_MAX) => {
            if count == 0 {
                // The source has ended, which it does not before us.
                network.ticks.tick().await;
            }
        }
        _ = network.ticks.tick() => {}
    }
    batch
}

impl Events {
    pub(super) async fn heard(&mut self, batch: Vec<News>) {
        if batch.is_empty() {
            return self.look_around().await;
        }
        let (mut deltas, mut loads, mut trouble) = (Vec::new(), Vec::new(), None);
        for news in batch {
            match news {
                News::Changed(delta) => {
                    deltas.push(delta);
                    trouble = Some(None);
                }
                News::Confirmed => trouble = Some(None),
                News::Loads(more) => loads.extend(more),
                News::Trouble(text) => trouble = Some(Some(text)),
            }
        }
        match trouble {
            Some(None) => self.confirmed(),
            Some(Some(text)) => self.troubled(vec![text]),
            None => {}
        }
        if let Some(network) = &mut self.network {
            let now = Instant::now();
            for delta in deltas {
                let before = network.guard.held();
                let served = network.guard.take(delta, now);
                if network.guard.held() > before {
                    let held = network.guard.held();
                    tracing::error!(held, "the registry forgets too much at once: what answers is kept");
                }
                self.state.touched.extend(self.state.catalogue.take(served));
                (network.heard, network.unsaved) = (true, true);
            }
            let held = i64::try_from(network.guard.held()).unwrap_or(i64::MAX);
            self.state.metrics.registry_held_endpoints.set(held);
        }
        self.publish().await;
        self.take_loads(&loads);
        self.probe();
        // Under a steady stream of news there may be no other time for it.
        self.save();
    }

    /// Brings what the registry has touched into force.
    async fn publish(&mut self) {
        let applied = if self.state.waiting.is_some() && !self.is_unheard() {
            self.state.apply_waiting().await.map(drop)
        } else if self.state.rebuild || !self.state.touched.is_empty() {
            self.state.apply(Change::default()).await.map(drop)
        } else {
            return;
        };
        if let Err(error) = applied {
            self.troubled(vec![error.to_string()]);
        }
    }

    /// Nothing has been said in full yet.
    fn is_unheard(&self) -> bool {
        self.network.as_ref().is_some_and(|network| !network.heard)
    }

    fn confirmed(&mut self) {
        if self.state.left_out {
            tracing::info!("the registry is back: its endpoints serve again");
            (self.state.left_out, self.state.rebuild) = (false, true);
        }
        self.state.note_confirmed();
    }

    /// What it said before stays in force.
    fn troubled(&mut self, problems: Vec<String>) {
        self.state.metrics.registry_valid.set(0);
        if self.state.faults.registry.is_empty() {
            tracing::error!(
                "registry not usable, what it said before stays in force: {}",
                problems.join("\n")
            );
        }
        self.state.faults.registry = problems;
    }

    pub(super) async fn registry_read(&mut self, read: Result<Catalogue, Vec<Diagnostic>>) {
        let problems = match read {
            Ok(catalogue) => {
                self.state.note_confirmed();
                self.state.touched.extend(self.state.catalogue.take(Delta::whole(catalogue)));
                return self.publish().await;
            }
            Err(diagnostics) => diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        };
        if self.state.faults.registry.is_empty() {
            // It was good until now.
            self.state.note_confirmed();
            self.state.metrics.registry_valid.set(0);
        }
        if self.state.faults.registry != problems {
            tracing::error!(
                "registry not usable, what it said before stays in force:\n{}",
                problems.join("\n")
            );
        }
        self.state.metrics.registry_valid.set(0);
        self.state.faults.registry = problems;
    }

    /// Once in each tick.
    async fn look_around(&mut self) {
        let stale = self.state.config.registry.stale.clone();
        let age = Duration::from_millis(self.state.confirmed.age_ms());
        if age > stale.after && self.state.world.is_some() {
            let problem = format!("it has not confirmed what it says for {} s", age.as_secs());
            self.state.faults.stale = Some(problem);
            if stale.leave_out && !self.state.left_out {
                tracing::error!("the registry is too old to be believed: its endpoints are left out");
                (self.state.left_out, self.state.rebuild) = (true, true);
                self.publish().await;
            }
        } else {
            self.state.faults.stale = None;
        }
        self.probe();
        self.save();
    }

    /// Tries the endpoints that are kept, off the loop.
    fn probe(&mut self) {
        let Some(network) = &mut self.network else { return };
        if network.probing || network.guard.held() == 0 {
            return;
        }
        network.probing = true;
        let keys = network.guard.keys();
        self.slowly(async move {
            let silent = guard::probe(keys).await;
            tokio::time::sleep(TICK).await;
            Ended::Probed(silent)
        });
    }

    pub(super) async fn probed(&mut self, silent: Vec<Key>) {
        let Some(network) = &mut self.network else { return };
        network.probing = false;
        let served = network.guard.probed(&silent, Instant::now());
        let held = i64::try_from(network.guard.held()).unwrap_or(i64::MAX);
        self.state.metrics.registry_held_endpoints.set(held);
        self.state.touched.extend(self.state.catalogue.take(served));
        self.publish().await;
    }

    fn save(&mut self) {
        let Some(network) = &mut self.network else { return };
        if !network.unsaved || self.state.waiting.is_some() || Instant::now() < network.save_at {
            return;
        }
        let Some(path) = saved::path(&self.state.config) else { return };
        (network.unsaved, network.save_at) = (false, Instant::now() + SAVE_EVERY);
        let catalogue = self.state.catalogue.clone();
        self.slowly(async move {
            let began = Instant::now();
            let saved = tokio::task::spawn_blocking(move || saved::save(&path, &catalogue)).await;
            Ended::Saved(began.elapsed(), saved.unwrap_or_else(|error| Err(std::io::Error::other(error))))
        });
    }

    pub(super) fn saved(&mut self, took: Duration, result: std::io::Result<()>) {
        if let Some(network) = &mut self.network {
            network.save_at = network.save_at.max(Instant::now() + took * SAVE_SHARE);
        }
        if let Err(error) = result {
            tracing::warn!(%error, "the catalogue cannot be saved; a start without the registry will wait for it");
        }
    }

    /// What instances report about themselves goes beside what their answers report; no snapshot changes.
    fn take_loads(&self, loads: &[Load]) {
        let Some(world) = &self.state.world else { return };
        for Load { service, address, load } in loads {
            let members = world.members_of(service);
            let endpoint = members.and_then(|all| all.endpoints.iter().find(|e| e.address == *address));
            if let Some(endpoint) = endpoint {
                endpoint.state.reported.store(*load, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}
