//! What happens in the registry by itself: TTL checks and sessions that lapse, services that stay critical for too
//! long, and the checks that the registry carries out.
//!
//! One task owns all timers and the tasks of the probes. It follows the state, so nobody has to tell it what was
//! registered. Timers are not kept on disk: after a start, everybody has a whole period to report.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::change::Change;
use super::ended;
use super::metrics::Metrics;
use super::model::{Check, Definition, Name, Session, Status, duration};
use super::probe;
use super::settings::Limits;
use super::state::{State, Topic};
use super::writer::Registry;
use crate::shared_map::{Difference, SharedMap};

/// A session ends after this many of its TTLs, as Consul has it: the TTL is a promise not to end it before.
const SESSION_TTLS: u32 = 2;

/// A sign of life.
#[derive(Debug)]
pub(crate) enum Beat {
    Check(Name),
    Session(Name),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Ttl(Name),
    /// To deregister the instance of a check.
    Reap(Name),
    Session(Name),
}

/// When what is due.
#[derive(Debug, Default)]
struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    at: HashMap<Timer, Instant>,
}

impl Timers {
    fn set(&mut self, timer: Timer, at: Instant) {
        self.remove(&timer);
        self.due.insert((at, timer.clone()));
        self.at.insert(timer, at);
    }

    fn remove(&mut self, timer: &Timer) {
        if let Some(at) = self.at.remove(timer) {
            self.due.remove(&(at, timer.clone()));
        }
    }

    fn has(&self, timer: &Timer) -> bool {
        self.at.contains_key(timer)
    }

    fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: Instant) -> Vec<Timer> {
        let mut taken = Vec::new();
        while let Some((at, timer)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, timer));
                break;
            }
            self.at.remove(&timer);
            taken.push(timer);
        }
        taken
    }
}

#[derive(Debug)]
pub(crate) struct Keeper {
    registry: Registry,
    /// Only the checks of this node are ours.
    node: Name,
    metrics: Metrics,
    timers: Timers,
    probes: HashMap<Name, (Definition, AbortHandle)>,
    /// Probes that may run at once.
    places: Arc<Semaphore>,
    /// What the timers and probes were made from.
    seen: Arc<State>,
}

impl Keeper {
    pub(crate) fn new(registry: Registry, node: Name, limits: &Limits, metrics: Metrics) -> Self {
        Self {
            registry,
            node,
            metrics,
            timers: Timers::default(),
            probes: HashMap::new(),
            places: Arc::new(Semaphore::new(limits.probes)),
            seen: Arc::default(),
        }
    }

    pub(crate) async fn run(mut self, mut beats: mpsc::Receiver<Beat>, mut ending: watch::Receiver<bool>) {
        let registry = self.registry.clone();
        loop {
            let (checks, sessions) =
                (registry.next_change(&Topic::Checks), registry.next_change(&Topic::Sessions));
            self.follow(registry.state());
            // Nothing is due for as long as there is nothing to do.
            let next = self.timers.next().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = checks => {}
                () = sessions => {}
                beat = beats.recv() => match beat {
                    Some(beat) => self.beat(beat),
                    None => break,
                },
                () = tokio::time::sleep_until(next) => self.expire().await,
                () = ended(&mut ending) => break,
            }
        }
        self.probes.values().for_each(|(_, task)| task.abort());
    }

    fn beat(&mut self, beat: Beat) {
        match beat {
            Beat::Check(id) => {
                let check = self.seen.nodes.get(&self.node).and_then(|node| node.check(&id));
                if let Some(ttl) = check.map(|check| check.definition.ttl).filter(|ttl| !ttl.is_zero()) {
                    self.timers.set(Timer::Ttl(id), Instant::now() + ttl);
                }
            }
            Beat::Session(id) => {
                if let Some(session) = self.seen.sessions.get(&id).cloned() {
                    self.hold(&session);
                }
            }
        }
    }

    fn hold(&mut self, session: &Session) {
        if let Some(ttl) = duration(&session.ttl) {
            let timer = Timer::Session(Name::clone(&session.id));
            self.timers.set(timer, Instant::now() + ttl * SESSION_TTLS);
        }
    }

    /// Makes timers and probes those of this state.
    fn follow(&mut self, state: Arc<State>) {
        if Arc::ptr_eq(&state, &self.seen) {
            return;
        }
        let before = std::mem::replace(&mut self.seen, Arc::clone(&state));
        let none = SharedMap::default();
        let checks = |state: &Arc<State>| {
            state.nodes.get(&self.node).map_or_else(|| none.clone(), |node| node.checks.clone())
        };
        let (old, new) = (checks(&before), checks(&state));
        for difference in new.since(&old) {
            match difference {
                Difference::Added(_, check) => self.check(check, true),
                Difference::Changed(_, check) => self.check(check, false),
                Difference::Removed((_, id)) => self.forget(id),
            }
        }
        for difference in state.sessions.since(&before.sessions) {
            match difference {
                Difference::Added(_, session) | Difference::Changed(_, session) => self.hold(session),
                Difference::Removed(id) => self.timers.remove(&Timer::Session(Name::clone(id))),
            }
        }
    }

    fn check(&mut self, check: &Check, new: bool) {
        let (id, definition) = (&check.id, &check.definition);
        let ttl = Timer::Ttl(Name::clone(id));
        if definition.ttl.is_zero() {
            self.timers.remove(&ttl);
        } else if new || !self.timers.has(&ttl) && check.status != Status::Critical {
            self.timers.set(ttl, Instant::now() + definition.ttl);
        }
        let reap = Timer::Reap(Name::clone(id));
        let counts = !definition.deregister_after.is_zero() && !check.service_id.is_empty();
        if !counts || check.status != Status::Critical {
            self.timers.remove(&reap);
        } else if !self.timers.has(&reap) {
            self.timers.set(reap, Instant::now() + definition.deregister_after);
        }
        let running = self.probes.get(id).map(|(running, _)| running);
        if running == Some(definition) || running.is_none() && !probe::is_one(definition) {
            return;
        }
        if let Some((_, task)) = self.probes.remove(id) {
            task.abort();
        }
        if probe::is_one(definition) {
            let probe = probe::Probe {
                registry: self.registry.clone(),
                node: Name::clone(&self.node),
                id: Name::clone(id),
                definition: definition.clone(),
                kind: check.kind.clone(),
                places: Arc::clone(&self.places),
                metrics: self.metrics.clone(),
            };
            let task = tokio::spawn(probe.run()).abort_handle();
            self.probes.insert(Name::clone(id), (definition.clone(), task));
        }
    }

    fn forget(&mut self, id: &Name) {
        self.timers.remove(&Timer::Ttl(Name::clone(id)));
        self.timers.remove(&Timer::Reap(Name::clone(id)));
        if let Some((_, task)) = self.probes.remove(id) {
            task.abort();
        }
    }

    /// All that is due at once shares a commit.
    async fn expire(&mut self) {
        let mut changes = JoinSet::new();
        for timer in self.timers.take_due(Instant::now()) {
            let Some(change) = self.lapsed(&timer) else { continue };
            let registry = self.registry.clone();
            changes.spawn(async move { (timer, registry.change(change).await) });
        }
        while let Some(joined) = changes.join_next().await {
            if let Ok((timer, Err(error))) = joined {
                // What could not be written is still due.
                tracing::warn!(%error, ?timer, "a change that was due could not be made");
                self.timers.set(timer, Instant::now() + Duration::from_secs(1));
            }
        }
    }

    fn lapsed(&self, timer: &Timer) -> Option<Change> {
        let check = |id: &Name| self.seen.nodes.get(&self.node)?.check(id).cloned();
        let node = Name::clone(&self.node);
        match timer {
            Timer::Ttl(id) => {
                let last = check(id)?.output.clone();
                let output = if last.is_empty() || last.starts_with("TTL expired") {
                    "TTL expired".to_owned()
                } else {
                    format!("TTL expired (last output before timeout follows): {last}")
                };
                let (id, status) = (Name::clone(id), Status::Critical);
                Some(Change::Report { node, id, status, output: Some(output) })
            }
            Timer::Reap(id) => {
                let check = check(id)?;
                tracing::info!(check = %id, service = %check.service_id, "critical for too long: deregistered");
                Some(Change::DeregisterInstance { node, id: Name::clone(&check.service_id) })
            }
            Timer::Session(id) => Some(Change::DestroySession(Name::clone(id))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_and_can_be_moved() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let (a, b) = (Timer::Ttl("a".into()), Timer::Session("b".into()));
        timers.set(a.clone(), start + Duration::from_secs(2));
        timers.set(b.clone(), start + Duration::from_secs(1));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        timers.set(b.clone(), start + Duration::from_secs(3));
        assert_eq!(timers.take_due(start + Duration::from_secs(2)), [a]);
        timers.remove(&b);
        assert_eq!(timers.next(), None);
    }
}
