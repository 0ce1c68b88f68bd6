//! The next world where only services of the catalogue differ: their endpoints, or whether there are any.
//!
//! The cost follows what has changed. A service that is gone gives its place to one that is new, or to the last one
//! in the list, so that places stay few and close together. Services that the configuration names keep theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Members, World};
use crate::snapshot::{Catalogue, Endpoint, Patch, Pool, Records, Snapshot};

/// What lies at one index.
type Place = (Arc<Pool>, Arc<Members>);

/// The differences as they are put together.
struct Edit<'a> {
    world: &'a World,
    /// By index.
    places: BTreeMap<usize, Place>,
    added: Vec<Place>,
    /// Indices that services have left.
    free: BTreeSet<usize>,
    gone: Vec<Arc<str>>,
}

impl World {
    /// The world after this one, if nothing differs but what the catalogue says about these services.
    pub fn patched(&self, catalogue: &Catalogue, touched: &BTreeSet<Arc<str>>) -> Self {
        let (places, free) = (BTreeMap::new(), BTreeSet::new());
        let mut edit = Edit { world: self, places, added: Vec::new(), free, gone: Vec::new() };
        for name in touched {
            match (self.snapshot.services.get(name), catalogue.services.get(name)) {
                (Some(at), Some(records)) => edit.change(at, records),
                (Some(at), None) if at < self.snapshot.parts.end => edit.change(at, &Records::from([])),
                (Some(at), None) => edit.remove(at),
                (None, Some(records)) => edit.add(name, records),
                (None, None) => {}
            }
        }
        edit.done()
    }
}

impl Edit<'_> {
    fn change(&mut self, at: usize, records: &Records) {
        let world = self.world;
        let members = world.members[at].next(records);
        self.change_pool(at, &BTreeMap::new(), &members);
        for (pool, part) in world.snapshot.parts.clone().zip(&*world.parts) {
            if part.service == at {
                self.change_pool(pool, &part.labels, &members);
            }
        }
    }

    fn change_pool(&mut self, at: usize, labels: &BTreeMap<String, String>, members: &Arc<Members>) {
        let old = &self.world.snapshot.pools[at];
        let endpoints = members.fitting(labels, Some(old));
        let pool = match Arc::ptr_eq(&endpoints, &old.endpoints) {
            true => Arc::clone(old),
            false => Arc::new(Pool { endpoints, ..Pool::clone(old) }),
        };
        self.places.insert(at, (pool, Arc::clone(members)));
    }

    fn remove(&mut self, at: usize) {
        self.free.insert(at);
        self.gone.push(Arc::clone(&self.world.snapshot.pools[at].service));
    }

    fn add(&mut self, name: &Arc<str>, records: &Records) {
        let members = Members::nothing().next(records);
        let endpoints: Arc<[Arc<Endpoint>]> = members.fitting(&BTreeMap::new(), None);
        let super::Usual { settings, balancer } = self.world.usual.clone();
        let (name, service) = (Arc::clone(name), Arc::clone(name));
        self.added.push((Arc::new(Pool { name, service, settings, balancer, endpoints }), members));
    }

    /// New services take free places, or come at the end; places still free are filled from the end.
    fn settle(&mut self) -> usize {
        let pools = &self.world.snapshot.pools;
        let len = pools.len() + self.added.len() - self.free.len();
        let mut added = std::mem::take(&mut self.added).into_iter();
        for at in std::mem::take(&mut self.free) {
            if let Some(place) = added.next() {
                self.places.insert(at, place);
            } else {
                self.free.insert(at);
            }
        }
        self.places.extend((pools.len()..).zip(added));
        let leaving = (len..pools.len()).filter(|at| !self.free.contains(at));
        let holes = self.free.range(..len);
        let moves: Vec<(usize, usize)> = holes.copied().zip(leaving).collect();
        for (to, from) in moves {
            let moved = self.places.remove(&from);
            let moved =
                moved.unwrap_or_else(|| (Arc::clone(&pools[from]), Arc::clone(&self.world.members[from])));
            self.places.insert(to, moved);
        }
        drop(self.places.split_off(&len));
        len
    }

    fn done(mut self) -> World {
        let len = self.settle();
        let world = self.world;
        let old = &world.snapshot;
        let members = world.members.with(len, self.places.iter().map(|(at, (_, m))| (*at, Arc::clone(m))));
        let is_other = |at: usize, pool: &Arc<Pool>| old.pools.get(at).is_none_or(|o| !Arc::ptr_eq(o, pool));
        let others: Vec<(usize, Arc<Pool>)> = self
            .places
            .into_iter()
            .map(|(at, (pool, _))| (at, pool))
            .filter(|(at, p)| is_other(*at, p))
            .collect();
        let (parts, usual, owners) = (Arc::clone(&world.parts), world.usual.clone(), world.owners.clone());
        if others.is_empty() && len == old.pools.len() {
            return World { snapshot: Arc::clone(old), members, parts, usual, owners };
        }
        let named = others
            .iter()
            .filter(|(at, pool)| !old.parts.contains(at) && old.services.get(&pool.service) != Some(*at));
        let named: Vec<(Arc<str>, Option<usize>)> = (self.gone.iter().map(|name| (Arc::clone(name), None)))
            .chain(named.map(|(at, pool)| (Arc::clone(&pool.service), Some(*at))))
            .collect();
        let services = match named.is_empty() {
            true => Arc::clone(&old.services),
            false => Arc::new(old.services.with(named)),
        };
        let pools = others.iter().map(|(at, _)| *at).collect();
        let snapshot = Arc::new(Snapshot {
            version: old.version + 1,
            config: Arc::clone(&old.config),
            pools: old.pools.with(len, others),
            parts: old.parts.clone(),
            services,
            routes: Arc::clone(&old.routes),
            addresses: old.addresses.clone(),
            owners: old.owners.clone(),
            patch: Some(Patch { base: old.version, pools, gone: self.gone }),
        });
        World { snapshot, members, parts, usual, owners }
    }
}
