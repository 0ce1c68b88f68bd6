//! The workload registers itself, stays registered whatever happens, and leaves before the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::{Etcd, free};
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;
use rustix::process::Signal;

fn scene(etcd: &Etcd, address: SocketAddr, more: &str) -> Scene {
    let registry = format!(
        "{{etcd: {{endpoints: 'http://{}'}}, register: {{address: '{address}', id: one, ttl: 3s, {more}}}}}",
        etcd.addresses()[0]
    );
    Scene::new().registry(&registry).set("node", "{service: web, zone: z1}")
}

const KEY: &str = "/outrigger/services/web/one";

#[test]
fn the_workload_registers_itself_and_is_followed_by_others() {
    let etcd = Etcd::start();
    let workload = Backend::named("workload");
    let more = "weight: 3, labels: {a: b}, version: v2, report_load: 1s";
    let mut proxy = scene(&etcd, workload.address, more).start();
    proxy.wait_for_endpoints("web", &[&workload]);
    let value = wait::until("a load", || etcd.entry(KEY).filter(|e| e.value["load"].is_number())).value;
    assert_eq!((&value["weight"], &value["zone"]), (&3.into(), &"z1".into()));
    assert_eq!((&value["labels"]["a"], &value["labels"]["version"]), (&"b".into(), &"v2".into()));
    assert_eq!(proxy.get("web", "/").backend(), "workload");
    proxy.wait_for_metric("outrigger_registered", &[], 1.0);
    // It leaves at once, not when its time to live is over.
    proxy.signal(Signal::TERM);
    assert!(proxy.wait(wait::WAIT_MAX).success());
    assert!(etcd.entry(KEY).is_none());
}

/// The lease is revoked, the key deleted, somebody writes over it, etcd is restarted empty: it is there again.
#[test]
fn the_registration_is_repaired_after_any_loss() {
    let mut etcd = Etcd::start();
    let workload = Backend::named("workload");
    let proxy = scene(&etcd, workload.address, "weight: 2").start();
    let ours = |etcd: &Etcd| wait::until("the entry", || etcd.entry(KEY).filter(|e| e.value["weight"] == 2));
    let first = ours(&etcd);
    etcd.revoke(&first.lease);
    let second = ours(&etcd);
    assert_ne!(first.lease, second.lease);
    etcd.delete(KEY);
    assert_eq!(ours(&etcd).lease, second.lease, "the lease lives on");
    etcd.instance("web", "one", workload.address);
    ours(&etcd);
    etcd.restart_empty();
    ours(&etcd);
    proxy.wait_for_metric("outrigger_registrations_total", &[], 5.0);
    assert_eq!(proxy.get("web", "/").backend(), "workload");
}

#[test]
fn health_follows_the_check() {
    let etcd = Etcd::start();
    let well = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&well);
    let workload = Backend::scripted(move |exchange| {
        exchange.status(if said.load(SeqCst) { 200 } else { 500 }, "workload")
    });
    let check = "check: {kind: http, path: /healthz, interval: 50ms, failures: 2}";
    let proxy = scene(&etcd, workload.address, check).start();
    let status = |wanted: &str| {
        wait::until_true(wanted, || etcd.entry(KEY).is_some_and(|entry| entry.value["status"] == wanted));
    };
    status("down");
    assert_eq!(proxy.metrics().sum("outrigger_workload_healthy", &[]), 0.0);
    well.store(true, SeqCst);
    status("ready");
    proxy.wait_for_metric("outrigger_workload_healthy", &[], 1.0);
    well.store(false, SeqCst);
    status("down");
    assert!(workload.heads().iter().any(|head| head.first.starts_with("GET /healthz ")));
    wait::until_true("others to see it", || {
        proxy.endpoints("web").iter().any(|(_, status)| status == "down")
    });
}

/// A registry that is away holds up neither the start nor the stop for long.
#[test]
fn a_registry_that_is_away_does_not_hold_up_the_stop() {
    let mut etcd = Etcd::start();
    let workload = Backend::named("workload");
    let mut proxy = scene(&etcd, workload.address, "").start();
    wait::until("the entry", || etcd.entry(KEY));
    etcd.kill(0);
    proxy.signal(Signal::TERM);
    assert!(proxy.wait(wait::WAIT_MAX).success());
    let mut never = scene(&etcd, free(), "").start_unready(free(), free());
    never.signal(Signal::TERM);
    assert!(never.wait(wait::WAIT_MAX).success());
}
