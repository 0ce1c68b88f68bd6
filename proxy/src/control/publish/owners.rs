//! Which service has which endpoint's address, from one world to the next: for connections that are captured.

use std::net::SocketAddr;
use std::sync::Arc;

use super::World;
use crate::snapshot::Shelf;

impl World {
    /// With an index of endpoints' addresses, if clients that dial them are captured. It follows from the one of
    /// `previous` by what differs. Endpoints that are not ready and change alone are told with the next snapshot.
    pub fn owning(mut self, previous: Option<&Self>) -> Self {
        let capture = self.snapshot.config.capture.as_ref();
        if capture.is_none_or(|capture| capture.outbound.addresses.is_empty()) {
            return self;
        }
        let (no_members, no_pools) = (Shelf::default(), Shelf::default());
        let (members, pools) =
            previous.map_or((&no_members, &no_pools), |old| (&old.members, &old.snapshot.pools));
        // What the registry says may differ where the pool does not, and another service may lie there.
        let mut differing: Vec<usize> = self.members.differing(members, Arc::ptr_eq).collect();
        differing.extend(self.snapshot.pools.differing(pools, Arc::ptr_eq));
        differing.sort_unstable();
        differing.dedup();
        let mut owners = previous.map(|old| old.owners.clone()).unwrap_or_default();
        // Services move when others go, so all that is old leaves before anything new comes.
        for (service, address) in previous.iter().flat_map(|old| old.owned(&differing)) {
            owners.remove(address, service);
        }
        for (service, address) in self.owned(&differing) {
            owners.add(address, service);
        }
        if let Some(snapshot) = Arc::get_mut(&mut self.snapshot) {
            snapshot.owners = owners.clone();
        }
        self.owners = owners;
        self
    }

    /// The addresses of the services at these places. A part's are those of its service, which lies elsewhere.
    fn owned<'a>(&'a self, places: &'a [usize]) -> impl Iterator<Item = (&'a Arc<str>, SocketAddr)> {
        let places = places.iter().filter_map(|at| self.snapshot.pools.get(*at).zip(self.members.get(*at)));
        let whole = places.filter(|(pool, _)| pool.name == pool.service);
        whole.flat_map(|(pool, members)| {
            members.records.iter().map(move |record| (&pool.service, record.address))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::control::fixtures::{backend, config, record, router};
    use crate::control::publish::{Pin, Pins};
    use crate::snapshot::{Catalogue, Delta, Digest, EndpointRecord, EndpointStatus, Meant};

    fn captured() -> Config {
        let text = "registry: {file: services.yaml}\ncapture: {}\n";
        let capture = crate::config::parse(text, "o.yaml", Path::new("")).unwrap().capture;
        Config { capture, ..config() }
    }

    fn next(previous: Option<&World>, config: &Config, catalogue: &Catalogue) -> World {
        let pin = |name: &str| (name.into(), Pin { digest: Digest::of(b"x"), epoch: 1, configuration: None });
        let pins: Pins = ["p2c", "canary"].map(pin).into();
        World::next(previous, &Arc::new(config.clone()), catalogue, &pins).unwrap().owning(previous)
    }

    /// Nobody is missing, and nobody is there who should not be.
    fn assert_told(world: &World, catalogue: &Catalogue) {
        let mut wanted: BTreeMap<SocketAddr, BTreeSet<&Arc<str>>> = BTreeMap::new();
        for (service, records) in &catalogue.services {
            for record in records.iter() {
                wanted.entry(record.address).or_default().insert(service);
            }
        }
        assert_eq!(world.owners.len(), wanted.len());
        for (address, services) in wanted {
            assert!(world.owners.at(address).iter().eq(services), "{address}");
        }
    }

    /// Services share addresses, drain, come and go, and are named by the configuration and no more.
    #[test]
    fn the_index_is_what_the_catalogue_says_however_it_came_about() {
        for seed in 1..=6_u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut config, mut catalogue) = (captured(), Catalogue::default());
            let mut world = next(None, &config, &catalogue);
            for _ in 0..60 {
                let mut delta = Delta::default();
                for _ in 0..=random(6) {
                    let records = (0..random(4)).map(|at| EndpointRecord {
                        status: if random(3) == 0 { EndpointStatus::Draining } else { EndpointStatus::Ready },
                        labels: [("version".to_owned(), format!("v{}", random(2)))].into(),
                        ..record(&format!("10.0.0.{}:{}", random(9), 80 + at))
                    });
                    let records: Vec<EndpointRecord> = records.collect();
                    let records = (random(3) > 0).then(|| records.into());
                    delta.services.insert(format!("s{}", random(20)).into(), records);
                }
                let touched = catalogue.take(delta);
                let reload = random(4) == 0;
                let made = match reload {
                    true => {
                        let named = format!("s{}", random(20));
                        config.services = [(named, config.defaults.clone())].into();
                        let part = backend(&format!("s{}", random(20)), &[("version", "v1")]);
                        config.routes = vec![router("r", "canary", vec![part])];
                        next(Some(&world), &config, &catalogue)
                    }
                    false => world.patched(&catalogue, &touched).owning(Some(&world)),
                };
                // What workers would not notice is not published.
                world = if made.same_as(&world) { made.under(&world) } else { made };
                assert_told(&world, &catalogue);
            }
        }
    }

    #[test]
    fn a_connection_is_meant_for_who_has_the_address() {
        let mut catalogue = Catalogue::default();
        let draining = EndpointRecord { status: EndpointStatus::Draining, ..record("10.0.0.2:80") };
        catalogue.services.insert("web".into(), [record("10.0.0.1:80"), draining].into());
        let world = next(None, &captured(), &catalogue);
        let meant = |address: &str| world.snapshot.meant_by(address.parse().unwrap());
        for known in ["10.0.0.1:80", "10.0.0.2:80", "[::ffff:10.0.0.1]:80"] {
            assert_eq!(meant(known), Meant::Services(&["web".into()]), "{known}");
        }
        assert_eq!(meant("10.0.0.1:81"), Meant::Unknown);
        let uncaptured = next(None, &config(), &catalogue);
        assert!(uncaptured.owners.is_empty(), "nobody needs it");
    }

    /// 100,000 endpoints: one change copies a piece of the index.
    #[test]
    fn the_cost_of_a_change_does_not_follow_the_catalogue() {
        let mut all = Catalogue::default();
        for service in 0..10_000_u32 {
            let [_, _, high, low] = service.to_be_bytes();
            let records = (0..10_u16).map(|port| record(&format!("10.1.{high}.{low}:{}", 80 + port)));
            all.services.insert(format!("s{service:05}").into(), records.collect());
        }
        let mut world = next(None, &captured(), &all);
        let changes = 100;
        let start = std::time::Instant::now();
        for change in 0..changes {
            let name = format!("s{:05}", change * 37);
            let services = [(name.as_str().into(), Some(all.services[&*name][..9].into()))].into();
            let touched = all.take(Delta { whole: false, services });
            world = world.patched(&all, &touched).owning(Some(&world));
        }
        eprintln!("{:?} for one change", start.elapsed() / changes);
        assert_eq!(world.owners.len(), 100_000 - 100);
    }
}
