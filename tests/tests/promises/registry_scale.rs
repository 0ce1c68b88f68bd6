//! More services than instances: the first request is served all the same, and what nobody asks for costs nothing.

use outrigger_tests::backend::Backend;
use outrigger_tests::guest::{Balancer, REFUSES, SECOND, TRAP};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;

/// With two workers, more than have an instance from the start.
const SERVICES: usize = 300;

fn services(numbers: impl IntoIterator<Item = usize>, backends: &[&Backend]) -> String {
    let addresses: Vec<String> = backends.iter().map(|b| format!("'{}'", b.address)).collect();
    let one = |n| format!("  s{n}: {{endpoints: [{}]}}\n", addresses.join(", "));
    format!("services:\n{}", numbers.into_iter().map(one).collect::<String>())
}

fn start(scene: Scene, services: &str) -> Proxy {
    scene.write();
    scene.replace("services.yaml", services.as_bytes());
    scene.start_again()
}

fn instances(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("outrigger_policy_instances", &[])
}

#[test]
fn the_first_request_is_served_and_brings_the_policy() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let scene = Scene::new().set("workers", "1").set("defaults", "{balancer: round-robin}");
    let proxy = start(scene, &services(0..SERVICES, &[&a, &b]));
    assert_eq!(instances(&proxy), 0.0);
    assert_eq!(proxy.ask("/ready")["problems"].as_array().map(Vec::len), Some(0));
    let mut client = proxy.client();
    assert_eq!(client.get("s7", "/", "").status, 200);
    let metrics = proxy.metrics();
    let fallbacks = |reason| metrics.sum("outrigger_policy_fallbacks_total", &[("reason", reason)]);
    assert_eq!((fallbacks("cold"), fallbacks("failed"), fallbacks("no-instance")), (1.0, 0.0, 0.0));
    wait::until_true("an instance", || instances(&proxy) == 1.0);
    // The policy decides from now on: in turns.
    let calls = || proxy.metrics().sum("outrigger_policy_calls_total", &[]);
    wait::until_true("a call", || {
        assert_eq!(client.get("s7", "/", "").status, 200);
        calls() > 0.0
    });
    let answers: Vec<String> = (0..4).map(|_| client.get("s7", "/", "").backend().to_owned()).collect();
    assert!(answers[0] != answers[1] && answers[..2] == answers[2..], "{answers:?}");
    // Of services that nobody has asked for, only their number is told.
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("outrigger_endpoints", &[("state", "ready")]), 2.0);
    assert_eq!(metrics.sum("outrigger_catalogue_services", &[]), SERVICES as f64);
    assert_eq!(metrics.sum("outrigger_catalogue_endpoints", &[]), 2.0 * SERVICES as f64);
    assert!(!metrics.text.contains("\"s8\""), "{}", metrics.text);
    assert_eq!(proxy.ask("/policies")["policies"][0]["uses_total"], SERVICES);
}

#[test]
fn instances_give_way_and_no_request_fails() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let scene = Scene::new().set("policy_host", "{cache_dir: cache, instances_max: 16}");
    let proxy = start(scene, &services(0..60, &[&a, &b]));
    let loads: Vec<Load> = (0..3).map(|n| Load::start(proxy.outbound, 1, &format!("s{n}"))).collect();
    let mut client = proxy.client();
    for round in 0..3 {
        for n in 0..60 {
            assert_eq!(client.get(&format!("s{n}"), "/", "").status, 200, "round {round}");
            assert!(instances(&proxy) <= 16.0);
        }
    }
    let evictions = || proxy.metrics().sum("outrigger_policy_evictions_total", &[]);
    wait::until_true("evictions", || {
        for n in 0..60 {
            assert_eq!(client.get(&format!("s{n}"), "/", "").status, 200);
        }
        evictions() > 0.0
    });
    for load in loads {
        load.stop().assert_clean();
    }
    let failures = proxy.metrics().sum("outrigger_policy_failures_total", &[]);
    assert_eq!(failures, 0.0);
}

#[test]
fn a_policy_used_by_hundreds_is_swapped_refused_and_quarantined() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let scene = Scene::new().set("defaults", "{balancer: mine}").set("policies", "{mine: {file: mine.wasm}}");
    let scene = scene.component("mine", &Balancer::default().component());
    let proxy = start(scene, &services(0..SERVICES, &[&a, &b]));
    let refuses = Balancer { configure: REFUSES, ..Balancer::default() }.component();
    let refused = proxy.put_policy("mine", &refuses);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let load = Load::start(proxy.outbound, 2, "s7");
    wait::until_true("instances", || instances(&proxy) == 2.0);
    assert_eq!(proxy.put_policy("mine", &refuses).status, 422);
    let done = proxy.put_policy("mine", &Balancer::picking(SECOND).component());
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(instances(&proxy), 2.0, "of the service in use");
    assert_eq!(proxy.get("s8", "/").status, 200);
    wait::until_true("instances", || instances(&proxy) == 4.0);
    let traps = Balancer::picking(TRAP).component();
    assert_eq!(proxy.put_policy("mine", &traps).status, 200);
    let quarantined = || proxy.metrics().sum("outrigger_policy_quarantined", &[]);
    wait::until_true("the quarantine", || {
        assert_eq!(proxy.get("s9", "/").status, 200);
        quarantined() == 1.0
    });
    wait::until_true("no instance", || instances(&proxy) == 0.0);
    assert_eq!(proxy.get("s10", "/").status, 200);
    load.stop().assert_clean();
}

#[test]
fn services_come_and_go_beside_the_traffic() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = start(Scene::new(), &services(0..SERVICES, &[&a]));
    let load = Load::start(proxy.outbound, 2, "s7");
    assert_eq!(proxy.get("s299", "/").backend(), "a");
    for round in 0..10 {
        let version = proxy.version();
        // `s7` stays where it is or moves; others go, come, and come back with another endpoint.
        let kept = (0..SERVICES).filter(|n| *n == 7 || n % 10 != round);
        let mut text = services(kept, &[&a]);
        text.push_str(&format!("  new{round}: {{endpoints: ['{}']}}\n", b.address));
        proxy.scene.replace("services.yaml", text.as_bytes());
        proxy.wait_for_version_after(version);
        assert_eq!(proxy.get(&format!("new{round}"), "/").backend(), "b");
        assert_eq!(proxy.get(&format!("s{}", 20 + round), "/").status, 404);
        assert_eq!(proxy.get(&format!("s{}", 20 + (round + 1) % 10), "/").backend(), "a");
        if round > 0 {
            assert_eq!(proxy.get(&format!("new{}", round - 1), "/").status, 404);
        }
    }
    load.stop().assert_clean();
    assert_eq!(proxy.metrics().sum("outrigger_catalogue_services", &[]), 271.0);
}
