//! From an endpoint's address back to the names that have it, for PTR records.
//!
//! Follows the snapshot by what differs from the one before, so that a change among ten thousand services costs the
//! services that it touches.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::{Pool, Snapshot};

/// Names told for one address; machines that run more services than this are told in part.
const NAMES_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Reverse {
    owners: HashMap<IpAddr, Vec<Owner>>,
}

/// An endpoint that has the address, at one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) service: Arc<str>,
    pub(super) id: u64,
}

impl Reverse {
    /// From `old`, which this index is of, to `new`.
    pub(super) fn follow(&mut self, old: &Snapshot, new: &Snapshot) {
        // Pools move when others go, so all that is old leaves before anything new comes.
        let differing: Vec<usize> = new.pools.differing(&old.pools, Arc::ptr_eq).collect();
        for index in &differing {
            old.pools
                .get(*index)
                .filter(|pool| is_whole(pool))
                .into_iter()
                .for_each(|pool| self.remove(pool));
        }
        for index in &differing {
            new.pools.get(*index).filter(|pool| is_whole(pool)).into_iter().for_each(|pool| self.add(pool));
        }
    }

    pub(super) fn owners(&self, address: IpAddr) -> &[Owner] {
        let owners = self.owners.get(&address.to_canonical()).map_or(&[][..], Vec::as_slice);
        &owners[..owners.len().min(NAMES_MAX)]
    }

    fn add(&mut self, pool: &Pool) {
        for endpoint in pool.endpoints.iter() {
            let owner = Owner { service: Arc::clone(&pool.service), id: endpoint.id };
            self.owners.entry(endpoint.address.ip().to_canonical()).or_default().push(owner);
        }
    }

    fn remove(&mut self, pool: &Pool) {
        for endpoint in pool.endpoints.iter() {
            let address = endpoint.address.ip().to_canonical();
            let Some(owners) = self.owners.get_mut(&address) else { continue };
            let place = owners.iter().position(|o| o.id == endpoint.id && o.service == pool.service);
            place.into_iter().for_each(|place| drop(owners.swap_remove(place)));
            if owners.is_empty() {
                self.owners.remove(&address);
            }
        }
    }
}

/// Not a part that a route names by labels: its endpoints are in the whole pool as well.
fn is_whole(pool: &Pool) -> bool {
    pool.name == pool.service
}
