//! The registry and the configuration change while requests flow; what cannot be used changes nothing.

use outrigger_tests::backend::Backend;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;
use serde_json::json;

const REWRITES: usize = 1_000;

fn services(backends: &[&Backend]) -> String {
    let addresses: Vec<String> = backends.iter().map(|backend| backend.address.to_string()).collect();
    format!("services:\n  web:\n    endpoints: [{}]\n", addresses.join(", "))
}

fn addresses(proxy: &Proxy) -> Vec<String> {
    let endpoints = proxy.ask("/endpoints");
    let mut all: Vec<String> = endpoints["web"]
        .as_array()
        .map(|all| all.iter().filter_map(|one| one["address"].as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    all.sort();
    all
}

#[test]
fn a_services_file_rewritten_a_thousand_times_loses_no_request() {
    let backends: Vec<Backend> = ["a", "b", "c", "d"].into_iter().map(Backend::named).collect();
    let [a, b, c, d] = &backends[..] else { panic!("four") };
    let proxy = Scene::web(&[a, b]).start();
    let load = Load::start(proxy.outbound, 4, "web");
    let memberships: [&[&Backend]; 6] = [&[a], &[a, b, c], &[b, c], &[c, d], &[a, b, c, d], &[d, a]];
    for number in 0..REWRITES {
        let text = format!("# {number}\n{}", services(memberships[number % memberships.len()]));
        if number % 2 == 0 {
            proxy.scene.replace("services.yaml", text.as_bytes());
        } else {
            proxy.scene.overwrite("services.yaml", text.as_bytes());
        }
        // Spread over the traffic, not before it.
        load.wait_for(1);
    }
    proxy.scene.replace("services.yaml", services(&[b, d]).as_bytes());
    let mut expected = vec![b.address.to_string(), d.address.to_string()];
    expected.sort();
    wait::until_true("the last membership", || addresses(&proxy) == expected);
    load.wait_for(200);
    load.stop().assert_clean();

    let last = Load::start(proxy.outbound, 4, "web");
    last.wait_for(200);
    let tally = last.stop();
    tally.assert_clean();
    assert_eq!(tally.of("b") + tally.of("d"), tally.good(), "{tally:?}");
    assert!(tally.of("b") > 0 && tally.of("d") > 0, "{tally:?}");
    assert!(proxy.version() > 10, "the rewrites were noticed on the way");
}

#[test]
fn a_broken_services_file_keeps_the_last_good_state() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = Scene::web(&[&a]).start();
    let load = Load::start(proxy.outbound, 2, "web");
    for broken in ["services: [", "", "services:\n  web:\n    endpoints: [nowhere]\n", "\0\u{1}"] {
        proxy.scene.replace("services.yaml", broken.as_bytes());
        let ready = proxy.wait_for_ready("the fault", |ready| ready["registry_valid"] == false);
        assert_eq!(ready["ready"], true, "it serves on");
        assert!(ready["problems"].to_string().contains("services.yaml:"), "{ready}");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("outrigger_registry_valid", &[]), 0.0);
        assert!(metrics.has("outrigger_registry_last_confirmed_seconds"));
        assert_eq!(addresses(&proxy), [a.address.to_string()]);
        load.wait_for(50);
        proxy.scene.replace("services.yaml", services(&[&a]).as_bytes());
        proxy.wait_for_ready("the cure", |ready| ready["registry_valid"] == true);
    }
    std::fs::remove_file(proxy.scene.path("services.yaml")).unwrap();
    proxy.wait_for_ready("the fault", |ready| ready["registry_valid"] == false);
    load.wait_for(50);
    proxy.scene.replace("services.yaml", services(&[&b]).as_bytes());
    wait::until_true("the new endpoint", || addresses(&proxy) == [b.address.to_string()]);
    assert_eq!(proxy.metrics().sum("outrigger_registry_valid", &[]), 1.0);
    load.stop().assert_clean();
    assert!(proxy.log().contains("services.yaml:3:"), "the line is in the log: {}", proxy.log());
}

#[test]
fn a_changed_configuration_is_taken_up() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let mut proxy = Scene::web(&[&a, &b])
        .set("services", "{web: {balancer: {policy: maglev, config: {}}, hash_key: {header: x-user}}}")
        .start();
    let load = Load::with_fields(proxy.outbound, 2, "web", "x-user: 7\r\n");
    load.wait_for(50);
    let user = |proxy: &Proxy| proxy.client().get("web", "/", "x-user: 7\r\n").backend().to_owned();
    let first = user(&proxy);
    for _ in 0..10 {
        assert_eq!(user(&proxy), first, "the same key goes to the same endpoint");
    }
    let version = proxy.version();
    proxy.scene.change("services", "{web: {balancer: round-robin}}");
    proxy.scene.write();
    proxy.wait_for_version_after(version);
    let answers: Vec<String> = (0..20).map(|_| user(&proxy)).collect();
    assert!(answers.iter().any(|backend| *backend != first), "round robin by now: {answers:?}");
    proxy.wait_for_metric("outrigger_config_reloads_total", &[], 1.0);
    load.stop().assert_clean();
    assert!(proxy.is_running());
}

#[test]
fn a_broken_configuration_keeps_serving() {
    let a = Backend::named("a");
    let mut proxy = Scene::web(&[&a]).start();
    let load = Load::start(proxy.outbound, 2, "web");
    let breaks = [
        ("services", "{web: {balancr: p2c}}", "did you mean `balancer`?"),
        ("services", "{web: {balancer: p3c}}", "p3c"),
        ("services", "{web: {balancer: {policy: maglev, config: {table_size: 10}}}}", "table_size"),
        ("services", "[", "outrigger.yaml:"),
    ];
    for (field, yaml, words) in breaks {
        proxy.scene.change(field, yaml);
        proxy.scene.write();
        let ready = proxy.wait_for_ready(words, |ready| {
            ready["config_valid"] == false && ready["problems"].to_string().contains(words)
        });
        assert_eq!(ready["ready"], true);
        assert!(ready["problems"].to_string().contains("outrigger.yaml:"), "with its place: {ready}");
        assert_eq!(proxy.metrics().sum("outrigger_config_valid", &[]), 0.0);
        load.wait_for(50);
    }
    proxy.scene.change("services", "{}");
    proxy.scene.write();
    let ready = proxy.wait_for_ready("the cure", |ready| ready["config_valid"] == true);
    assert_eq!(ready["problems"], json!([]));
    load.stop().assert_clean();
}

/// What cannot change while it runs is said to wait for a restart; the rest is taken up.
#[test]
fn a_field_that_needs_a_restart_is_named() {
    let a = Backend::named("a");
    let mut proxy = Scene::web(&[&a]).start();
    proxy.scene.change("workers", "1");
    proxy.scene.write();
    let ready = proxy.wait_for_ready("the hint", |ready| ready["problems"].to_string().contains("workers"));
    assert!(ready["problems"].to_string().contains("at the next start"), "{ready}");
    assert_eq!(proxy.get("web", "/").status, 200);
}

/// Draining endpoints finish what they have and get nothing new; endpoints that are down get nothing.
#[test]
fn endpoint_states_are_followed() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = Scene::web(&[&a, &b]).set("services", "{web: {balancer: round-robin}}").start();
    for status in ["draining", "down"] {
        let text = format!(
            "services: {{web: {{endpoints: [{}, {{address: '{}', status: {status}}}]}}}}",
            a.address, b.address
        );
        let version = proxy.version();
        proxy.scene.replace("services.yaml", text.as_bytes());
        proxy.wait_for_version_after(version);
        let before = b.requests();
        for _ in 0..10 {
            assert_eq!(proxy.get("web", "/").backend(), "a");
        }
        assert_eq!(b.requests(), before);
        let count = proxy.metrics().sum("outrigger_endpoints", &[("service", "web"), ("state", status)]);
        assert_eq!(count, 1.0, "{status}");
        let version = proxy.version();
        proxy.scene.replace("services.yaml", services(&[&a, &b]).as_bytes());
        proxy.wait_for_version_after(version);
    }
}
