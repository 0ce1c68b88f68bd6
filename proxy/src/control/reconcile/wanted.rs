//! Instances on first use: what workers want is made off the workers, some at a time, and put where it is wanted.
//!
//! One batch is under way at a time; what comes meanwhile waits, each slot once. Where there is no room, the instances
//! not used for longest give way first; what they have learnt goes with them, and they start anew when wanted again.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{ApplyError, Reconciler, send};
use crate::control::policies::EXPORT_WAIT;
use crate::control::prepare::{self, Eager, Held, Need, Prepared, Refused, Versions};
use crate::control::publish::World;
use crate::link::{Command, Slot};
use crate::snapshot::Digest;

/// Slots for which instances are made at once.
const BATCH: usize = 64;
/// When there is no room, this part of all slots is given up at once, so that workers are not asked each time.
const SLACK: usize = 16;

/// Each pool of the world at most once.
#[derive(Debug, Default)]
pub(in crate::control) struct Wanted {
    slots: VecDeque<Slot>,
    known: HashSet<Slot>,
    under_way: bool,
}

/// A batch that has been made.
#[derive(Debug)]
pub(in crate::control) struct Made {
    needs: Vec<Need>,
    result: Result<(Vec<Prepared>, Vec<Refused>), ApplyError>,
}

impl Wanted {
    fn push(&mut self, slot: Slot) {
        if self.known.insert(slot.clone()) {
            self.slots.push_back(slot);
        }
    }

    fn take(&mut self) -> Vec<Slot> {
        let slots: Vec<Slot> = self.slots.drain(..BATCH.min(self.slots.len())).collect();
        for slot in &slots {
            self.known.remove(slot);
        }
        slots
    }
}

impl Reconciler {
    /// A worker has picked from a pool whose instance nobody has made.
    pub(in crate::control) async fn want(&mut self, worker: usize, slot: Slot, digest: Digest) {
        let used = self.world.as_deref().and_then(|world| prepare::policy_in(world, &slot));
        // Otherwise the place has moved on, and asks anew.
        let Some(used) = used.filter(|used| used.digest == digest) else { return };
        let quarantined = self.policies.entry(&used.policy).is_some_and(|entry| entry.quarantined);
        match self.held.get(&slot) {
            Some(Held::Instance(_)) if !quarantined => {}
            None if !quarantined => self.wanted.push(slot),
            _ => {
                if let Some(sender) = self.workers.get(worker) {
                    send(sender, Command::Quarantine { slot, digest }).await;
                }
            }
        }
    }

    /// Work for the blocking pool: the next batch, if there is one and none is under way.
    pub(in crate::control) async fn make_wanted(&mut self) -> Option<impl Future<Output = Made> + use<>> {
        if self.wanted.under_way || self.wanted.slots.is_empty() {
            return None;
        }
        let world = self.world.clone()?;
        let none = HashMap::new();
        let versions = Versions { tried: &none, store: &self.policies };
        let (mut needs, mut out) = (Vec::new(), Vec::new());
        for slot in self.wanted.take() {
            let need = prepare::need_of(&world, &slot, &versions);
            let Some(need) = need.filter(|_| !self.held.contains_key(&slot)) else { continue };
            let quarantined = self.policies.entry(&need.policy.policy).is_some_and(|entry| entry.quarantined);
            if quarantined { out.push(need) } else { needs.push(need) }
        }
        for need in out {
            self.close(need.slot, need.policy.digest).await;
        }
        if needs.is_empty() {
            return None;
        }
        self.make_room(&world, needs.len()).await;
        self.wanted.under_way = true;
        let (node, workers) = (self.config.node.clone(), self.workers.len());
        Some(async move {
            let wanted = needs.clone();
            let job = move || prepare::make(&wanted, &node, workers, &HashMap::new());
            let result = tokio::task::spawn_blocking(job).await.map_err(|_| ApplyError::Panicked);
            Made { needs, result }
        })
    }

    /// Puts what was made where it is still wanted.
    pub(in crate::control) async fn link(&mut self, made: Made) {
        self.wanted.under_way = false;
        let Some(world) = self.world.clone() else { return };
        let (prepared, refused) = match made.result {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "instances that are wanted cannot be made; the fallback serves");
                for need in made.needs {
                    self.close(need.slot, need.policy.digest).await;
                }
                return;
            }
        };
        let needs: HashMap<Slot, Need> =
            made.needs.into_iter().map(|need| (need.slot.clone(), need)).collect();
        self.note_unfit(&needs, refused).await;
        let firsts = prepared.first().into_iter().flatten();
        let firsts: Vec<(Slot, Held)> =
            firsts.map(|(slot, instance)| (slot.clone(), prepare::held_by(instance))).collect();
        let mut placed = HashSet::new();
        for (slot, held) in firsts {
            let Some(need) = needs.get(&slot) else { continue };
            let Held::Instance(interests) = held else { continue };
            let quarantined = self.policies.entry(&need.policy.policy).is_none_or(|entry| entry.quarantined);
            let fits = prepare::pool_of(&world, &slot).is_some_and(|pool| need.fits(pool, interests));
            if fits && !quarantined && !self.held.contains_key(&slot) {
                placed.insert(slot.clone());
                self.held.insert(slot, held);
            } else {
                // The world has moved on meanwhile: look again.
                self.wanted.push(slot);
            }
        }
        for (worker, instances) in self.workers.iter().zip(prepared) {
            for (slot, instance) in instances.into_iter().filter(|(slot, _)| placed.contains(slot)) {
                let Some(digest) = needs.get(&slot).map(|need| need.policy.digest) else { continue };
                send(worker, Command::Replace { slot, digest, instance }).await;
            }
        }
        self.count_instances();
    }

    async fn note_unfit(&mut self, needs: &HashMap<Slot, Need>, refused: Vec<Refused>) {
        self.note_refusals(&refused);
        for one in refused {
            tracing::error!(policy = &*one.policy, "{one}; the fallback serves");
            self.faults.refused(&one.policy, one.to_string());
            if let Some(need) = needs.get(&one.slot) {
                self.held.insert(one.slot.clone(), Held::Refused);
                self.close(one.slot, need.policy.digest).await;
            }
        }
    }

    /// Has the instances not used for longest given up, if there is no room for so many more slots.
    async fn make_room(&mut self, world: &World, more: usize) {
        let max = prepare::slots_max(world);
        let over = (self.held.len() + more).saturating_sub(max);
        if over == 0 {
            return;
        }
        let eager = Eager::of(world);
        let is_cold_kind = |slot: &Slot| match slot {
            Slot::Balancer(name) => world.snapshot.place_of(name).is_some_and(|at| !eager.holds(world, at)),
            Slot::Router(_) => false,
        };
        let lazy = self.held.keys().filter(|slot| is_cold_kind(slot));
        let mut last: HashMap<Slot, u64> = lazy.map(|slot| (slot.clone(), 0)).collect();
        for (slot, at) in self.last_uses().await {
            if let Some(known) = last.get_mut(&slot) {
                *known = at.max(*known);
            }
        }
        let mut coldest: Vec<(u64, Slot)> = last.into_iter().map(|(slot, at)| (at, slot)).collect();
        coldest.sort_by_key(|(at, _)| *at);
        coldest.truncate(over + max / SLACK);
        let slots: Vec<Slot> = coldest.into_iter().map(|(_, slot)| slot).collect();
        for slot in &slots {
            self.held.remove(slot);
        }
        self.metrics.policy_evictions.inc_by((slots.len() * self.workers.len()) as u64);
        for worker in &self.workers {
            send(worker, Command::Evict { slots: slots.clone() }).await;
        }
    }

    /// As all workers have it; a worker that does not answer in time has nothing to say.
    async fn last_uses(&self) -> Vec<(Slot, u64)> {
        let mut all = Vec::new();
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            let ask = async {
                worker.send(Command::LastUses { reply }).await.ok()?;
                answer.await.ok()
            };
            all.extend(timeout(EXPORT_WAIT, ask).await.ok().flatten().into_iter().flatten());
        }
        all
    }

    pub(super) fn count_instances(&self) {
        let slots = self.held.values().filter(|held| matches!(held, Held::Instance(_))).count();
        let instances = i64::try_from(slots * self.workers.len()).unwrap_or(i64::MAX);
        self.metrics.policy_instances.set(instances);
    }
}
