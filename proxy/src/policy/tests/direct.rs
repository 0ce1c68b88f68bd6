//! The two ways of calling must not differ in anything a guest or an operator can see.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::guest::{Balancer, endpoints, engine, host, metrics, setup};
use crate::config::PolicyHost;
use crate::head::{HeadLimits, RequestFacts, RequestHead};
use crate::policy::compiler::{componentize, embed_world};
use crate::policy::{
    BalancerInstance, Choice, Compiled, Engine, Failure, Observation, Outcome, PickContext, RouteContext,
    Setup, builtin,
};

fn through_component() -> Engine {
    Engine::new(&PolicyHost { direct_calls: false, ..host() }).expect("engine")
}

fn request() -> Box<RequestFacts> {
    let mut head = RequestHead::default();
    let text = "PUT /items/7?page=2&q=a%20b HTTP/1.1\r\nHost: web\r\nX-User: seven\r\nVia: one\r\nVia: two\r\n\
                Cookie: session=abc\r\nContent-Length: 0\r\n\r\n";
    head.parse(text.as_bytes(), HeadLimits { bytes_max: 4096, fields_max: 16 }).expect("a good head");
    Box::new(RequestFacts { head, tried: vec![3], ..RequestFacts::default() })
}

/// Loads for one engine, and shows in which way it is called.
fn compiled(engine: &Engine, bytes: &[u8], direct: bool) -> Arc<Compiled> {
    let compiled = engine.load(bytes).expect("loads");
    compiled.balancer(&setup(&metrics()), endpoints(1), None).expect("starts");
    assert_eq!(compiled.is_direct(), direct);
    compiled
}

/// Everything that two instances answer, call by call, to the same history.
fn history(compiled: &Arc<Compiled>) -> Vec<String> {
    let mut instance = compiled.simulated_balancer(&setup(&metrics()), 7, 1_000).expect("starts");
    let mut random = outrigger_sdk::testing::Random::new(5);
    let mut seen = Vec::new();
    let mut request = request();
    for step in 0..600_u64 {
        if step.is_multiple_of(97) {
            let list = endpoints(1 + (random.next() % 12) as usize);
            list.iter().for_each(|e| e.state.in_flight.store((random.next() % 9) as u32, Relaxed));
            seen.push(format!("{:?}", instance.update(list)));
        }
        let previous = (step % 5 == 0).then_some((random.next() % 3) as u32);
        let (hash, bits) = (random.next(), random.next());
        let ctx = PickContext {
            hash,
            random: bits,
            now: step * 1_000,
            attempt: u32::from(previous.is_some()),
            previous,
        };
        let (back, choice) = instance.pick(request, ctx);
        request = back;
        if let (Ok(Choice::Endpoint(endpoint)), true) = (&choice, instance.interests().outcomes) {
            let outcome = if step % 11 == 0 { Outcome::Reset } else { Outcome::Success };
            let (first_byte, total) = (bits % 9_000_000, bits % 10_000_000);
            let seen_it = Observation {
                endpoint: *endpoint,
                outcome,
                status: 200,
                attempt: 0,
                first_byte,
                total,
                now: step,
            };
            instance.observe(&seen_it).expect("observes");
        }
        seen.push(format!("{choice:?}"));
    }
    seen.push(format!("{:?} {:?}", instance.tick(9), instance.export_state()));
    seen
}

#[test]
fn first_party_balancers_pick_the_same_in_both_ways() {
    let (directly, through) = (engine(), through_component());
    for name in builtin::names().filter(|name| builtin::roles(name).is_some_and(|roles| roles.balancer)) {
        let bytes = builtin::bytes(name).expect("built in");
        let a = history(&compiled(&directly, bytes, true));
        let b = history(&compiled(&through, bytes, false));
        assert_eq!(a, b, "{name}");
    }
}

/// Calls one import after the other, chosen by the attempt's number, and picks the endpoint whose index is a sum over
/// what came back: its words, and the text or list they point to.
const EVERY_IMPORT: &str = r#"
    (import "outrigger:policy/request@0.1.0" "method" (func $method (param i32)))
    (import "outrigger:policy/request@0.1.0" "path" (func $path (param i32)))
    (import "outrigger:policy/request@0.1.0" "authority" (func $authority (param i32)))
    (import "outrigger:policy/request@0.1.0" "source-address" (func $source (param i32)))
    (import "outrigger:policy/request@0.1.0" "identity" (func $identity (param i32)))
    (import "outrigger:policy/request@0.1.0" "header" (func $header (param i32 i32 i32)))
    (import "outrigger:policy/request@0.1.0" "headers" (func $headers (param i32 i32 i32)))
    (import "outrigger:policy/request@0.1.0" "cookie" (func $cookie (param i32 i32 i32)))
    (import "outrigger:policy/request@0.1.0" "query" (func $query (param i32 i32 i32)))
    (import "outrigger:policy/request@0.1.0" "tried" (func $tried (param i32) (result i32)))
    (import "outrigger:policy/stats@0.1.0" "get" (func $get (param i32 i32)))
    (import "outrigger:policy/stats@0.1.0" "get-pair" (func $pair (param i32 i32 i32)))
    (import "outrigger:policy/stats@0.1.0" "in-flight-pair" (func $flights (param i32 i32) (result i64)))
    (import "outrigger:policy/stats@0.1.0" "in-flight" (func $in_flight (param i32)))
    (import "outrigger:policy/stats@0.1.0" "latencies" (func $latencies (param i32)))
    (import "outrigger:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))
    (import "outrigger:policy/env@0.1.0" "now" (func $now (result i64)))
    (import "outrigger:policy/env@0.1.0" "random" (func $random (result i64)))
    (import "outrigger:policy/env@0.1.0" "[constructor]counter" (func $counter (param i32 i32) (result i32)))
    (import "outrigger:policy/env@0.1.0" "[method]counter.get" (func $counted (param i32) (result i64)))
    (import "outrigger:policy/env@0.1.0" "[method]counter.add" (func $add (param i32 i64) (result i64)))
    (import "outrigger:policy/env@0.1.0" "[method]counter.set" (func $set (param i32 i64)))
    (import "outrigger:policy/env@0.1.0" "[resource-drop]counter" (func $drop_counter (param i32)))
    (import "outrigger:policy/env@0.1.0" "[constructor]histogram"
        (func $histogram (param i32 i32) (result i32)))
    (import "outrigger:policy/env@0.1.0" "[method]histogram.observe" (func $seen (param i32 i64)))
    (import "outrigger:policy/env@0.1.0" "[resource-drop]histogram" (func $drop_histogram (param i32)))
    (data (i32.const 200) "x-user") (data (i32.const 208) "via") (data (i32.const 216) "session")
    (data (i32.const 224) "q") (data (i32.const 232) "none") (data (i32.const 240) "m\ff")
    (global $held (mut i32) (i32.const 0))
    (func $sum (param $at i32) (param $len i32) (result i32) (local $sum i32)
        (block (loop
            (br_if 1 (i32.eqz (local.get $len)))
            (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (i32.load8_u (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (local.set $len (i32.sub (local.get $len) (i32.const 1)))
            (br 0)))
        (local.get $sum))
    ;; What lies behind the text or list whose address is at 304 + $shift, and the case of an option at 304.
    (func $told (param $shift i32) (param $unit i32) (result i32)
        (i32.add (i32.load8_u (i32.const 304))
            (call $sum (i32.load (i32.add (i32.const 304) (local.get $shift)))
                (i32.mul (local.get $unit) (i32.load (i32.add (i32.const 308) (local.get $shift)))))))
    (func $clear (memory.fill (i32.const 304) (i32.const 0) (i32.const 64)))
    (func $case (param $n i32) (result i32)
        (call $clear)
"#;

/// The cases of `EVERY_IMPORT`, each an expression of its import and what it answered.
const CASES: [&str; 27] = [
    "(call $method (i32.const 304)) (call $told (i32.const 0) (i32.const 1))",
    "(call $path (i32.const 304)) (call $told (i32.const 0) (i32.const 1))",
    "(call $authority (i32.const 304)) (call $told (i32.const 0) (i32.const 1))",
    "(call $source (i32.const 304)) (call $told (i32.const 0) (i32.const 1))",
    "(call $identity (i32.const 304)) (call $told (i32.const 4) (i32.const 1))",
    "(call $header (i32.const 200) (i32.const 6) (i32.const 304)) (call $told (i32.const 4) (i32.const 1))",
    "(call $header (i32.const 232) (i32.const 4) (i32.const 304)) (call $told (i32.const 4) (i32.const 1))",
    "(call $headers (i32.const 208) (i32.const 3) (i32.const 304)) (call $told (i32.const 0) (i32.const 8))",
    "(call $headers (i32.const 232) (i32.const 4) (i32.const 304)) (i32.load (i32.const 308))",
    "(call $cookie (i32.const 216) (i32.const 7) (i32.const 304)) (call $told (i32.const 4) (i32.const 1))",
    "(call $query (i32.const 224) (i32.const 1) (i32.const 304)) (call $told (i32.const 4) (i32.const 1))",
    "(i32.add (call $tried (i32.const 2)) (i32.mul (i32.const 2) (call $tried (i32.const 3))))",
    "(call $get (i32.const 1) (i32.const 304)) (call $sum (i32.const 304) (i32.const 32))",
    "(call $pair (i32.const 1) (i32.const 2) (i32.const 304)) (call $sum (i32.const 304) (i32.const 48))",
    "(i64.store (i32.const 304) (call $flights (i32.const 1) (i32.const 2))) (call $sum (i32.const 304) (i32.const 8))",
    "(call $in_flight (i32.const 304)) (call $told (i32.const 0) (i32.const 4))",
    "(call $latencies (i32.const 304)) (call $told (i32.const 0) (i32.const 4))",
    "(call $log (i32.const 0) (i32.const 200) (i32.const 6)) (i32.const 17)",
    "(i32.wrap_i64 (call $now))",
    "(i32.wrap_i64 (call $random))",
    "(global.set $held (call $counter (i32.const 216) (i32.const 7))) (global.get $held)",
    "(i32.wrap_i64 (call $add (global.get $held) (i64.const 5)))",
    "(call $set (global.get $held) (i64.const 77)) (i32.wrap_i64 (call $counted (global.get $held)))",
    "(call $drop_counter (global.get $held)) (call $counter (i32.const 216) (i32.const 7))",
    "(global.set $held (call $histogram (i32.const 224) (i32.const 1))) (global.get $held)",
    "(call $seen (global.get $held) (i64.const 40)) (i32.const 3)",
    "(call $drop_histogram (global.get $held)) (i32.const 4)",
];

/// Each fails the call: what a guest must not hand to the host.
const FAULTS: [&str; 10] = [
    "(call $log (i32.const 0) (i32.const 240) (i32.const 2)) (i32.const 0)",
    "(call $log (i32.const 9) (i32.const 200) (i32.const 2)) (i32.const 0)",
    "(call $log (i32.const 0) (i32.const 262143) (i32.const 2)) (i32.const 0)",
    "(call $log (i32.const 0) (i32.const -1) (i32.const 1)) (i32.const 0)",
    "(call $header (i32.const 200) (i32.const -2) (i32.const 304)) (i32.const 0)",
    "(call $method (i32.const 262141)) (i32.const 0)",
    "(call $method (i32.const -4)) (i32.const 0)",
    "(call $get (i32.const 1) (i32.const 262136)) (i32.const 0)",
    "(i32.wrap_i64 (call $counted (i32.const 9)))",
    "(call $drop_histogram (call $counter (i32.const 216) (i32.const 7))) (i32.const 0)",
];

fn every_import(cases: &[&str]) -> Vec<u8> {
    let branches: String = cases
        .iter()
        .enumerate()
        .map(|(n, case)| format!("(if (i32.eq (local.get $n) (i32.const {n})) (then (return {case})))\n"))
        .collect();
    let imports = format!("{EVERY_IMPORT} {branches} unreachable)");
    let pick =
        "(i32.store (i32.const 68) (i32.rem_u (call $case (local.get 3)) (i32.const 1000))) (i32.const 64)";
    Balancer { imports: imports.leak(), memory_pages: 4, pick, ..Balancer::default() }.component()
}

fn instance(engine: &Engine, component: &[u8], direct: bool) -> BalancerInstance {
    let compiled = compiled(engine, component, direct);
    let mut instance = compiled.simulated_balancer(&setup(&metrics()), 7, 1_234).expect("starts");
    let list = endpoints(1000);
    list[1].state.in_flight.store(5, Relaxed);
    list[2].state.latency_us.store(700, Relaxed);
    instance.update(list).expect("updates");
    instance
}

fn answer(instance: &mut BalancerInstance, case: usize) -> Result<Choice, Failure> {
    instance.pick(request(), PickContext { attempt: case as u32, ..PickContext::default() }).1
}

#[test]
fn every_import_answers_the_same_in_both_ways() {
    let component = every_import(&CASES);
    let mut a = instance(&engine(), &component, true);
    let mut b = instance(&through_component(), &component, false);
    let mut answers = std::collections::HashSet::new();
    for (case, text) in CASES.iter().enumerate() {
        let (direct, through) = (answer(&mut a, case), answer(&mut b, case));
        assert_eq!(direct, through, "{text}");
        answers.insert(format!("{:?}", direct.unwrap_or_else(|failure| panic!("{text}: {failure}"))));
    }
    assert!(answers.len() > CASES.len() / 2, "the sums tell answers apart: {answers:?}");
}

#[test]
fn what_no_guest_may_do_fails_in_both_ways() {
    let (directly, through) = (engine(), through_component());
    let component = every_import(&FAULTS);
    for (case, text) in FAULTS.iter().enumerate() {
        for (engine, direct) in [(&directly, true), (&through, false)] {
            let mut instance = instance(engine, &component, direct);
            let failure = answer(&mut instance, case).expect_err(text);
            assert_eq!(failure.kind, crate::policy::FailureKind::Trap, "{text}: {failure}");
            assert!(answer(&mut instance, 1).is_err(), "{text}: an instance that failed answers no more");
        }
    }
}

#[test]
fn a_list_that_does_not_fit_into_the_guest_fails_in_both_ways() {
    for direct_calls in [true, false] {
        let engine = Engine::new(&PolicyHost { direct_calls, ..host() }).expect("engine");
        let compiled = Balancer::default().load(&engine).expect("loads");
        let mut instance = compiled.balancer(&setup(&metrics()), endpoints(1), None).expect("starts");
        assert_eq!(compiled.is_direct(), direct_calls);
        let failure = instance.update(endpoints(5_000)).expect_err("64 KiB hold no 5,000 endpoints");
        assert_eq!(failure.kind, crate::policy::FailureKind::Trap, "{failure}");
    }
}

/// What a router answers to requests that differ in what routers look at.
fn decisions(compiled: &Arc<Compiled>, config: &str) -> Vec<String> {
    let backends = ["stable".to_owned(), "canary".to_owned()];
    let setup = Setup { config, ..setup(&metrics()) };
    let mut router = compiled.simulated_router(&setup, &backends, 7, 1_000).expect("starts");
    let mut random = outrigger_sdk::testing::Random::new(5);
    let mut seen = Vec::new();
    let mut request = request();
    for step in 0..300 {
        let ctx = RouteContext { hash: random.next(), random: random.next(), now: step };
        let (back, decision) = router.route(request, ctx);
        request = back;
        seen.push(format!("{decision:?}"));
    }
    seen.push(format!("{:?} {:?}", router.tick(9), router.export_state()));
    seen
}

#[test]
fn first_party_routers_decide_the_same_in_both_ways() {
    let (directly, through) = (engine(), through_component());
    let header = r#"{"rules": [{"headers": [{"name": "x-user", "exact": "seven"}], "backend": "canary"}]}"#;
    let sticky = r#"{"percent": 30, "cookie": "lane", "sticky": true}"#;
    for (name, config) in [("canary", sticky), ("canary", r#"{"percent": 30}"#), ("header-match", header)] {
        let bytes = builtin::bytes(name).expect("built in");
        let [a, b] = [&directly, &through].map(|engine| engine.load(bytes).expect("loads"));
        assert_eq!(decisions(&a, config), decisions(&b, config), "{name}");
        assert!(a.is_direct() && !b.is_direct());
    }
}

/// A router that answers with the decision laid down at 1024; `{data}` are words from there on, in hex. At 512 lies
/// "/a?b", at 520 "x-a", at 528 the list of one header x-a: x-a, and at 544 the list of two texts.
fn router_with(data: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
        (memory (export "memory") 64)
        (global $next (mut i32) (i32.const 65536))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.get $next)
            (global.set $next (i32.add (global.get $next) (local.get 3))))
        (func (export "outrigger:policy/router@0.1.0#configure")
            (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 16))
        (func (export "outrigger:policy/router@0.1.0#route")
            (param i32 i32 i32 i32 i32 i32 i64 i64 i64) (result i32) (i32.const 1024))
        (func (export "outrigger:policy/router@0.1.0#tick") (param i64))
        (func (export "outrigger:policy/state@0.1.0#export-state") (result i32) (i32.const 16))
        (func (export "outrigger:policy/state@0.1.0#import-state") (param i32 i32) (result i32) (i32.const 16))
        (data (i32.const 512) "/a?b") (data (i32.const 520) "x-a")
        (data (i32.const 528) "\08\02\00\00\03\00\00\00\08\02\00\00\03\00\00\00")
        (data (i32.const 544) "\08\02\00\00\03\00\00\00\08\02\00\00\03\00\00\00")
        (data (i32.const 1024) "{data}"))"#
    );
    let module = wat::parse_str(&text).expect("valid text");
    componentize(&embed_world(&module, "request-router").expect("world")).expect("component")
}

/// Words as bytes in the text format.
fn data(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect()
}

#[test]
fn every_decision_is_read_the_same_in_both_ways() {
    let text = [512, 4];
    let (headers, names) = ([528, 1], [544, 2]);
    // Case and padding, then the record.
    let forward = |retry: u32, timeout: [u32; 4], mirror: [u32; 2]| {
        let mut words = vec![2, 0, 1, 1];
        words.extend(text);
        words.extend([0, 0, 0]);
        words.extend(headers);
        words.extend(names);
        words.extend(headers);
        words.push(0);
        words.extend(timeout);
        words.extend([retry, 1, 520, 3]);
        words.extend(mirror);
        words
    };
    let many = 1 << 20;
    let cases: Vec<(Vec<u32>, bool)> = vec![
        (vec![0], true),
        (vec![1, 0, 1], true),
        (vec![1, 0, 9], false),
        (forward(0, [0, 0, 0, 0], [0, 0]), true),
        (forward(2, [1, 0, 7, 1], [1, 1]), true),
        (forward(3, [0, 0, 0, 0], [0, 0]), false),
        (forward(0, [2, 0, 0, 0], [0, 0]), false),
        (vec![3, 0, 302, 512, 4], true),
        (vec![3, 0, 299, 512, 4], false),
        (vec![3, 0, 302, u32::MAX, 4], false),
        (vec![3, 0, 302, 512, u32::MAX], false),
        (vec![4, 0, 200, 528, 1, 512, 4], true),
        (vec![4, 0, 200, 529, 1, 512, 4], false),
        (vec![4, 0, 200, 528, many, 512, 4], false),
        (vec![4, 0, 200, 528, 1, 0, 4 << 20], false),
        (vec![5], false),
    ];
    for (words, good) in cases {
        let component = router_with(&data(&words));
        let [direct, through] = [true, false].map(|direct_calls| {
            let host = PolicyHost { direct_calls, component_bytes_max: 8 << 20, ..host() };
            let compiled = Engine::new(&host).expect("engine").load(&component).expect("loads");
            let backends = ["stable".to_owned(), "canary".to_owned()];
            let mut router = compiled.router(&setup(&metrics()), &backends, None).expect("starts");
            assert_eq!(compiled.is_direct(), direct_calls);
            router.route(request(), RouteContext::default()).1
        });
        assert_eq!(direct.is_ok(), good, "{words:?}: {direct:?}");
        match (direct, through) {
            (Err(a), Err(b)) => assert_eq!(a.kind, b.kind, "{words:?}: {a}, but through the component: {b}"),
            (a, b) => assert_eq!(a, b, "{words:?}"),
        }
    }
}
