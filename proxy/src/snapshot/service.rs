//! Services and endpoints: what the registry says, and what we measure about each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What the registry says now, by service name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    pub services: BTreeMap<Arc<str>, Records>,
}

/// All endpoints of one service. Shared by all that hold them: the same pointer means no change.
pub type Records = Arc<[EndpointRecord]>;

/// What a registry says anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// A service that is not named here is gone.
    pub whole: bool,
    /// `None`: the service is gone.
    pub services: BTreeMap<Arc<str>, Option<Records>>,
}

impl Delta {
    /// All there is.
    pub fn whole(catalogue: Catalogue) -> Self {
        let services = catalogue.services.into_iter().map(|(name, records)| (name, Some(records)));
        Self { whole: true, services: services.collect() }
    }
}

impl Catalogue {
    /// Takes over what differs, and names the services that do. The cost follows the delta unless it is whole.
    pub fn take(&mut self, delta: Delta) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::new();
        if delta.whole {
            self.services.retain(|name, _| {
                let stays = delta.services.get(name).is_some_and(Option::is_some);
                if !stays {
                    touched.insert(Arc::clone(name));
                }
                stays
            });
        }
        for (name, records) in delta.services {
            let differs = match records {
                Some(records) if self.services.get(&name).is_some_and(|old| *old == records) => false,
                Some(records) => {
                    self.services.insert(Arc::clone(&name), records);
                    true
                }
                None => self.services.remove(&name).is_some(),
            };
            if differs {
                touched.insert(name);
            }
        }
        touched
    }

    /// The same services, none of which has an endpoint.
    pub fn emptied(&self) -> Self {
        let nothing: Records = Arc::from([]);
        let services = self.services.keys().map(|name| (Arc::clone(name), Arc::clone(&nothing)));
        Self { services: services.collect() }
    }

    pub fn endpoints(&self) -> usize {
        self.services.values().map(|records| records.len()).sum()
    }
}

/// One endpoint as the registry has it. Addresses are unique within a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    pub address: SocketAddr,
    /// 1 to 65535.
    pub weight: u32,
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    pub status: EndpointStatus,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndpointStatus {
    #[default]
    Ready,
    /// Finishes what it has, gets nothing new.
    Draining,
    /// Known to be out of order.
    Down,
}

/// One endpoint in a snapshot.
#[derive(Debug)]
pub struct Endpoint {
    /// Hash of the address: the same over updates, workers and restarts.
    pub id: u64,
    pub address: SocketAddr,
    /// `address` as text, made once: log lines and policies want it.
    pub text: Arc<str>,
    pub weight: u32,
    pub zone: Arc<str>,
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub state: Arc<EndpointState>,
}

/// What all workers measure about one endpoint, together. It lives as long as the address stays in the catalogue.
/// Relaxed atomics on a cache line of their own, beside one that holds the `Arc`'s count and is hardly ever written;
/// read-modify-write races only blur an average.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    /// Requests sent and not yet answered.
    pub in_flight: AtomicU32,
    /// Moving average of the time to the first byte, µs; 0 until the first answer.
    pub latency_us: AtomicU32,
    /// Share of recent attempts that succeeded, in thousandths.
    pub success: AtomicU32,
    /// Utilisation the endpoint reports about itself (ORCA), in thousandths; 0 if none.
    pub reported: AtomicU32,
    /// Failures since the last success.
    pub failures: AtomicU32,
    /// Ejections since the last long spell without one.
    pub ejections: AtomicU32,
    /// Not to be picked before this instant, in ms of `clock::now_ms`; 0 if never ejected.
    pub ejected_until_ms: AtomicU64,
}

impl Default for EndpointState {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU32::new(0),
            success: AtomicU32::new(1000),
            reported: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(addresses: &[&str]) -> Records {
        let record = |address: &&str| EndpointRecord {
            address: address.parse().unwrap(),
            weight: 1,
            zone: String::new(),
            labels: BTreeMap::new(),
            status: EndpointStatus::Ready,
        };
        addresses.iter().map(record).collect()
    }

    #[test]
    fn a_delta_touches_only_what_differs() {
        let mut catalogue = Catalogue::default();
        let all = [("api", &["10.0.1.1:80"][..]), ("web", &["10.0.0.1:80"])];
        let all = all.map(|(name, list)| (Arc::from(name), Some(records(list))));
        let whole = Delta { whole: true, services: all.into() };
        assert_eq!(catalogue.take(whole.clone()).len(), 2);
        let before = Arc::clone(&catalogue.services["web"]);
        assert!(catalogue.take(whole).is_empty());
        assert!(Arc::ptr_eq(&before, &catalogue.services["web"]), "the same value keeps its pointer");

        let services = [("web".into(), Some(records(&["10.0.0.2:80"]))), ("no".into(), None)].into();
        let touched = catalogue.take(Delta { whole: false, services });
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["web".into()]);
        assert_eq!(catalogue.endpoints(), 2);
        let touched = catalogue.take(Delta { whole: true, services: BTreeMap::new() });
        assert_eq!((touched.len(), catalogue.services.len()), (2, 0));
    }
}
