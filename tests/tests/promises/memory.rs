//! What an idle sidecar costs.

use std::time::Instant;

use outrigger_tests::backend::Backend;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;

/// Of its own, with one policy, after a start with compiled policies at hand. The pages of the program that are mapped
/// beside it, 13 to 18 MiB for one and the same, are the page cache's business.
const IDLE_MAX_KIB: u64 = 6 * 1024;

#[test]
fn an_idle_sidecar_is_small_and_starts_quickly() {
    let backend = Backend::named("a");
    let scene = Scene::web(&[&backend]).start().stop();
    let begun = Instant::now();
    let proxy = scene.start_again();
    let started = begun.elapsed();
    assert_eq!(proxy.get("web", "/").status, 200);
    let idle_kib = wait::until_settled("memory to settle", || proxy.anonymous_kib());
    let with_file = proxy.resident_kib();
    println!(
        "start to ready with a warm cache: {started:?}; idle: {idle_kib} KiB, {with_file} with the program's file"
    );
    assert!(idle_kib < IDLE_MAX_KIB, "{idle_kib} KiB");
    assert!(started.as_secs() < 5, "a start takes {started:?}");
}

/// Connections that have done their work leave nothing behind.
#[test]
fn memory_does_not_grow_with_requests() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).start();
    let round = || {
        let load = Load::start(proxy.outbound, 32, "web");
        load.wait_for(3_000);
        load.stop().assert_clean();
        proxy.resident_kib()
    };
    let settled_kib = (0..3).map(|_| round()).max().unwrap_or_default();
    let end_kib = (0..3).map(|_| round()).min().unwrap_or_default();
    assert!(end_kib < settled_kib + 2 * 1024, "memory grew from {settled_kib} to {end_kib} KiB");
}
