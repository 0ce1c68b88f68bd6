//! The control loop's state at its beginning, and what it notes on the way: who serves what, and when the registry was
//! last heard.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Gone, Reconciler, Wanted};
use crate::clock;
use crate::config::Config;
use crate::control::addresses::AddressBook;
use crate::control::policies::{Policies, Source, Version};
use crate::control::status::Faults;
use crate::link::Command;
use crate::metrics::Metrics;
use crate::policy::Engine;
use crate::snapshot::{Catalogue, Snapshot};

/// When the registry last confirmed what it says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Confirmed {
    /// In ms of `clock::now_ms`.
    pub at_ms: u64,
    /// How old it was by then: a catalogue from disk has not been confirmed by being read.
    pub before_ms: u64,
}

impl Confirmed {
    pub fn age_ms(self) -> u64 {
        clock::now_ms().saturating_sub(self.at_ms).saturating_add(self.before_ms)
    }
}

impl Reconciler {
    /// Nothing is in force yet.
    pub(in crate::control) fn new(
        (engine, metrics, config): (Engine, Metrics, Arc<Config>),
        workers: Vec<mpsc::Sender<Command>>,
        snapshots: watch::Sender<Option<Arc<Snapshot>>>,
        applied_by_all: watch::Sender<u64>,
    ) -> Self {
        Self {
            engine,
            metrics,
            config,
            catalogue: Catalogue::default(),
            touched: BTreeSet::new(),
            rebuild: false,
            left_out: false,
            waiting: None,
            policies: Policies::default(),
            world: None,
            held: HashMap::new(),
            wanted: Wanted::default(),
            faults: Faults::default(),
            addresses: AddressBook::default(),
            applied: vec![0; workers.len()],
            workers,
            confirmed: Confirmed::default(),
            gone: Gone::default(),
            draining: false,
            snapshots,
            applied_by_all,
        }
    }

    /// A worker serves a version now.
    pub(in crate::control) fn note_applied(&mut self, worker: usize, version: u64) {
        if let Some(applied) = self.applied.get_mut(worker) {
            *applied = version.max(*applied);
        }
        let by_all = self.applied.iter().copied().min().unwrap_or_default();
        self.applied_by_all.send_if_modified(|known| std::mem::replace(known, by_all) != by_all);
    }

    /// Which version of its release serves a policy now.
    pub(in crate::control) fn note_release(&self, policy: &str, version: &Version) {
        let in_force = &self.metrics.policy_release;
        match &version.source {
            Source::Release(released) => {
                let version = i64::try_from(released.version).unwrap_or(i64::MAX);
                in_force.with_label_values(&[policy]).set(version);
            }
            // Absent if none served before.
            Source::Builtin | Source::File(_) | Source::Admin => {
                drop(in_force.remove_label_values(&[policy]))
            }
        }
    }

    /// What the registry says could be used, until now at least.
    pub(in crate::control) fn note_confirmed(&mut self) {
        self.confirmed = Confirmed { at_ms: clock::now_ms(), before_ms: 0 };
        self.metrics.registry_valid.set(1);
        self.faults.registry.clear();
    }
}
