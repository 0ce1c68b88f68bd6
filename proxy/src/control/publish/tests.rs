use super::*;
use crate::config::{HashKey, RouteMatch};
use crate::control::fixtures::{backend, catalogue, config, record, router};
use crate::control::prepare::Eager;
use crate::snapshot::{EndpointRecord, EndpointStatus};

fn pins() -> Pins {
    ["p2c", "canary"]
        .map(|name| (name.into(), Pin { digest: Digest::of(name.as_bytes()), epoch: 1, configuration: None }))
        .into()
}

fn next(previous: Option<&World>, config: &Config, catalogue: &Catalogue) -> World {
    World::next(previous, &Arc::new(config.clone()), catalogue, &pins()).unwrap()
}

fn addresses(world: &World, pool: &str) -> Vec<String> {
    let mut addresses: Vec<String> =
        world.pool(pool).unwrap().endpoints.iter().map(|e| e.text.to_string()).collect();
    addresses.sort();
    addresses
}

fn edit(catalogue: &mut Catalogue, service: &str, change: impl FnOnce(&mut Vec<EndpointRecord>)) {
    let mut list = catalogue.services[service].to_vec();
    change(&mut list);
    catalogue.services.insert(service.into(), list.into());
}

#[test]
fn nothing_changed_shares_everything_but_the_number() {
    let (config, catalogue) = (config(), catalogue(&[("api", 3), ("web", 2)]));
    let first = next(None, &config, &catalogue);
    let second = next(Some(&first), &config, &catalogue);
    assert_eq!((first.snapshot.version, second.snapshot.version), (1, 2));
    assert!(second.same_as(&first));
    for (a, b) in first.snapshot.pools.iter().zip(second.snapshot.pools.iter()) {
        assert!(Arc::ptr_eq(a, b), "{}", a.name);
    }
}

#[test]
fn one_new_endpoint_leaves_the_rest_in_place() {
    let (config, mut changed) = (config(), catalogue(&[("api", 3), ("web", 2)]));
    let first = next(None, &config, &changed);
    edit(&mut changed, "web", |list| list.push(record("10.9.9.9:80")));
    let second = next(Some(&first), &config, &changed);
    assert!(!second.same_as(&first));
    assert!(Arc::ptr_eq(first.pool("api").unwrap(), second.pool("api").unwrap()));
    assert!(Arc::ptr_eq(&first.snapshot.routes, &second.snapshot.routes));
    let (old, new) = (first.pool("web").unwrap(), second.pool("web").unwrap());
    assert_eq!(new.endpoints.len(), 3);
    assert!(Arc::ptr_eq(&old.settings, &new.settings));
    for endpoint in &*old.endpoints {
        assert!(new.endpoints.iter().any(|e| Arc::ptr_eq(e, endpoint)), "{}", endpoint.text);
    }
    assert!(new.endpoints.is_sorted_by_key(|e| e.id));
}

#[test]
fn a_changed_endpoint_keeps_its_counters() {
    let (config, mut changed) = (config(), catalogue(&[("web", 2)]));
    let first = next(None, &config, &changed);
    edit(&mut changed, "web", |list| list[0].weight = 7);
    let second = next(Some(&first), &config, &changed);
    let weighted = second.pool("web").unwrap().endpoints.iter().find(|e| e.weight == 7).unwrap();
    let before = first.pool("web").unwrap().endpoints.iter().find(|e| e.id == weighted.id).unwrap();
    assert!(Arc::ptr_eq(&before.state, &weighted.state));
    assert!(!Arc::ptr_eq(before, weighted));
}

#[test]
fn what_drains_is_left_out_and_comes_back_as_it_was() {
    let (config, ready) = (config(), catalogue(&[("web", 2)]));
    let first = next(None, &config, &ready);
    let mut draining = ready.clone();
    edit(&mut draining, "web", |list| {
        list[0].status = EndpointStatus::Draining;
        list[1].status = EndpointStatus::Down;
    });
    let second = next(Some(&first), &config, &draining);
    assert!(second.pool("web").unwrap().endpoints.is_empty());
    assert_eq!(second.members_of("web").unwrap().endpoints.len(), 2);
    let third = next(Some(&second), &config, &ready);
    assert!(same_items(
        first.pool("web").unwrap().endpoints.iter(),
        third.pool("web").unwrap().endpoints.iter()
    ));
}

#[test]
fn services_come_from_configuration_catalogue_and_routes() {
    let mut config = config();
    config.services.insert("configured".into(), config.defaults.clone());
    config.routes.push(router(
        "r",
        "canary",
        vec![backend("absent", &[]), backend("web", &[("version", "v2")])],
    ));
    let mut catalogue = catalogue(&[("web", 2)]);
    edit(&mut catalogue, "web", |list| drop(list[0].labels.insert("version".into(), "v2".into())));
    let world = next(None, &config, &catalogue);
    let names: Vec<&str> = world.snapshot.pools.iter().map(|p| &*p.name).collect();
    assert_eq!(names, ["absent", "configured", "web", "web{version=v2}"]);
    assert_eq!(addresses(&world, "web{version=v2}").len(), 1);
    assert!(addresses(&world, "absent").is_empty());
    let RouteTarget::Router(router) = &world.snapshot.routes.routes()[0].target else { panic!("a router") };
    assert_eq!(router.backends, [0, 3]);
    assert_eq!(&*router.backend_names, ["absent", "web"]);
    assert_eq!(world.snapshot.service_of("web.mesh.internal:80"), Some(2));
}

#[test]
fn a_label_moves_an_endpoint_between_parts_only() {
    let mut config = config();
    config.routes.push(router("r", "canary", vec![backend("web", &[("version", "v1")])]));
    let mut catalogue = catalogue(&[("web", 3)]);
    let label = |catalogue: &mut Catalogue, index: usize, version: &str| {
        edit(catalogue, "web", |list| drop(list[index].labels.insert("version".into(), version.into())));
    };
    label(&mut catalogue, 0, "v1");
    let first = next(None, &config, &catalogue);
    label(&mut catalogue, 1, "v2");
    let second = next(Some(&first), &config, &catalogue);
    assert!(Arc::ptr_eq(first.pool("web{version=v1}").unwrap(), second.pool("web{version=v1}").unwrap()));
    assert!(!Arc::ptr_eq(first.pool("web").unwrap(), second.pool("web").unwrap()));
}

#[test]
fn a_new_pin_touches_only_what_uses_the_policy() {
    let mut config = config();
    config.routes.push(router("r", "canary", vec![backend("web", &[])]));
    let catalogue = catalogue(&[("web", 1)]);
    let first = next(None, &config, &catalogue);
    let mut moved = pins();
    moved.get_mut("canary").unwrap().epoch = 2;
    let second = World::next(Some(&first), &Arc::new(config.clone()), &catalogue, &moved).unwrap();
    assert!(Arc::ptr_eq(first.pool("web").unwrap(), second.pool("web").unwrap()));
    assert!(!Arc::ptr_eq(&first.snapshot.routes, &second.snapshot.routes));
    let none = World::next(None, &Arc::new(config), &catalogue, &Pins::new());
    assert_eq!(none.unwrap_err(), Unpinned("p2c".into()));
}

#[test]
fn settings_and_routes_are_compared_by_value() {
    let catalogue = catalogue(&[("api", 1), ("web", 1)]);
    let mut changed = config();
    let first = next(None, &changed, &catalogue);
    changed.services.insert("web".into(), changed.defaults.clone());
    changed.services.get_mut("web").unwrap().hash_key = HashKey::Path;
    let second = next(Some(&first), &changed, &catalogue);
    assert!(Arc::ptr_eq(first.pool("api").unwrap(), second.pool("api").unwrap()));
    assert_eq!(second.pool("web").unwrap().settings.hash_key, HashKey::Path);
    assert!(Arc::ptr_eq(&first.pool("web").unwrap().endpoints, &second.pool("web").unwrap().endpoints));
    let mut route = router("r", "canary", vec![backend("web", &[])]);
    route.matches = RouteMatch { methods: vec!["GET".into()], ..RouteMatch::default() };
    changed.routes.push(route);
    let third = next(Some(&second), &changed, &catalogue);
    changed.routes[0].matches.methods.clear();
    let fourth = next(Some(&third), &changed, &catalogue);
    assert!(!Arc::ptr_eq(&third.snapshot.routes, &fourth.snapshot.routes));
}

#[test]
fn ids_are_stable() {
    // Written down: consistent hashing must survive a new version of the program.
    assert_eq!(endpoint_id("10.0.0.7:8080"), 0x5ebd_9537_e0e1_26db);
}

/// As the whole way round would have it, but with everything else shared.
#[test]
fn a_patch_is_what_next_would_make() {
    let mut config = config();
    config.routes.push(router("r", "canary", vec![backend("web", &[("version", "v1")])]));
    let mut catalogue = catalogue(&[("api", 3), ("web", 3)]);
    edit(&mut catalogue, "web", |list| drop(list[0].labels.insert("version".into(), "v1".into())));
    let first = next(None, &config, &catalogue);
    edit(&mut catalogue, "web", |list| drop(list.remove(0)));
    let touched = BTreeSet::from(["web".into()]);
    let (patched, whole) = (first.patched(&catalogue, &touched), next(Some(&first), &config, &catalogue));
    assert_eq!(patched.snapshot.version, whole.snapshot.version);
    for pool in ["api", "web", "web{version=v1}"] {
        assert_eq!(addresses(&patched, pool), addresses(&whole, pool), "{pool}");
    }
    // Named by a route: `web` and its part come first, `api` after them.
    assert_eq!(patched.snapshot.patch.as_ref().unwrap().pools, [0, 1]);
    assert!(Arc::ptr_eq(first.pool("api").unwrap(), patched.pool("api").unwrap()));
    assert!(Arc::ptr_eq(&first.snapshot.routes, &patched.snapshot.routes));
    // Draining: no pool has it, but the members do.
    edit(&mut catalogue, "api", |list| list[0].status = EndpointStatus::Draining);
    let third = patched.patched(&catalogue, &BTreeSet::from(["api".into(), "nobody".into()]));
    assert_eq!((addresses(&third, "api").len(), third.members_of("api").unwrap().endpoints.len()), (2, 3));
    // The same again changes nothing that workers see.
    let again = third.patched(&catalogue, &BTreeSet::from(["api".into()]));
    assert!(again.same_as(&third));
}

/// What anybody can see of a world, wherever its pools lie.
fn seen(world: &World) -> BTreeMap<String, String> {
    let snapshot = &world.snapshot;
    let mut seen = BTreeMap::new();
    for (at, pool) in snapshot.pools.iter().enumerate() {
        let Pool { name, service, settings, balancer, endpoints } = &**pool;
        assert_eq!(snapshot.place_of(name), Some(at), "{name}");
        assert_eq!(
            snapshot.service_of(&format!("{service}.mesh.internal:80")),
            snapshot.services.get(service)
        );
        let members = &world.members[at];
        assert!(Arc::ptr_eq(members, world.members_of(service).unwrap()), "{name}");
        let records: Vec<_> = members.records.iter().zip(&members.endpoints).collect();
        let text = format!("{service} {settings:?} {balancer:?} {endpoints:?} {records:?}");
        assert!(seen.insert(name.to_string(), text).is_none(), "{name} is there twice");
    }
    let whole = snapshot.pools.len() - snapshot.parts.len();
    assert_eq!((snapshot.services.len(), world.members.len()), (whole, snapshot.pools.len()));
    let names = |index: &usize| snapshot.pools[*index].name.to_string();
    for route in snapshot.routes.routes() {
        let RouteTarget::Router(router) = &route.target else { continue };
        let backends: Vec<String> = router.backends.iter().map(names).collect();
        seen.insert(format!("route {}", route.name), backends.join(" "));
    }
    seen
}

/// Services of a catalogue come, change and go at random, many at once; the configuration names some of them.
#[test]
fn patches_make_the_world_that_would_be_made_from_scratch() {
    let mut config = config();
    config.services.insert("s3".into(), config.defaults.clone());
    config.routes.push(router("r", "canary", vec![backend("s5", &[("version", "v1")]), backend("s7", &[])]));
    for seed in 1..=6_u64 {
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut catalogue = Catalogue::default();
        let mut world = next(None, &config, &catalogue);
        for _ in 0..40 {
            let mut delta = crate::snapshot::Delta::default();
            for _ in 0..=random(12) {
                let service = random(if seed % 2 == 0 { 12 } else { 60 });
                let records = (0..random(4)).map(|at| EndpointRecord {
                    weight: 1 + random(2) as u32,
                    status: if random(4) == 0 { EndpointStatus::Draining } else { EndpointStatus::Ready },
                    labels: BTreeMap::from([("version".to_owned(), format!("v{}", random(2)))]),
                    ..record(&format!("10.0.{}.{at}:80", service % 250))
                });
                let records: Vec<EndpointRecord> = records.collect();
                let records = (random(3) > 0).then(|| records.into());
                delta.services.insert(format!("s{service}").into(), records);
            }
            let touched = catalogue.take(delta);
            let (before, patched) = (&world, world.patched(&catalogue, &touched));
            assert_eq!(seen(&patched), seen(&next(Some(before), &config, &catalogue)));
            let scratch = next(None, &config, &catalogue);
            assert!(seen(&patched).keys().eq(seen(&scratch).keys()));
            assert!(next(Some(&patched), &config, &catalogue).same_as(&patched), "nothing has moved");
            told_apart(before, &patched);
            world = patched;
        }
    }
}

/// A patch names all that workers have to touch, and no more.
fn told_apart(old: &World, new: &World) {
    let (a, b) = (&old.snapshot, &new.snapshot);
    if Arc::ptr_eq(a, b) {
        return;
    }
    let patch = b.patch.as_ref().unwrap();
    assert_eq!((patch.base, b.version), (a.version, a.version + 1));
    let differ = |at: &usize| a.pools.get(*at).is_none_or(|pool| !Arc::ptr_eq(pool, &b.pools[*at]));
    assert_eq!(patch.pools, (0..b.pools.len()).filter(differ).collect::<Vec<_>>());
    let gone = a.services.iter().map(|(name, _)| name).filter(|name| !b.services.contains(name));
    assert_eq!(patch.gone.iter().collect::<BTreeSet<_>>(), gone.collect());
    assert!(Arc::ptr_eq(&a.routes, &b.routes) && a.parts == b.parts);
}

/// 10,000 services with 10 endpoints each: one change makes one pool and shares all others.
#[test]
fn the_cost_of_a_change_does_not_follow_the_catalogue() {
    let mut all = Catalogue::default();
    for service in 0..10_000_u32 {
        let [_, _, high, low] = service.to_be_bytes();
        let records = (0..10_u16).map(|port| record(&format!("10.1.{high}.{low}:{}", 80 + port)));
        all.services.insert(format!("s{service:05}").into(), records.collect());
    }
    let first = next(None, &config(), &all);
    assert_eq!(Eager::of(&first), Eager::Named);
    let changes = 200;
    let start = std::time::Instant::now();
    let mut world = first;
    for change in 0..changes {
        let name = format!("s{:05}", change * 37);
        let delta = crate::snapshot::Delta {
            whole: false,
            services: [(name.as_str().into(), Some(all.services[&*name][..9].into()))].into(),
        };
        let touched = all.take(delta);
        let patched = world.patched(&all, &touched);
        assert_eq!(patched.snapshot.patch.as_ref().unwrap().pools.len(), 1);
        if change == 0 {
            let pairs = world.snapshot.pools.iter().zip(patched.snapshot.pools.iter());
            assert_eq!(pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        }
        world = patched;
    }
    eprintln!("{:?} for one change", start.elapsed() / changes);

    // A service that goes gives its place to the last, a service that comes lies at the end: no other moves.
    let (name, came) = (Arc::<str>::from("s00040"), Arc::<str>::from("new"));
    let records = all.services.remove(&name).unwrap();
    let less = world.patched(&all, &BTreeSet::from([Arc::clone(&name)]));
    let patch = less.snapshot.patch.as_ref().unwrap();
    assert_eq!((&*patch.pools, &*patch.gone), (&[40][..], &[name][..]));
    all.services.insert(Arc::clone(&came), records);
    let more = less.patched(&all, &BTreeSet::from([came]));
    assert_eq!(more.snapshot.patch.as_ref().unwrap().pools, [9_999]);
    let same = world.snapshot.pools.iter().zip(more.snapshot.pools.iter());
    assert_eq!(same.filter(|(a, b)| Arc::ptr_eq(a, b)).count(), 9_998);
}
