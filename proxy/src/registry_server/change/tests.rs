use super::*;
use crate::registry_server::settings::{Flags, load};
use crate::registry_server::state::{Row, Topic};

/// A state with what its last change has touched.
struct World {
    state: State,
    touched: Touched,
    limits: Limits,
}

impl World {
    fn new() -> Self {
        let limits = load(None, Flags::default()).unwrap().limits;
        let mut world = Self { state: State::default(), touched: Touched::default(), limits };
        let row = NodeRow { name: "n".into(), address: "10.0.0.1".into(), ..NodeRow::default() };
        world.register(Registration { node: "n".into(), row: Some(row), ..Registration::default() }).unwrap();
        world
    }

    fn change(&mut self, change: Change) -> Result<Done, Refusal> {
        self.touched = Touched::default();
        apply(&mut self.state, &mut self.touched, change, &self.limits)
    }

    fn register(&mut self, registration: Registration) -> Result<Done, Refusal> {
        self.change(Change::Register(Box::new(registration)))
    }

    fn instance(&mut self, id: &str, service: &str, checks: &[&str]) -> Result<Done, Refusal> {
        let check = |check: &&str| Check {
            node: "n".into(),
            id: (*check).into(),
            service_id: id.into(),
            ..Check::default()
        };
        self.register(Registration {
            node: "n".into(),
            instance: Some(Instance { id: id.into(), service: service.into(), ..Instance::default() }),
            checks: checks.iter().map(check).collect(),
            keep_status: true,
            ..Registration::default()
        })
    }

    fn report(&mut self, id: &str, status: Status) -> Result<Done, Refusal> {
        self.change(Change::Report { node: "n".into(), id: id.into(), status, output: None })
    }
}

#[test]
fn a_change_moves_the_indexes_of_what_it_touches() {
    let mut world = World::new();
    world.instance("a1", "a", &["ca"]).unwrap();
    world.instance("b1", "b", &[]).unwrap();
    let (a, b) = (world.state.service_index("a"), world.state.service_index("b"));
    assert!(b > a);
    world.report("ca", Status::Passing).unwrap();
    assert!(world.state.service_index("a") > b);
    assert_eq!(world.state.service_index("b"), b);
    assert!(world.touched.topics.contains(&Topic::Service("a".into())));
    assert!(!world.touched.topics.contains(&Topic::Service("b".into())));
    assert!(world.touched.rows.iter().eq([&Row::Check("n".into(), "ca".into())]));
    let row = NodeRow { name: "n".into(), address: "10.0.0.2".into(), ..NodeRow::default() };
    world.register(Registration { node: "n".into(), row: Some(row), ..Registration::default() }).unwrap();
    assert_eq!(world.state.service_index("a"), world.state.service_index("b"), "both show the node");
    let seen = world.state.service_index("a");
    world.change(Change::DeregisterInstance { node: "n".into(), id: "a1".into() }).unwrap();
    assert!(world.state.service_index("a") > seen);
    assert_eq!((world.state.counts.instances, world.state.counts.checks), (1, 0));
}

#[test]
fn what_says_nothing_new_is_no_change() {
    let mut world = World::new();
    world.instance("a1", "a", &["ca"]).unwrap();
    world.report("ca", Status::Passing).unwrap();
    let index = world.state.index;
    world.instance("a1", "a", &["ca"]).unwrap();
    world.report("ca", Status::Passing).unwrap();
    assert_eq!(world.state.index, index);
    let check = world.state.nodes.get("n").unwrap().check("ca").unwrap();
    assert_eq!(check.status, Status::Passing, "a registration keeps it");
    assert_eq!(check.service_name, "a".into());
}

#[test]
fn an_instance_can_change_its_service() {
    let mut world = World::new();
    world.instance("x", "a", &["c"]).unwrap();
    world.instance("x", "b", &[]).unwrap();
    assert!(world.state.services.get("a").is_none());
    let found: Vec<_> = world.state.instances_of("b").collect();
    assert_eq!(found[0].checks()[0].service_name, "b".into());
    assert_eq!(world.state.counts.instances, 1);
}

#[test]
fn what_is_refused_leaves_no_trace() {
    let mut world = World::new();
    world.limits.checks = 1;
    let index = world.state.index;
    assert_eq!(
        world.instance("a1", "a", &["c1", "c2"]).unwrap_err(),
        Refusal::Full { table: "checks", max: 1 }
    );
    assert_eq!(world.state.index, index);
    assert!(world.state.services.is_empty() && world.state.counts.checks == 0);
    let unknown = world.change(Change::DeregisterInstance { node: "n".into(), id: "a1".into() });
    assert!(matches!(unknown, Err(Refusal::Unknown(_))));
    let lost = Check { node: "n".into(), id: "c".into(), service_id: "none".into(), ..Check::default() };
    let lost = Registration { node: "n".into(), checks: vec![lost], ..Registration::default() };
    assert!(matches!(world.register(lost), Err(Refusal::Unknown(_))));
}

#[test]
fn a_registration_may_replace_checks() {
    let mut world = World::new();
    world.instance("a1", "a", &["c1", "c2"]).unwrap();
    let instance = Instance { id: "a1".into(), service: "a".into(), ..Instance::default() };
    let check = Check { node: "n".into(), id: "c2".into(), service_id: "a1".into(), ..Check::default() };
    world
        .register(Registration {
            node: "n".into(),
            instance: Some(instance),
            checks: vec![check],
            replace_checks: true,
            ..Registration::default()
        })
        .unwrap();
    let left: Vec<_> = world.state.checks().map(|check| check.id.to_string()).collect();
    assert_eq!(left, ["c2"]);
}

#[test]
fn maintenance_is_a_critical_check() {
    let mut world = World::new();
    world.instance("a1", "a", &[]).unwrap();
    let change = |on: Option<&str>| Change::Maintenance {
        node: "n".into(),
        instance: Some("a1".into()),
        on: on.map(str::to_owned),
    };
    world.change(change(Some(""))).unwrap();
    let check = world.state.checks().next().unwrap().clone();
    assert_eq!((&*check.id, check.status), ("_service_maintenance:a1", Status::Critical));
    assert!(check.notes.contains("no reason was provided"));
    world.change(change(None)).unwrap();
    assert_eq!(world.state.counts.checks, 0);
}

#[test]
fn a_node_goes_with_all_that_is_on_it() {
    let mut world = World::new();
    world.instance("a1", "a", &["c1"]).unwrap();
    world.change(Change::DeregisterNode("n".into())).unwrap();
    assert!(world.state.nodes.is_empty() && world.state.services.is_empty());
    assert_eq!((world.state.counts.instances, world.state.counts.checks), (0, 0));
    assert_eq!(world.touched.rows.len(), 3);
}

fn op(verb: KvVerb, key: &str) -> KvOp {
    KvOp {
        verb,
        key: key.into(),
        value: bytes::Bytes::from_static(b"v"),
        flags: 0,
        index: 0,
        session: Name::default(),
    }
}

#[test]
fn keys_remember_when_they_went() {
    let mut world = World::new();
    for key in ["p/a", "p/b", "q"] {
        world.change(Change::Kv(op(KvVerb::Set, key))).unwrap();
    }
    assert_eq!(world.state.counts.kv_bytes, 3 + 3 + 1 + 3);
    let (prefix, q) = (world.state.prefix_index("p/"), world.state.key_index("q"));
    assert!(q > prefix);
    world.change(Change::Kv(op(KvVerb::Delete, "p/b"))).unwrap();
    assert!(world.state.prefix_index("p/") > q && world.state.key_index("p/b") > q);
    assert_eq!(world.state.key_index("q"), q);
    assert!(world.touched.topics.contains(&Topic::Keys("p".into())));
    world.change(Change::Kv(op(KvVerb::DeleteTree, ""))).unwrap();
    assert!(world.state.kv.is_empty() && world.state.counts.kv_bytes == 0);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let mut world = World::new();
    let ops = vec![op(KvVerb::Set, "a"), op(KvVerb::Get, "none")];
    assert!(matches!(world.change(Change::Txn(ops)), Err(Refusal::Txn(1, _))));
    assert!(world.state.kv.is_empty());
    let ops = vec![op(KvVerb::Set, "a"), op(KvVerb::Set, "b"), op(KvVerb::GetTree, "")];
    let Ok(Done::Txn(done)) = world.change(Change::Txn(ops)) else { panic!("refused") };
    assert_eq!(done.len(), 4);
}

#[test]
fn locks_are_held_by_one_session() {
    let mut world = World::new();
    let session = |id: &str, delay| Session {
        id: id.into(),
        behavior: "release".into(),
        lock_delay: std::time::Duration::from_secs(delay),
        ..Session::default()
    };
    world.change(Change::CreateSession(session("s", 0))).unwrap();
    world.change(Change::CreateSession(session("t", 60))).unwrap();
    let lock = |id: &str| KvOp { session: id.into(), ..op(KvVerb::Lock, "k") };
    let mut made = |op| match world.change(Change::Kv(op)) {
        Ok(Done::Made(made)) => made,
        other => panic!("{other:?}"),
    };
    assert!(made(lock("s")) && made(lock("s")) && !made(lock("t")));
    assert!(!made(KvOp { session: "t".into(), ..op(KvVerb::Unlock, "k") }));
    assert!(made(KvOp { session: "s".into(), ..op(KvVerb::Unlock, "k") }));
    assert!(made(lock("t")));
    world.change(Change::DestroySession("t".into())).unwrap();
    let entry = world.state.kv.get("k").unwrap();
    assert_eq!((&*entry.session, entry.lock_index), ("", 2));
    let Ok(Done::Made(made)) = world.change(Change::Kv(lock("s"))) else { panic!("refused") };
    assert!(!made, "the delay that the lost one asked for");
    assert!(matches!(world.change(Change::Kv(lock("none"))), Err(Refusal::Invalid(_))));
}
