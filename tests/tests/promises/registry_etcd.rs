//! etcd comes, goes, forgets and lies; requests flow all the while.

use std::time::Instant;

use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::{Etcd, free};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::relay::Relay;
use outrigger_tests::wait;
use rustix::process::Signal;
use serde_json::json;

fn registry(addresses: &[std::net::SocketAddr]) -> String {
    let urls: Vec<String> = addresses.iter().map(|address| format!("'http://{address}'")).collect();
    format!("{{etcd: {{endpoints: [{}], timeout: 1s}}}}", urls.join(", "))
}

/// From the put in etcd to a request that is answered by the new endpoint, in less than a second.
#[test]
fn a_change_is_picked_up_in_under_a_second() {
    let etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    let settings = "{web: {balancer: round-robin}}";
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).set("services", settings).start();
    assert_eq!(proxy.get("web", "/").backend(), "a");
    let load = Load::start(proxy.outbound, 2, "web");
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        etcd.instance("web", "b", b.address);
        let before = b.requests();
        wait::until_true("b to be asked", || b.requests() > before);
        times.push(start.elapsed());
        etcd.delete("/outrigger/services/web/b");
        proxy.wait_for_endpoints("web", &[&a]);
    }
    times.sort();
    eprintln!("from the put to the first request: median {:?}, longest {:?}", times[5], times[9]);
    assert!(times[9].as_millis() < 1_000, "{times:?}");
    load.stop().assert_clean();
}

/// One entry that cannot be read costs that instance alone, and is logged once.
#[test]
fn a_bad_entry_costs_only_itself() {
    let etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    etcd.put("/outrigger/services/web/junk", "{");
    etcd.put("/outrigger/services/Not_A_Name/x", &json!({ "address": a.address }).to_string());
    etcd.put("/outrigger/services/stray", "stray");
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).start();
    proxy.wait_for_endpoints("web", &[&a]);
    etcd.instance("web", "b", b.address);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    etcd.put("/outrigger/services/web/junk", "{");
    etcd.put("/outrigger/services/web/b", "[]");
    proxy.wait_for_metric("outrigger_registry_bad_entries_total", &[], 4.0);
    // What was good before is kept.
    proxy.wait_for_endpoints("web", &[&a, &b]);
    assert_eq!(proxy.log().matches("services/web/junk").count(), 1, "{}", proxy.log());
    let status = json!({ "address": b.address, "status": "draining" });
    etcd.put("/outrigger/services/web/b", &status.to_string());
    wait::until_true("b to drain", || proxy.endpoints("web").iter().any(|(_, status)| status == "draining"));
}

#[test]
fn losing_etcd_loses_nothing() {
    let mut etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).start();
    let load = Load::start(proxy.outbound, 2, "web");
    etcd.kill(0);
    let ready = proxy.wait_for_ready("the loss", |ready| ready["registry_valid"] == false);
    assert_eq!(ready["ready"], true);
    assert!(ready["problems"].to_string().contains("etcd"), "{ready}");
    load.wait_for(200);
    assert!(proxy.metrics().sum("outrigger_registry_last_confirmed_seconds", &[]) > 0.0);
    etcd.start_again(0);
    etcd.instance("web", "b", b.address);
    proxy.wait_for_ready("the return", |ready| ready["registry_valid"] == true);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    load.stop().assert_clean();
}

/// Without etcd and without a saved catalogue the sidecar waits and says so; with one it serves.
#[test]
fn a_start_without_etcd_waits_or_serves_the_last_catalogue() {
    let mut etcd = Etcd::start();
    let a = Backend::named("a");
    etcd.instance("web", "a", a.address);
    etcd.kill(0);
    let scene = Scene::new().registry(&registry(&etcd.addresses()));
    let proxy = scene.start_unready(free(), free());
    let ready = proxy.wait_for_ready("a word", |ready| ready["problems"].to_string().contains("etcd"));
    assert_eq!((&ready["ready"], &ready["version"]), (&json!(false), &json!(0)));
    assert!(!proxy.scene.path("ready.json").exists());
    etcd.start_again(0);
    proxy.wait_for_ready("the catalogue", |ready| ready["ready"] == true);
    assert_eq!(proxy.get("web", "/").backend(), "a");
    wait::until_true("the catalogue to be saved", || {
        proxy.scene.path("state").read_dir().is_ok_and(|mut files| files.next().is_some())
    });
    let scene = proxy.stop();
    etcd.kill(0);
    let again = scene.start_again();
    assert_eq!(again.get("web", "/").backend(), "a");
    let ready = again.ask("/ready");
    assert_eq!(ready["ready"], true);
    etcd.start_again(0);
    again.wait_for_ready("the registry", |ready| ready["registry_valid"] == true);
}

/// What was missed while the network was cut comes back, even when etcd has forgotten how it came about.
#[test]
fn a_watch_that_falls_behind_compaction_reads_everything_anew() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.addresses()[0]);
    let (a, b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    etcd.instance("web", "a", a.address);
    etcd.instance("web", "b", b.address);
    let proxy = Scene::new().registry(&registry(&[relay.address])).start();
    let load = Load::start(proxy.outbound, 2, "web");
    // A short cut: the watch goes on where it was.
    relay.cut();
    proxy.wait_for_ready("the cut", |ready| ready["registry_valid"] == false);
    etcd.instance("web", "c", c.address);
    relay.mend();
    proxy.wait_for_endpoints("web", &[&a, &b, &c]);
    assert_eq!(proxy.metrics().sum("outrigger_registry_resyncs_total", &[]), 0.0);
    relay.cut();
    proxy.wait_for_ready("the cut", |ready| ready["registry_valid"] == false);
    etcd.delete("/outrigger/services/web/b");
    etcd.compact();
    relay.mend();
    proxy.wait_for_endpoints("web", &[&a, &c]);
    proxy.wait_for_metric("outrigger_registry_resyncs_total", &[("reason", "compacted")], 1.0);
    load.stop().assert_clean();
}

/// etcd comes back empty: what still answers is kept, what does not goes, and what registers again is believed.
#[test]
fn an_empty_registry_empties_nothing_that_answers() {
    let mut etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let gone = free();
    for (id, address) in [("a", a.address), ("b", b.address), ("c", gone)] {
        etcd.instance("web", id, address);
    }
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).start();
    let load = Load::start(proxy.outbound, 2, "web");
    etcd.restart_empty();
    proxy.wait_for_metric("outrigger_registry_held_endpoints", &[], 2.0);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    proxy.wait_for_metric("outrigger_registry_resyncs_total", &[], 1.0);
    etcd.instance("web", "a", a.address);
    wait::until_true("a to be let go", || {
        proxy.metrics().sum("outrigger_registry_held_endpoints", &[]) == 1.0
    });
    load.wait_for(100);
    load.stop().assert_clean();
    let address = b.address;
    drop(b);
    wait::until_true("b to go", || {
        !proxy.endpoints("web").iter().any(|(known, _)| *known == address.to_string())
    });
}

#[test]
fn a_cluster_loses_its_leader_and_its_quorum() {
    let mut etcd = Etcd::cluster(3);
    let (a, b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    etcd.instance("web", "a", a.address);
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).start();
    let load = Load::start(proxy.outbound, 2, "web");
    let leader = etcd.leader();
    etcd.kill(leader);
    etcd.instance("web", "b", b.address);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    let second = (leader + 1) % 3;
    etcd.kill(second);
    proxy.wait_for_ready("the quorum to be missed", |ready| ready["registry_valid"] == false);
    load.wait_for(200);
    etcd.start_again(second);
    etcd.instance("web", "c", c.address);
    proxy.wait_for_endpoints("web", &[&a, &b, &c]);
    proxy.wait_for_ready("the quorum", |ready| ready["registry_valid"] == true);
    load.stop().assert_clean();
}

/// What the registry said too long ago is left out, if the operator wants that.
#[test]
fn a_stale_registry_can_be_left_out() {
    let mut etcd = Etcd::start();
    let a = Backend::named("a");
    etcd.instance("web", "a", a.address);
    let stale = "stale: {after: 10s, then: leave-out}";
    let registry = registry(&etcd.addresses()).replacen('{', &format!("{{{stale}, "), 1);
    let proxy = Scene::new().registry(&registry).start();
    assert_eq!(proxy.get("web", "/").status, 200);
    etcd.kill(0);
    wait::until_true("web to be left out", || proxy.get("web", "/").status == 503);
    etcd.start_again(0);
    wait::until_true("web to be back", || proxy.get("web", "/").status == 200);
}

/// Only what the workload names is followed.
#[test]
fn named_services_alone_are_followed() {
    let etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    for service in ["api", "other", "web"] {
        etcd.instance(service, "a", a.address);
    }
    let registry = registry(&etcd.addresses()).replacen('{', "{services: [api, web], ", 1);
    let proxy = Scene::new().registry(&registry).start();
    for service in ["api", "other", "web"] {
        etcd.instance(service, "b", b.address);
    }
    proxy.wait_for_endpoints("web", &[&a, &b]);
    proxy.wait_for_endpoints("api", &[&a, &b]);
    assert_eq!(proxy.get("other", "/").status, 404);
}

/// With authentication: a token is had for the password, and another one when etcd has forgotten it.
#[test]
fn a_user_and_a_password_open_etcd() {
    let mut etcd = Etcd::start();
    let (a, workload) = (Backend::named("a"), Backend::named("workload"));
    etcd.instance("web", "a", a.address);
    etcd.require_password("secret-word");
    let url = etcd.addresses()[0];
    let registry = |more: &str| format!("{{etcd: {{endpoints: 'http://{url}'{more}}}}}");
    let stranger = Scene::new().registry(&registry("")).start_unready(free(), free());
    stranger.wait_for_ready("the refusal", |ready| ready["problems"].to_string().contains("etcd"));
    let known = registry(", user: root, password_file: password");
    let register = format!("register: {{service: web, id: w, address: '{}'}}", workload.address);
    let scene = Scene::new().registry(&known.replacen('{', &format!("{{{register}, "), 1));
    scene.replace("password", b"secret-word\n");
    let proxy = scene.start();
    proxy.wait_for_endpoints("web", &[&a, &workload]);
    // Simple tokens are kept in memory.
    etcd.kill(0);
    proxy.wait_for_ready("the loss", |ready| ready["registry_valid"] == false);
    etcd.start_again_closed(0);
    proxy.wait_for_ready("the return", |ready| ready["registry_valid"] == true);
    assert!(!proxy.admin("GET", "/config", "", b"").text().contains("secret-word"));
}

/// Connections stay open and nothing is said: that is noticed, and the last catalogue serves on.
#[test]
fn a_registry_that_hangs_is_noticed() {
    let etcd = Etcd::start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    let proxy = Scene::new().registry(&registry(&etcd.addresses())).start();
    let load = Load::start(proxy.outbound, 2, "web");
    etcd.signal(0, Signal::STOP);
    proxy.wait_for_ready("the silence", |ready| ready["registry_valid"] == false);
    load.wait_for(100);
    etcd.signal(0, Signal::CONT);
    proxy.wait_for_ready("the return", |ready| ready["registry_valid"] == true);
    etcd.instance("web", "b", b.address);
    proxy.wait_for_endpoints("web", &[&a, &b]);
    load.stop().assert_clean();
}

/// Whatever step of its conversation with etcd breaks off, and in the middle of whichever word: the sidecar takes it up
/// again and misses nothing.
#[test]
fn a_conversation_that_breaks_off_anywhere_is_taken_up() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.addresses()[0]);
    let (a, b, own) = (Backend::named("a"), Backend::named("b"), Backend::named("own"));
    etcd.instance("web", "a", a.address);
    let register = format!("register: {{service: web, id: own, address: '{}', ttl: 3s}}", own.address);
    let registry = registry(&[relay.address]).replacen('{', &format!("{{{register}, "), 1);
    let proxy = Scene::new().registry(&registry).start();
    proxy.wait_for_endpoints("web", &[&a, &own]);
    let load = Load::start(proxy.outbound, 2, "web");
    for round in 0..12 {
        // Everything is begun anew, and breaks off after these bytes of what etcd says.
        relay.cut();
        relay.break_after(30 + 130 * round);
        relay.mend();
        wait::until_true("the line to break", || relay.has_broken());
        etcd.instance("web", "b", b.address);
        proxy.wait_for_endpoints("web", &[&a, &b, &own]);
        etcd.delete("/outrigger/services/web/b");
        proxy.wait_for_endpoints("web", &[&a, &own]);
    }
    assert!(etcd.entry("/outrigger/services/web/own").is_some());
    proxy.wait_for_metric("outrigger_registered", &[], 1.0);
    load.stop().assert_clean();
}

/// What cannot be read changes nothing, and is not taken for a word of confirmation either.
#[test]
fn malformed_answers_change_nothing() {
    let etcd = Etcd::start();
    let relay = Relay::to(etcd.addresses()[0]);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    etcd.instance("web", "a", a.address);
    let proxy = Scene::new().registry(&registry(&[relay.address])).start();
    let load = Load::start(proxy.outbound, 2, "web");
    relay.garble();
    etcd.instance("web", "b", b.address);
    let ready = proxy.wait_for_ready("the fault", |ready| ready["registry_valid"] == false);
    assert!(ready["problems"].to_string().contains("nonsense"), "{ready}");
    assert_eq!(ready["ready"], true);
    let age = || proxy.metrics().sum("outrigger_registry_last_confirmed_seconds", &[]);
    wait::until_true("the catalogue to age", || age() > 3.0);
    proxy.wait_for_endpoints("web", &[&a]);
    relay.mend();
    proxy.wait_for_endpoints("web", &[&a, &b]);
    proxy.wait_for_ready("the cure", |ready| ready["registry_valid"] == true);
    load.stop().assert_clean();
}

/// Unless told otherwise, what the registry said too long ago serves on, and `/ready` says how old it is.
#[test]
fn a_stale_registry_is_kept_and_said_to_be_stale() {
    let mut etcd = Etcd::start();
    let a = Backend::named("a");
    etcd.instance("web", "a", a.address);
    let registry = registry(&etcd.addresses()).replacen('{', "{stale: {after: 10s}, ", 1);
    let proxy = Scene::new().registry(&registry).start();
    let load = Load::start(proxy.outbound, 2, "web");
    etcd.kill(0);
    let is_stale = |ready: &serde_json::Value| ready["problems"].to_string().contains("has not confirmed");
    let ready = proxy.wait_for_ready("a word about its age", is_stale);
    assert_eq!(ready["ready"], true);
    load.wait_for(100);
    etcd.start_again(0);
    proxy.wait_for_ready("its return", |ready| !is_stale(ready));
    load.stop().assert_clean();
}
