//! A policy is replaced while requests flow: none is lost, nothing leaks, and what it had learnt is handed over.

use outrigger_tests::backend::Backend;
use outrigger_tests::guest::{self, Balancer};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;

const SWAPS: u32 = 10_000;
/// The allocator, caches and pools have settled by then.
const SWAPS_TO_SETTLE: u32 = 2_000;
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// A proxy whose policy `mine` picks the first endpoint.
fn start(backends: &[&Backend], first: &Balancer) -> Proxy {
    Scene::web(backends)
        .component("mine", &first.component())
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("services", "{web: {balancer: mine}}")
        .start()
}

#[test]
fn ten_thousand_swaps_lose_no_request_and_no_memory() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let first = Balancer::picking(guest::FIRST);
    let components = [Balancer::picking(guest::SECOND).component(), first.component()];
    let proxy = start(&[&a, &b], &first);
    let load = Load::start(proxy.outbound, 4, "web");
    let before = proxy.metrics().sum("outrigger_policy_swaps_total", &[("policy", "mine")]);
    let mut settled_kib = 0;
    for number in 0..SWAPS {
        let answer = proxy.put_policy("mine", &components[number as usize % 2]);
        assert_eq!(answer.status, 200, "swap {number}: {}", answer.text());
        if number == SWAPS_TO_SETTLE {
            settled_kib = proxy.anonymous_kib();
        }
    }
    let tally = load.stop();
    tally.assert_clean();
    // The allocator gives back what has been free for a second; what is lost never comes back.
    let within = || proxy.anonymous_kib() < settled_kib + GROWTH_MAX_KIB;
    wait::until_true("memory to be what it was after the first swaps", within);
    let end_kib = proxy.anonymous_kib();
    assert!(tally.of("a") > 0 && tally.of("b") > 0, "both policies have served: {tally:?}");
    let metrics = proxy.metrics();
    let swaps = metrics.sum("outrigger_policy_swaps_total", &[("policy", "mine")]) - before;
    assert_eq!(swaps, f64::from(SWAPS));
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0);
    println!("{} requests over {SWAPS} swaps; {settled_kib} KiB, then {end_kib} KiB", tally.good());
}

/// When the answer to a swap has come, every request that follows is decided by the new version.
#[test]
fn a_swap_is_in_force_when_it_is_answered() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let first = Balancer::picking(guest::FIRST);
    let proxy = start(&[&a, &b], &first);
    let components = [Balancer::picking(guest::SECOND).component(), first.component()];
    let before = proxy.get("web", "/").backend().to_owned();
    for number in 0..50 {
        assert_eq!(proxy.put_policy("mine", &components[number % 2]).status, 200);
        // Both workers accept: a few connections reach each.
        for _ in 0..8 {
            let swapped = proxy.get("web", "/").backend() != before;
            assert_eq!(swapped, number % 2 == 0, "after swap {number}");
        }
    }
}

#[test]
fn state_is_handed_over() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let stateful = Balancer { configure: guest::WANTS_STATE, ..Balancer::default() };
    let proxy = start(&[&a, &b], &stateful);
    let before = proxy.get("web", "/").backend().to_owned();
    // Another component that picks as the byte says which the old one leaves: the second endpoint.
    let next = Balancer { pages: 2, ..stateful };
    assert_eq!(proxy.put_policy("mine", &next.component()).status, 200);
    for _ in 0..8 {
        assert_ne!(proxy.get("web", "/").backend(), before, "the state has not arrived on every worker");
    }
}

#[test]
fn a_rollback_returns_to_the_version_before() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = start(&[&a, &b], &Balancer::picking(guest::FIRST));
    let before = proxy.get("web", "/").backend().to_owned();
    let digest = proxy.ask("/policies/mine")["digest"].clone();
    assert_eq!(proxy.put_policy("mine", &Balancer::picking(guest::SECOND).component()).status, 200);
    assert_ne!(proxy.get("web", "/").backend(), before);
    let load = Load::start(proxy.outbound, 2, "web");
    load.wait_for(100);
    let back = proxy.admin("POST", "/policies/mine/rollback", "", b"");
    assert_eq!(back.status, 200, "{}", back.text());
    load.wait_for(100);
    load.stop().assert_clean();
    assert_eq!(proxy.get("web", "/").backend(), before);
    assert_eq!(proxy.ask("/policies/mine")["digest"], digest);
    let unknown = proxy.admin("POST", "/policies/mine/rollback?to=ffffffff", "", b"");
    assert_eq!(unknown.status, 409, "{}", unknown.text());
}

#[test]
fn a_watched_file_is_swapped_in() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = start(&[&a, &b], &Balancer::picking(guest::FIRST));
    let before = proxy.get("web", "/").backend().to_owned();
    let load = Load::start(proxy.outbound, 2, "web");
    proxy.scene.replace("mine.wasm", &Balancer::picking(guest::SECOND).component());
    wait::until_true("the new policy", || proxy.get("web", "/").backend() != before);
    proxy.scene.overwrite("mine.wasm", &Balancer::picking(guest::FIRST).component());
    wait::until_true("the old policy", || proxy.get("web", "/").backend() == before);
    load.stop().assert_clean();
}

#[test]
fn a_built_in_policy_can_be_replaced_at_run_time() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = Scene::web(&[&a, &b]).set("services", "{web: {balancer: round-robin}}").start();
    assert_eq!(proxy.put_policy("round-robin", &Balancer::picking(guest::FIRST).component()).status, 200);
    let first = proxy.get("web", "/").backend().to_owned();
    for _ in 0..10 {
        assert_eq!(proxy.get("web", "/").backend(), first);
    }
    assert_eq!(proxy.put_policy("nobody", b"\0asm").status, 404);
}
