//! Whatever a policy does, traffic flows on and the reason is visible.

use outrigger_tests::backend::Backend;
use outrigger_tests::guest::{self, Balancer};
use outrigger_tests::load::{Load, Tally};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;

/// Three backends, the honest policy `mine`, and a quarantine after three failures.
struct Stage {
    proxy: Proxy,
    _backends: Vec<Backend>,
}

impl Stage {
    fn start() -> Self {
        Self::with(&Balancer::default(), "{cache_dir: cache, quarantine: {failures: 3, window: 60s}}")
    }

    fn with(first: &Balancer, host: &str) -> Self {
        let backends: Vec<Backend> = ["a", "b", "c"].into_iter().map(Backend::named).collect();
        let proxy = Scene::web(&backends.iter().collect::<Vec<_>>())
            .component("mine", &first.component())
            .set("policies", "{mine: {file: mine.wasm}}")
            .set("services", "{web: {balancer: mine}}")
            .set("policy_host", host)
            .start();
        Self { proxy, _backends: backends }
    }

    fn failures(&self, kind: &str) -> f64 {
        let labels = [("policy", "mine"), ("kind", kind)];
        self.proxy.metrics().sum("outrigger_policy_failures_total", &labels)
    }

    fn quarantined(&self) -> bool {
        self.proxy.metrics().sum("outrigger_policy_quarantined", &[("policy", "mine")]) == 1.0
    }

    /// Puts a policy in force that fails when it is called; traffic must not notice, everybody else must.
    fn survives(&self, guest: &Balancer, kind: &str, words: &str) -> Tally {
        let load = Load::start(self.proxy.outbound, 4, "web");
        load.wait_for(50);
        let put = self.proxy.put_policy("mine", &guest.component());
        assert_eq!(put.status, 200, "{}", put.text());
        wait::until_true("the quarantine", || self.quarantined());
        load.wait_for(200);
        let tally = load.stop();
        tally.assert_clean();
        assert!(self.failures(kind) >= 3.0, "{}", self.proxy.metrics().text);
        let fallbacks = self.proxy.metrics().sum("outrigger_policy_fallbacks_total", &[("policy", "mine")]);
        assert!(fallbacks >= 200.0, "the fallback has served: {fallbacks}");
        let policy = self.proxy.ask("/policies/mine");
        assert_eq!(policy["quarantined"], true);
        let last = policy["last_failure"].as_str().expect("a failure");
        assert!(last.contains(kind) && last.contains(words), "{last}");
        let ready = self.proxy.ask("/ready");
        assert_eq!(ready["ready"], true);
        assert!(ready["problems"].to_string().contains("quarantined"), "{ready}");
        let log = self.proxy.log();
        assert!(log.contains("mine") && log.contains("quarantine"), "{log}");
        tally
    }

    /// Offers a policy that must not come into force, under load; the answer says why.
    fn refuses(&self, component: &[u8], status: u16, words: &str) {
        let load = Load::start(self.proxy.outbound, 2, "web");
        let before = self.proxy.ask("/policies/mine");
        let put = self.proxy.put_policy("mine", component);
        assert_eq!(put.status, status, "{}", put.text());
        let error = put.json()["error"].as_str().expect("a reason").to_owned();
        assert!(error.contains(words), "{error}");
        load.wait_for(20);
        load.stop().assert_clean();
        let after = self.proxy.ask("/policies/mine");
        assert_eq!(after["digest"], before["digest"], "the version before stays in force");
        assert_eq!(self.proxy.get("web", "/").status, 200);
    }
}

#[test]
fn an_endless_loop_in_pick() {
    Stage::start().survives(&Balancer::picking(guest::LOOP), "deadline", "pick");
}

#[test]
fn a_trap_in_pick() {
    Stage::start().survives(&Balancer::picking(guest::TRAP), "trap", "unreachable");
}

#[test]
fn memory_exhausted_in_pick() {
    Stage::start().survives(&Balancer::picking(guest::BOMB), "memory", "pick");
}

#[test]
fn an_index_out_of_range() {
    Stage::start().survives(&Balancer::picking(guest::EIGHTH), "nonsense", "endpoint 7 of 3");
}

#[test]
fn a_bad_index_given_to_the_host() {
    Stage::start().survives(&guest::bad_index(), "trap", "endpoint 999 of 3");
}

#[test]
fn a_trap_in_observe() {
    let guest = Balancer { configure: guest::WANTS_OUTCOMES, observe: guest::TRAP, ..Balancer::default() };
    Stage::start().survives(&guest, "trap", "observe");
}

#[test]
fn an_endless_loop_in_tick() {
    let guest = Balancer { configure: guest::WANTS_TICKS, tick: guest::LOOP_UNIT, ..Balancer::default() };
    Stage::start().survives(&guest, "deadline", "tick");
}

/// Loops as soon as there are four endpoints: the list grows while requests flow.
#[test]
fn an_endless_loop_in_a_later_update() {
    let update = "(if (i32.gt_u (local.get 1) (i32.const 3)) (then (loop (br 0))))";
    let stage = Stage::with(
        &Balancer { update, ..Balancer::default() },
        "{cache_dir: cache, quarantine: {failures: 3, window: 60s}}",
    );
    let more = Backend::named("d");
    let load = Load::start(stage.proxy.outbound, 4, "web");
    load.wait_for(50);
    let text =
        stage.proxy.scene.services_text().replace("endpoints: [", &format!("endpoints: [{}, ", more.address));
    stage.proxy.scene.replace("services.yaml", text.as_bytes());
    wait::until_true("the failure to show", || {
        let policy = stage.proxy.ask("/policies/mine");
        let told = policy["last_failure"].to_string() + &policy["last_refusal"].to_string();
        told.contains("update") && told.contains("50ms")
    });
    wait::until_true("the new endpoint to serve", || more.requests() > 0);
    load.stop().assert_clean();
    let fallbacks = stage.proxy.metrics().sum("outrigger_policy_fallbacks_total", &[("policy", "mine")]);
    assert!(fallbacks > 0.0);
}

#[test]
fn endless_loops_before_service_are_refused() {
    let stage = Stage::start();
    let configure = Balancer { configure: guest::LOOP, ..Balancer::default() };
    stage.refuses(&configure.component(), 422, "configure");
    let update = Balancer { update: guest::LOOP_UNIT, ..Balancer::default() };
    stage.refuses(&update.component(), 422, "update");
    let trap = Balancer { configure: guest::TRAP, ..Balancer::default() };
    stage.refuses(&trap.component(), 422, "failed to start");
    let hungry = Balancer { pages: 1_000, ..Balancer::default() };
    stage.refuses(&hungry.component(), 422, "memory");
    let refusals = stage.proxy.metrics().sum("outrigger_policy_refusals_total", &[("policy", "mine")]);
    assert!(refusals >= 4.0, "{refusals}");
}

#[test]
fn a_refused_configuration_is_told_in_the_policys_words() {
    let stage = Stage::start();
    let guest = Balancer { configure: guest::REFUSES, ..Balancer::default() };
    stage.refuses(&guest.component(), 422, guest::REFUSAL);
    let told = stage.proxy.ask("/policies/mine")["last_refusal"]["message"].to_string();
    assert!(told.contains(guest::REFUSAL) && told.contains("outrigger.yaml:"), "{told}");
}

#[test]
fn files_that_are_no_policies_are_refused() {
    let stage = Stage::start();
    stage.refuses(b"#!/bin/sh\n", 422, "not WebAssembly");
    stage.refuses(b"", 422, "not WebAssembly");
    let whole = Balancer::default().component();
    stage.refuses(&whole[..whole.len() / 2], 422, "is the file whole?");
    stage.refuses(&whole[..whole.len() - 1], 422, "is the file whole?");
    stage.refuses(&guest::wasi(), 422, "wasi:io/poll");
    stage.refuses(&guest::router(guest::FIRST), 422, "only a router");
    stage.refuses(b"\0asm\x01\0\0\0", 422, "which world");
}

#[test]
fn components_that_are_too_large_are_refused() {
    let stage = Stage::with(&Balancer::default(), "{cache_dir: cache, component_bytes_max: 128KiB}");
    let mut large = Balancer::default().component();
    large.resize(200 << 10, 0);
    stage.refuses(&large, 413, "131072");
    stage.proxy.scene.replace("mine.wasm", &large);
    let ready =
        stage.proxy.wait_for_ready("the refusal", |ready| ready["problems"].to_string().contains("mine"));
    assert!(ready["problems"].to_string().contains("component_bytes_max"), "{ready}");
    assert_eq!(ready["ready"], true);
    assert_eq!(stage.proxy.get("web", "/").status, 200);
}

/// A bad file in place of the watched one: the version before serves on, and `/ready` tells until it is mended.
#[test]
fn a_bad_file_leaves_the_version_before_in_force() {
    let stage = Stage::start();
    let load = Load::start(stage.proxy.outbound, 2, "web");
    stage.proxy.scene.replace("mine.wasm", &guest::wasi());
    let ready =
        stage.proxy.wait_for_ready("the refusal", |ready| ready["problems"].to_string().contains("wasi"));
    assert_eq!(ready["ready"], true);
    assert!(stage.proxy.log().contains("wasi:io/poll"), "{}", stage.proxy.log());
    load.wait_for(50);
    stage.proxy.scene.replace("mine.wasm", &Balancer::picking(guest::SECOND).component());
    stage.proxy.wait_for_ready("no problems", |ready| ready["problems"] == serde_json::json!([]));
    load.wait_for(50);
    load.stop().assert_clean();
}

#[test]
fn a_quarantine_ends_by_hand_or_with_a_new_version() {
    let stage = Stage::start();
    stage.survives(&Balancer::picking(guest::TRAP), "trap", "unreachable");
    // By hand: the same version serves again, and fails again.
    let reset = stage.proxy.admin("POST", "/policies/mine/reset", "", b"");
    assert_eq!(reset.status, 200, "{}", reset.text());
    assert_eq!(stage.proxy.get("web", "/").status, 200);
    let load = Load::start(stage.proxy.outbound, 2, "web");
    wait::until_true("the quarantine", || stage.quarantined());
    // With a new version: the fallback has no more to do.
    assert_eq!(stage.proxy.put_policy("mine", &Balancer::picking(guest::SECOND).component()).status, 200);
    assert!(!stage.quarantined());
    load.stop().assert_clean();
    let fallbacks =
        |stage: &Stage| stage.proxy.metrics().sum("outrigger_policy_fallbacks_total", &[("policy", "mine")]);
    let before = fallbacks(&stage);
    let first = stage.proxy.get("web", "/").backend().to_owned();
    for _ in 0..20 {
        assert_eq!(stage.proxy.get("web", "/").backend(), first);
    }
    assert_eq!(fallbacks(&stage), before);
    assert_eq!(stage.proxy.ask("/policies/mine")["quarantined"], false);
}

/// `fallback` is an opinion, not a failure.
#[test]
fn a_policy_without_an_opinion_is_served_by_the_fallback() {
    let stage = Stage::with(&Balancer::picking(guest::FALLBACK), "{cache_dir: cache}");
    let load = Load::start(stage.proxy.outbound, 3, "web");
    load.wait_for(300);
    let tally = load.stop();
    tally.assert_clean();
    assert_eq!(tally.by_backend.len(), 3, "{tally:?}");
    let metrics = stage.proxy.metrics();
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0);
    assert!(metrics.sum("outrigger_policy_fallbacks_total", &[("policy", "mine")]) >= 300.0);
}

/// A router that fails: the first backend, which is written as the safe one, takes the requests.
#[test]
fn a_trap_in_a_router() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let scene = Scene::new().service("stable", &[&a]).service("next", &[&b]);
    std::fs::write(scene.path("mine.wasm"), guest::router(guest::TRAP)).unwrap();
    let proxy = scene
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("routes", "[{router: mine, backends: {stable: stable, next: next}}]")
        .start();
    let load = Load::start(proxy.outbound, 2, "shop");
    proxy.wait_for_metric("outrigger_policy_failures_total", &[("policy", "mine"), ("kind", "trap")], 1.0);
    load.wait_for(100);
    let tally = load.stop();
    tally.assert_clean();
    assert_eq!(tally.of("a"), tally.good());
    assert!(proxy.ask("/policies/mine")["last_failure"].to_string().contains("route"));
}

/// One policy that misbehaves takes nothing from the others.
#[test]
fn others_are_left_alone() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = Scene::web(&[&a, &b])
        .service("other", &[&a, &b])
        .component("mine", &Balancer::picking(guest::LOOP).component())
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("services", "{web: {balancer: mine}, other: {balancer: round-robin}}")
        .start();
    let (bad, good) = (Load::start(proxy.outbound, 2, "web"), Load::start(proxy.outbound, 2, "other"));
    proxy.wait_for_metric("outrigger_policy_quarantined", &[("policy", "mine")], 1.0);
    bad.stop().assert_clean();
    good.stop().assert_clean();
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[("policy", "round-robin")]), 0.0);
    assert_eq!(metrics.sum("outrigger_policy_fallbacks_total", &[("policy", "round-robin")]), 0.0);
}
