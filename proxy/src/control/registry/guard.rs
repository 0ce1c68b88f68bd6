//! Protection from a registry that forgets: it was restored empty, or lost all leases in one go.
//!
//! Control passes every delta through `take`, which answers what is to be served: what the registry says and, when
//! far more endpoints vanish than come within a short time, those that vanished, for as long as they answer. Pure but
//! for `probe`. Invariant: an endpoint that the registry says is draining or down is never kept.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::config::MassRemoval;
use crate::snapshot::{Catalogue, Delta, EndpointRecord, EndpointStatus, Records};

/// What vanishes within this time counts together.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer endpoints are no mass, unless the registry has said all there is.
const MASS_MIN: usize = 3;
/// Endpoints kept at most; the others go.
pub const HELD_MAX: usize = 20_000;
/// Connections tried at once, and how long for.
const PROBES_MAX: usize = 64;
const PROBE_TIME: Duration = Duration::from_secs(1);

/// An endpoint of a service.
pub type Key = (Arc<str>, SocketAddr);

/// What the registry says, and what is kept in spite of it.
#[derive(Debug)]
pub struct Guard {
    settings: MassRemoval,
    told: Catalogue,
    /// Endpoints told now.
    count: usize,
    held: BTreeMap<Key, Held>,
    /// What vanished within the window.
    vanished: VecDeque<(Instant, Arc<str>, EndpointRecord)>,
    /// How many endpoints there were within the window.
    levels: VecDeque<(Instant, usize)>,
}

#[derive(Debug)]
struct Held {
    record: EndpointRecord,
    until: Instant,
}

impl Guard {
    /// `told` is what is served at the start.
    pub fn new(settings: MassRemoval, told: Catalogue) -> Self {
        let count = told.endpoints();
        Self {
            settings,
            told,
            count,
            held: BTreeMap::new(),
            vanished: VecDeque::new(),
            levels: VecDeque::new(),
        }
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What is to be served in place of what the registry says.
    pub fn take(&mut self, delta: Delta, now: Instant) -> Delta {
        self.forget_before(now);
        self.levels.push_back((now, self.count));
        let whole = delta.whole;
        let mut touched = self.note(delta, now);
        if self.is_mass(whole) {
            touched.extend(self.hold(now));
        }
        self.served(touched)
    }

    /// Takes over what the registry says, and notes what vanishes.
    fn note(&mut self, delta: Delta, now: Instant) -> BTreeSet<Arc<str>> {
        let named: Vec<Arc<str>> = match delta.whole {
            true => self.told.services.keys().chain(delta.services.keys()).cloned().collect(),
            false => delta.services.keys().cloned().collect(),
        };
        let before: BTreeMap<Arc<str>, Records> = named
            .into_iter()
            .filter_map(|name| self.told.services.get(&name).map(|old| (name, Arc::clone(old))))
            .collect();
        let mut touched = self.told.take(delta);
        for name in &touched {
            let (old, new) = (before.get(name), self.told.services.get(name));
            let (old, new) = (old.map_or(&[][..], |old| old), new.map_or(&[][..], |new| new));
            self.count = self.count + new.len() - old.len();
            let stays: HashSet<SocketAddr> = new.iter().map(|record| record.address).collect();
            let gone = old
                .iter()
                .filter(|r| r.status == EndpointStatus::Ready && !stays.contains(&r.address))
                .map(|record| (now, Arc::clone(name), record.clone()));
            self.vanished.extend(gone);
        }
        // What is told again needs not be kept.
        let told = &self.told;
        self.held.retain(|(name, address), _| {
            let again = touched.contains(name)
                && told.services.get(name).is_some_and(|all| all.iter().any(|r| r.address == *address));
            !again
        });
        touched.retain(|name| before.contains_key(name) || self.told.services.contains_key(name));
        touched
    }

    fn is_mass(&self, whole: bool) -> bool {
        let highest = self.levels.iter().map(|(_, count)| *count).max().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 endpoints")]
        let left = (1.0 - self.settings.share) * highest as f64;
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 endpoints")]
        let below = (self.count as f64) < left;
        below && self.settings.share < 1.0 && (whole || self.vanished.len() >= MASS_MIN)
    }

    fn hold(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut services = Vec::new();
        let until = now + self.settings.hold;
        for (_, service, record) in self.vanished.drain(..) {
            let told = self.told.services.get(&service);
            let back = told.is_some_and(|all| all.iter().any(|r| r.address == record.address));
            if back || self.held.len() >= HELD_MAX {
                continue;
            }
            services.push(Arc::clone(&service));
            self.held.insert((service, record.address), Held { record, until });
        }
        services
    }

    /// What to try, in order.
    pub fn keys(&self) -> Vec<Key> {
        self.held.keys().cloned().collect()
    }

    /// Lets go of what does not answer, or has been kept for long enough.
    pub fn probed(&mut self, silent: &[Key], now: Instant) -> Delta {
        let mut touched = BTreeSet::new();
        let silent: BTreeSet<&Key> = silent.iter().collect();
        self.held.retain(|key, held| {
            let stays = held.until > now && !silent.contains(key);
            if !stays {
                touched.insert(Arc::clone(&key.0));
            }
            stays
        });
        self.served(touched)
    }

    fn served(&self, touched: BTreeSet<Arc<str>>) -> Delta {
        let services = touched.into_iter().map(|name| {
            let told = self.told.services.get(&name);
            let from = (Arc::clone(&name), SocketAddr::from(([0, 0, 0, 0], 0)));
            let held = self.held.range(from..).take_while(|((service, _), _)| *service == name);
            let mut held = held.map(|(_, held)| held.record.clone()).peekable();
            if held.peek().is_none() {
                return (name, told.cloned());
            }
            let records = told.into_iter().flat_map(|told| told.iter().cloned()).chain(held).collect();
            (name, Some(records))
        });
        Delta { whole: false, services: services.collect() }
    }

    fn forget_before(&mut self, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) > WINDOW;
        while self.vanished.front().is_some_and(|(at, ..)| old(*at)) {
            self.vanished.pop_front();
        }
        while self.levels.front().is_some_and(|(at, _)| old(*at)) {
            self.levels.pop_front();
        }
    }
}

/// Those to which no connection can be made.
pub async fn probe(keys: Vec<Key>) -> Vec<Key> {
    let places = Arc::new(Semaphore::new(PROBES_MAX));
    let mut probes = JoinSet::new();
    for key in keys {
        let places = Arc::clone(&places);
        probes.spawn(async move {
            let _place = places.acquire_owned().await;
            let answered = matches!(timeout(PROBE_TIME, TcpStream::connect(key.1)).await, Ok(Ok(_)));
            (!answered).then_some(key)
        });
    }
    let mut silent = Vec::new();
    while let Some(probed) = probes.join_next().await {
        silent.extend(probed.ok().flatten());
    }
    silent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::{catalogue, record};

    fn guard(told: &Catalogue) -> Guard {
        Guard::new(MassRemoval { share: 0.5, hold: Duration::from_secs(60) }, told.clone())
    }

    fn one(name: &str, addresses: &[&str]) -> Delta {
        let records = addresses.iter().map(|address| record(address)).collect();
        Delta { whole: false, services: [(name.into(), Some(records))].into() }
    }

    fn sizes(delta: &Delta) -> Vec<(&str, Option<usize>)> {
        delta.services.iter().map(|(name, all)| (&**name, all.as_ref().map(|all| all.len()))).collect()
    }

    #[test]
    fn what_a_registry_forgets_is_kept_while_it_answers() {
        let told = catalogue(&[("api", 2), ("web", 4)]);
        let mut guard = guard(&told);
        let now = Instant::now();
        let emptied = guard.take(Delta { whole: true, ..Delta::default() }, now);
        assert_eq!(sizes(&emptied), [("api", Some(2)), ("web", Some(4))]);
        assert_eq!(guard.held(), 6);
        // One comes back and one is silent.
        let back = guard.take(one("web", &["10.0.1.0:80"]), now);
        assert_eq!((sizes(&back), guard.held()), (vec![("web", Some(4))], 5));
        let silent = [("web".into(), "10.0.1.3:80".parse().unwrap())];
        assert_eq!(sizes(&guard.probed(&silent, now)), [("web", Some(3))]);
        // The rest is given up in the end.
        let late = guard.probed(&[], now + Duration::from_secs(61));
        assert_eq!((sizes(&late), guard.held()), (vec![("api", None), ("web", Some(1))], 0));
    }

    #[test]
    fn leases_that_end_one_after_the_other_are_a_mass_too() {
        let mut guard = guard(&catalogue(&[("web", 4)]));
        let now = Instant::now();
        let all = ["10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80"];
        assert_eq!(sizes(&guard.take(one("web", &all), now)), [("web", Some(3))]);
        assert_eq!(sizes(&guard.take(one("web", &all[..2]), now)), [("web", Some(2))]);
        assert_eq!(sizes(&guard.take(one("web", &all[..1]), now)), [("web", Some(4))], "all three are back");
    }

    #[test]
    fn what_drains_or_is_replaced_may_go() {
        let now = Instant::now();
        let mut draining = catalogue(&[("web", 4)]);
        let mut list = draining.services["web"].to_vec();
        list.iter_mut().for_each(|record| record.status = EndpointStatus::Draining);
        draining.services.insert("web".into(), list.into());
        let mut guarded = guard(&draining);
        let gone = guarded.take(Delta { whole: true, ..Delta::default() }, now);
        assert_eq!((sizes(&gone), guarded.held()), (vec![("web", None)], 0));

        let mut replaced = guard(&catalogue(&[("web", 4)]));
        let others = ["10.9.0.0:80", "10.9.0.1:80", "10.9.0.2:80"];
        let others = replaced.take(one("web", &others), now);
        assert_eq!((sizes(&others), replaced.held()), (vec![("web", Some(3))], 0));
        // Slowly, so that each is believed.
        for (times, left) in [(1, 2), (2, 1), (3, 0)] {
            let addresses = ["10.9.0.0:80", "10.9.0.1:80"];
            replaced.take(one("web", &addresses[..left]), now + WINDOW * 2 * times);
        }
        assert_eq!(replaced.held(), 0);
    }
}
