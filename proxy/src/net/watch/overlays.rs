//! The networks that go on on other hosts: one task for each, started and ended as the record says.
//!
//! Tasks say what they know by a `Picture` each and ring one bell. What becomes of it is decided in a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::super::namespace::Namespace;
use super::super::overlay::State;
use super::super::overlay::lease::{self, Before, Known, Order, Picture, Ties};
use super::super::overlay::underlay::Underlay;
use super::super::store::{Record, Store};
use super::metrics::Metrics;

#[derive(Debug)]
pub(super) struct Overlays {
    /// Of the store, which says whether a network is still wanted.
    state: PathBuf,
    bell: Arc<Notify>,
    by_network: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    order: Order,
    underlay: watch::Sender<Option<Underlay>>,
    /// Why it is not known.
    no_underlay: Option<String>,
    picture: watch::Receiver<Picture>,
    task: JoinHandle<()>,
    /// What has been counted already.
    counted: (u64, u64),
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Overlays {
    pub(super) fn new(state: PathBuf) -> Self {
        Self { state, bell: Arc::default(), by_network: BTreeMap::new() }
    }

    /// Until a task has something to say.
    pub(super) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// What a pass has to know.
    pub(super) fn known(&self) -> BTreeMap<String, Option<State>> {
        let known = self.by_network.iter().filter_map(|(network, running)| {
            let state = match &running.picture.borrow().known {
                Known::NotYet => return None,
                Known::Leased(state) => Some(State::clone(state)),
                Known::Withdrawn => None,
            };
            Some((network.clone(), state))
        });
        known.collect()
    }

    /// Runs a task for each of the record's networks, and tells it where the other hosts are.
    pub(super) fn follow(&mut self, record: &Record, underlays: BTreeMap<String, Result<Underlay, String>>) {
        let mut orders: BTreeMap<&String, Order> = BTreeMap::new();
        for (name, network) in &record.settings.networks {
            let Some(overlay) = &network.overlay else { continue };
            let held = record.overlays.get(name).map(|state| (state.subnets, state.lease));
            let had = record.previous.get(name).map(|subnets| (*subnets, 0));
            let before = held.or(had).map(|(subnets, lease)| Before { subnets, lease });
            let (source, founding) = (overlay.source.clone(), overlay.founding.clone());
            orders.insert(name, Order { source, founding, lease: overlay.lease, before });
        }
        let leaving: BTreeSet<String> = self
            .by_network
            .iter()
            .filter(|(name, running)| orders.get(name).is_none_or(|order| !order.is_as(&running.order)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in leaving {
            self.end(&name);
        }
        for (name, order) in orders {
            let known = underlays.get(name).cloned().unwrap_or_else(|| Err("it is not known".to_owned()));
            let running = self
                .by_network
                .entry(name.clone())
                .or_insert_with(|| Running::start(name, order, &self.state, Arc::clone(&self.bell)));
            let trouble = known.as_ref().err().cloned();
            if let Some(trouble) = trouble.as_ref().filter(|now| running.no_underlay.as_ref() != Some(*now)) {
                tracing::warn!(network = name, trouble, "it is not known where the other hosts are");
            }
            running.no_underlay = trouble;
            // What is not there for a moment is remembered.
            if let Ok(underlay) = known {
                running.underlay.send_if_modified(|told| {
                    let differs = told.as_ref() != Some(&underlay);
                    *told = Some(underlay);
                    differs
                });
            }
        }
    }

    /// Others may have the subnet.
    fn end(&mut self, name: &str) {
        let Some(running) = self.by_network.remove(name) else { return };
        let Known::Leased(state) = running.picture.borrow().known.clone() else { return };
        let (source, name) = (running.order.source.clone(), name.to_owned());
        tokio::spawn(async move {
            match lease::release(&source, &state.subnets, state.lease).await {
                Ok(()) => tracing::info!(network = name, subnets = %state.subnets, "released"),
                Err(error) => tracing::warn!(network = name, error, "not released; the lease ends by itself"),
            }
        });
    }

    /// Networks that have no subnet here, or whose etcd cannot be asked.
    pub(super) fn troubles(&self) -> Vec<String> {
        let of_one = |(name, running): (&String, &Running)| {
            let picture = running.picture.borrow();
            let trouble = running.no_underlay.clone().or_else(|| picture.trouble.clone());
            trouble.map(|trouble| format!("network `{name}`: {trouble}"))
        };
        self.by_network.iter().filter_map(of_one).collect()
    }

    pub(super) fn show(&mut self, metrics: &Metrics) {
        metrics.forget_overlays();
        for (name, running) in &mut self.by_network {
            let picture = running.picture.borrow();
            let peers = match &picture.known {
                Known::Leased(state) => Some(state.peers.len()),
                Known::NotYet | Known::Withdrawn => None,
            };
            metrics.show_overlay(name, peers, picture.left_out.len(), picture.confirmed);
            let (regained, renumbered) = running.counted;
            let lost = |outcome: &str| metrics.overlay_lost.with_label_values(&[name.as_str(), outcome]);
            lost("regained").inc_by(picture.regained - regained);
            lost("renumbered").inc_by(picture.renumbered - renumbered);
            running.counted = (picture.regained, picture.renumbered);
        }
    }
}

impl Running {
    fn start(name: &str, order: Order, state: &Path, bell: Arc<Notify>) -> Self {
        let (underlay, told) = watch::channel(None);
        let (sender, picture) = watch::channel(Picture::default());
        let (state, network) = (state.to_owned(), name.to_owned());
        let wanted = Box::new(move || is_wanted(&state, &network));
        let ties = Ties { underlay: told, picture: sender, bell, wanted };
        let task = tokio::spawn(lease::run(name.to_owned(), order.clone(), ties));
        Self { order, underlay, no_underlay: None, picture, task, counted: (0, 0) }
    }
}

/// `undo` may have taken the network away, beside us. A store that cannot be read says nothing.
fn is_wanted(state: &Path, network: &str) -> bool {
    let host = Namespace::own().map(|own| own.number()).unwrap_or_default();
    let record = Store::to_read(state).load(host);
    record.map_or(true, |record| record.settings.networks.contains_key(network))
}
