//! What the catalogue says about one service, as endpoints that keep their counters from one world to the next.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::snapshot::{Endpoint, EndpointRecord, EndpointState, EndpointStatus, Pool, Records};

/// What the catalogue says about one service. Both lists are parallel.
#[derive(Debug)]
pub struct Members {
    pub records: Records,
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Members {
    pub(super) fn nothing() -> Arc<Self> {
        Arc::new(Self { records: Arc::from([]), endpoints: Vec::new() })
    }

    pub(super) fn next(self: &Arc<Self>, records: &Records) -> Arc<Self> {
        if Arc::ptr_eq(&self.records, records) {
            return Arc::clone(self);
        }
        let old: HashMap<SocketAddr, (&EndpointRecord, &Arc<Endpoint>)> =
            self.records.iter().zip(&self.endpoints).map(|(r, e)| (r.address, (r, e))).collect();
        let endpoint = |record: &EndpointRecord| match old.get(&record.address) {
            Some((before, endpoint)) if same_facts(before, record) => Arc::clone(endpoint),
            Some((_, endpoint)) => Arc::new(endpoint_of(record, Arc::clone(&endpoint.state))),
            None => Arc::new(endpoint_of(record, Arc::default())),
        };
        let endpoints = records.iter().map(endpoint).collect();
        Arc::new(Self { records: Arc::clone(records), endpoints })
    }

    /// Those that are ready and carry the labels, in order of id; the old list if it is the same.
    pub(super) fn fitting(
        &self,
        labels: &BTreeMap<String, String>,
        old: Option<&Arc<Pool>>,
    ) -> Arc<[Arc<Endpoint>]> {
        let fits = |r: &EndpointRecord| {
            r.status == EndpointStatus::Ready
                && labels.iter().all(|(key, value)| r.labels.get(key) == Some(value))
        };
        let fitting = self.records.iter().zip(&self.endpoints).filter(|(r, _)| fits(r));
        let mut fitting: Vec<Arc<Endpoint>> = fitting.map(|(_, e)| Arc::clone(e)).collect();
        fitting.sort_by_key(|endpoint| (endpoint.id, endpoint.address));
        match old {
            Some(old) if same_items(old.endpoints.iter(), fitting.iter()) => Arc::clone(&old.endpoints),
            _ => fitting.into(),
        }
    }
}

/// All but the status, which is no part of an endpoint.
fn same_facts(a: &EndpointRecord, b: &EndpointRecord) -> bool {
    a.weight == b.weight && a.zone == b.zone && a.labels == b.labels
}

fn endpoint_of(record: &EndpointRecord, state: Arc<EndpointState>) -> Endpoint {
    let text: Arc<str> = record.address.to_string().into();
    Endpoint {
        id: endpoint_id(&text),
        address: record.address,
        text,
        weight: record.weight,
        // The empty one is shared by all.
        zone: if record.zone.is_empty() { Arc::default() } else { record.zone.as_str().into() },
        labels: record.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
        state,
    }
}

/// Stable over updates, workers and restarts: the first bytes of the SHA-256 of the address as text.
pub fn endpoint_id(address: &str) -> u64 {
    let hash = Sha256::digest(address.as_bytes());
    hash.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// Whether both hold the same items by pointer, in the same order.
pub(super) fn same_items<'a, T: 'a>(
    a: impl Iterator<Item = &'a Arc<T>>,
    mut b: impl Iterator<Item = &'a Arc<T>>,
) -> bool {
    let mut all = true;
    for item in a {
        all &= b.next().is_some_and(|other| Arc::ptr_eq(item, other));
    }
    all && b.next().is_none()
}
