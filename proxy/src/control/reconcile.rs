//! How a change comes into force: built, proven, handed over, delivered, and only then believed.
//!
//! `Reconciler` is the control loop's state. Its one way to change what workers serve is `apply`, which either
//! publishes everything that a change asks for or leaves all as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::addresses::AddressBook;
use super::policies::{EXPORT_WAIT, Policies, Verdict, Version};
use super::prepare::{self, Held, Need, Needs, Prepared, Refused, Slots, Versions};
use super::publish::{Unpinned, World};
use super::status::Faults;
use crate::config::{Config, Place, PolicyUse};
use crate::link::{Command, Instance, Slot};
use crate::metrics::Metrics;
use crate::policy::{Engine, Failure, PolicyMetrics, Refusal};
use crate::snapshot::{Catalogue, Digest, Snapshot};

mod gone;
mod notes;
mod sparing;
mod wanted;

pub(super) use gone::Gone;
pub use notes::Confirmed;
pub(super) use wanted::{Made, Wanted};

/// What the control loop knows and holds.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) engine: Engine,
    pub(super) metrics: Metrics,
    pub(super) workers: Vec<mpsc::Sender<Command>>,
    pub(super) config: Arc<Config>,
    /// What is to be served of what the registry says.
    pub(super) catalogue: Catalogue,
    /// Services whose endpoints differ from the world's.
    pub(super) touched: BTreeSet<Arc<str>>,
    /// Nothing of the world may be taken for granted.
    pub(super) rebuild: bool,
    /// The registry is too old to be believed: no service has endpoints.
    pub(super) left_out: bool,
    /// While no catalogue is known there is no first snapshot; this is what it will be made of.
    pub(super) waiting: Option<Change>,
    pub(super) policies: Policies,
    /// Before the first publication there is none.
    pub(super) world: Option<Arc<World>>,
    pub(super) held: Slots,
    pub(super) wanted: Wanted,
    pub(super) faults: Faults,
    pub(super) addresses: AddressBook,
    /// Last version that each worker said is in force.
    pub(super) applied: Vec<u64>,
    pub(super) confirmed: Confirmed,
    pub(super) gone: Gone,
    pub(super) draining: bool,
    pub(super) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) applied_by_all: watch::Sender<u64>,
}

/// What is to be different beside the catalogue. What is `None` or absent stays.
#[derive(Debug, Default, Clone)]
pub(super) struct Change {
    pub(super) config: Option<Arc<Config>>,
    pub(super) versions: HashMap<Arc<str>, Version>,
}

/// Why a change is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", listed(.0))]
    Refused(Vec<Refused>),
    #[error(transparent)]
    Unpinned(#[from] Unpinned),
    #[error("preparing instances ended in a panic, which is a fault of this program")]
    Panicked,
}

impl ApplyError {
    pub(super) fn refused(self) -> Vec<Refused> {
        match self {
            Self::Refused(refused) => refused,
            Self::Unpinned(_) | Self::Panicked => Vec::new(),
        }
    }
}

type Tried = HashMap<Arc<str>, (Version, Arc<PolicyMetrics>)>;

impl Reconciler {
    /// Publishes the change, if every policy accepts all its uses. Returns the version in which it is in force.
    ///
    /// What the catalogue has `touched` comes along; that alone is not held up by a policy: a place without an instance is served by the
    /// fallback, and the refusal is reported.
    pub(super) async fn apply(&mut self, change: Change) -> Result<u64, ApplyError> {
        let Some(change) = self.unless_waiting(change) else { return Ok(0) };
        let operators = change.config.is_some() || !change.versions.is_empty();
        self.apply_as(change, operators).await
    }

    /// Without a catalogue, a change becomes a part of what the first snapshot will be made of.
    fn unless_waiting(&mut self, change: Change) -> Option<Change> {
        let Some(waiting) = &mut self.waiting else { return Some(change) };
        waiting.config = change.config.or(waiting.config.take());
        waiting.versions.extend(change.versions);
        None
    }

    /// The first snapshot, now that there is a catalogue. It cannot be refused: there is nothing else to serve.
    pub(super) async fn apply_waiting(&mut self) -> Result<u64, ApplyError> {
        let change = self.waiting.take().unwrap_or_default();
        self.apply_sparing(change, false).await
    }

    async fn apply_as(&mut self, change: Change, operators: bool) -> Result<u64, ApplyError> {
        let moved = change.config.is_some() || !change.versions.is_empty() || self.rebuild;
        let config = change.config.unwrap_or_else(|| Arc::clone(&self.config));
        let tried = self.tried(&config, change.versions);
        let mut pins = self.policies.pins(&config);
        pins.extend(tried.iter().map(|(name, (v, _))| (Arc::clone(name), self.policies.pin_of(name, v))));
        let old = self.world.clone();
        let world = match old.as_deref().filter(|_| !moved && !self.left_out) {
            Some(old) => old.patched(&self.catalogue, &self.touched),
            None if self.left_out => World::next(old.as_deref(), &config, &self.catalogue.emptied(), &pins)?,
            None => World::next(old.as_deref(), &config, &self.catalogue, &pins)?,
        };
        let addresses = &mut self.addresses;
        let world = world
            .addressed(|snapshot| addresses.follow(snapshot, snapshot.patch.as_ref().map(|_| &self.touched)))
            .owning(old.as_deref());
        if let Some(old) = old.filter(|old| world.same_as(old)) {
            self.believe(config, tried);
            // Endpoints that no pool has may have changed all the same.
            self.world = Some(Arc::new(world.under(&old)));
            return Ok(old.snapshot.version);
        }
        let versions = Versions { tried: &tried, store: &self.policies };
        let needs = prepare::needs(self.world.as_deref(), &world, &self.held, &versions);
        let (prepared, refused) = self.prepare(&config, needs).await?;
        if operators && !refused.is_empty() {
            return Err(ApplyError::Refused(refused));
        }
        self.note_refusals(&refused);
        for one in &refused {
            tracing::error!(policy = &*one.policy, "{one}; the fallback serves");
            self.faults.refused(&one.policy, one.to_string());
        }
        self.deliver(&world, prepared).await;
        let refused = refused.into_iter().filter(|one| prepare::policy_in(&world, &one.slot).is_some());
        self.held.extend(refused.map(|one| (one.slot, Held::Refused)));
        self.believe(config, tried);
        Ok(self.publish(world))
    }

    /// Once per policy, in however many uses it refused.
    pub(super) fn note_refusals(&mut self, refused: &[Refused]) {
        let by_policy: BTreeMap<&Arc<str>, &Refused> =
            refused.iter().rev().map(|one| (&one.policy, one)).collect();
        for (policy, one) in by_policy {
            self.metrics.policy_refusals.with_label_values(&[policy]).inc();
            self.faults.note_refusal(policy, one.to_string());
        }
    }

    /// Proves all, then makes all: state is asked for only when nothing was refused.
    async fn prepare(
        &self,
        config: &Config,
        needs: Needs,
    ) -> Result<(Vec<Prepared>, Vec<Refused>), ApplyError> {
        let Needs { fill, mut prove } = needs;
        let (handing, fresh): (Vec<Need>, Vec<Need>) = fill.into_iter().partition(|need| need.hands_over);
        let workers = self.workers.len();
        let (mut prepared, mut refused) = self.make(config, fresh, workers, HashMap::new()).await?;
        prove.extend(handing.iter().cloned());
        let (_, unfit) = self.make(config, prove, 1, HashMap::new()).await?;
        if !unfit.is_empty() {
            refused.extend(unfit);
            return Ok((prepared, refused));
        }
        let states = self.exported(&handing).await;
        let (handed, also_refused) = self.make(config, handing, workers, states).await?;
        refused.extend(also_refused);
        for (all, more) in prepared.iter_mut().zip(handed) {
            all.extend(more);
        }
        Ok((prepared, refused))
    }

    async fn make(
        &self,
        config: &Config,
        needs: Vec<Need>,
        workers: usize,
        states: HashMap<Slot, Vec<Vec<u8>>>,
    ) -> Result<(Vec<Prepared>, Vec<Refused>), ApplyError> {
        if needs.is_empty() {
            return Ok(((0..workers).map(|_| Prepared::new()).collect(), Vec::new()));
        }
        let node = config.node.clone();
        let job = move || prepare::make(&needs, &node, workers, &states);
        tokio::task::spawn_blocking(job).await.map_err(|_| ApplyError::Panicked)
    }

    /// What the old instances know, by slot and worker; empty where a worker does not answer in time.
    async fn exported(&self, needs: &[Need]) -> HashMap<Slot, Vec<Vec<u8>>> {
        let mut states: HashMap<Slot, Vec<Vec<u8>>> = HashMap::new();
        for need in needs {
            let mut of_slot = Vec::with_capacity(self.workers.len());
            for worker in &self.workers {
                let (reply, answer) = oneshot::channel();
                let ask = async {
                    worker.send(Command::ExportState { slot: need.slot.clone(), reply }).await.ok()?;
                    answer.await.ok()
                };
                of_slot.push(timeout(EXPORT_WAIT, ask).await.ok().flatten().unwrap_or_default());
            }
            states.insert(need.slot.clone(), of_slot);
        }
        states
    }

    async fn deliver(&mut self, world: &World, prepared: Vec<Prepared>) {
        if let Some(first) = prepared.first() {
            let held = first.iter().map(|(slot, instance)| (slot.clone(), prepare::held_by(instance)));
            self.held.extend(held);
        }
        match &world.snapshot.patch {
            Some(patch) => patch.gone.iter().for_each(|name| {
                self.held.remove(&Slot::Balancer(Arc::clone(name)));
            }),
            None => self.held.retain(|slot, _| prepare::policy_in(world, slot).is_some()),
        }
        self.count_instances();
        for (worker, instances) in self.workers.iter().zip(prepared) {
            let snapshot = Arc::clone(&world.snapshot);
            send(worker, Command::Deliver { snapshot, instances }).await;
        }
    }

    /// What was tried is now so.
    fn believe(&mut self, config: Arc<Config>, tried: Tried) {
        self.config = config;
        self.touched.clear();
        self.rebuild = false;
        for (name, (version, metrics)) in tried {
            let info = &self.metrics.policy_info;
            if let Some(before) = self.policies.entry(&name).map(|entry| entry.current.digest().to_string()) {
                // Absent if the same digest comes into force twice at once.
                let _ = info.remove_label_values(&[&*name, &*before]);
                self.metrics.policy_swaps.with_label_values(&[&name]).inc();
            }
            let digest = version.digest();
            info.with_label_values(&[&*name, &digest.to_string()]).set(1);
            self.note_release(&name, &version);
            self.metrics.policy_quarantined.with_label_values(&[&name]).set(0);
            tracing::info!(policy = &*name, %digest, source = %version.source, "policy in force");
            self.policies.adopt(&name, version, metrics);
            self.faults.accepted(&name);
        }
        for name in self.policies.retain(&self.config) {
            self.metrics.forget_policy(&name);
            self.faults.forget(&name);
        }
    }

    fn publish(&mut self, world: World) -> u64 {
        let version = world.snapshot.version;
        self.gone.follow(self.world.as_deref(), &world);
        self.metrics.snapshot_version.set(i64::try_from(version).unwrap_or(i64::MAX));
        self.snapshots.send_replace(Some(Arc::clone(&world.snapshot)));
        self.world = Some(Arc::new(world));
        tracing::debug!(version, "snapshot published");
        version
    }

    /// Versions to be tried, and those in quarantine whose configuration is about to change: they get another chance.
    fn tried(&self, config: &Config, versions: HashMap<Arc<str>, Version>) -> Tried {
        let mut tried: Tried = versions
            .into_iter()
            .map(|(name, version)| (Arc::clone(&name), (version, self.policies.metrics_of(&name))))
            .collect();
        for (name, entry) in self.policies.iter().filter(|(_, entry)| entry.quarantined) {
            let is_it = |used: &&PolicyUse| *used.policy == **name;
            if !config.policy_uses().filter(is_it).eq(self.config.policy_uses().filter(is_it)) {
                let again = || (entry.current.clone(), Arc::clone(&entry.metrics));
                tried.entry(Arc::clone(name)).or_insert_with(again);
            }
        }
        tried
    }

    /// An instance has failed: another takes its place, or its policy goes out of service.
    pub(super) async fn failed(&mut self, worker: usize, slot: Slot, digest: Digest, failure: &Failure) {
        let Some(world) = self.world.clone() else { return };
        let none = HashMap::new();
        let versions = Versions { tried: &none, store: &self.policies };
        let need = prepare::need_of(&world, &slot, &versions).filter(|need| need.policy.digest == digest);
        // Otherwise the place has moved on, and a new instance is under way.
        let Some(need) = need else { return };
        let policy = Arc::clone(&need.policy.policy);
        self.metrics.policy_failures.with_label_values(&[&*policy, failure.kind.name()]).inc();
        tracing::warn!(policy = &*policy, worker, ?slot, %failure, "policy failed; the fallback serves meanwhile");
        match self.policies.fail(&policy, failure, &self.config.policy_host) {
            // Made room for others since: it is made anew when wanted.
            Verdict::Replace if !self.held.contains_key(&slot) => {}
            Verdict::Leave => {}
            Verdict::Quarantine => self.quarantine(&world, &policy, &failure.to_string()).await,
            Verdict::Replace => match self.replacement(need).await {
                Ok(instance) => {
                    if let Some(sender) = self.workers.get(worker) {
                        send(sender, Command::Replace { slot, digest, instance }).await;
                    }
                }
                Err(reason) => {
                    self.policies.quarantine(&policy);
                    self.quarantine(&world, &policy, &reason).await;
                }
            },
        }
    }

    async fn replacement(&self, need: Need) -> Result<Instance, String> {
        let node = self.config.node.clone();
        let job =
            move || need.make(&node, None).map_err(|refusal: Refusal| need.refused(refusal).to_string());
        tokio::task::spawn_blocking(job).await.unwrap_or_else(|_| Err(ApplyError::Panicked.to_string()))
    }

    async fn quarantine(&mut self, world: &World, policy: &str, reason: &str) {
        tracing::error!(
            policy,
            reason,
            "policy quarantined: the fallback serves until it is replaced or reset"
        );
        self.metrics.policy_quarantined.with_label_values(&[policy]).set(1);
        let works =
            |slot: &&Slot| prepare::policy_in(world, slot).is_some_and(|used| *used.policy == *policy);
        let slots: Vec<Slot> = self.held.keys().filter(works).cloned().collect();
        let Some(digest) = self.policies.entry(policy).map(|entry| entry.current.digest()) else { return };
        for slot in slots {
            self.held.remove(&slot);
            self.close(slot, digest).await;
        }
        self.count_instances();
    }

    /// No worker gets an instance for this slot.
    async fn close(&self, slot: Slot, digest: Digest) {
        for worker in &self.workers {
            send(worker, Command::Quarantine { slot: slot.clone(), digest }).await;
        }
    }
}

/// A worker that is gone is the application's affair: it ends the process.
pub(super) async fn send(worker: &mpsc::Sender<Command>, command: Command) {
    if worker.send(command).await.is_err() {
        tracing::error!("a worker has ended");
    }
}

/// Where a policy is written down, for messages about the policy itself.
pub(super) fn place_of(config: &Config, policy: &str) -> Option<Place> {
    let file = config.policies.get(policy).map(|file| file.place.clone());
    file.or_else(|| config.policy_uses().find(|used| used.policy == policy).map(|used| used.place.clone()))
}

fn listed(refused: &[Refused]) -> String {
    refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
