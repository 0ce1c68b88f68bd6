//! Somebody sets the wall clock, by hours, forward and back. Nothing expires for that, and nothing comes back to life:
//! what lasts is measured by the clock that only counts.

use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_tests::backend::Backend;
use outrigger_tests::etcd::Etcd;
use outrigger_tests::load::Load;
use outrigger_tests::program;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::registry::{Home, Registry, index};
use outrigger_tests::wait;
use outrigger_tests::wall_clock::WallClock;

/// Hours from the true time, one after the other.
const JUMPS: [i64; 4] = [6, -12, 24, 0];

/// How far a time that a program has written down is from the true one, to the nearest hour.
fn hours_off(written: &str) -> i64 {
    let seconds = |text: &str| -> i64 {
        let said = program::tool("date", &["-d", text, "+%s"], Path::new("/")).expect_ok("date");
        said.out.trim().parse().unwrap()
    };
    (seconds(written) - seconds("now") + 1800).div_euclid(3600)
}

fn check_status(registry: &Registry, id: &str) -> Option<String> {
    let checks = registry.json("/v1/agent/checks");
    checks[id]["Status"].as_str().map(str::to_owned)
}

/// TTLs, sessions, locks, deregistration and waits of the embedded registry.
#[test]
fn the_embedded_registry_does_not_live_by_the_wall_clock() {
    let clock = WallClock::new();
    let registry = Home::new("limits: {deregister_after_min: 1s}\n").with(&clock.environment()).start();
    registry.register("web", "well", r#"{"TTL": "90s", "Status": "passing"}"#);
    let dying = r#"{"TTL": "90s", "Status": "critical", "DeregisterCriticalServiceAfter": "10m"}"#;
    registry.register("web", "dying", dying);
    let session = registry.put("/v1/session/create", r#"{"TTL": "60s", "LockDelay": "1m"}"#).json();
    let session = session["ID"].as_str().expect("an id").to_owned();
    registry.put(&format!("/v1/kv/lock?acquire={session}"), "held");
    for (round, hours) in JUMPS.into_iter().enumerate() {
        clock.set(hours);
        // What is due is due: a short TTL lapses, and who stays critical goes.
        let short = format!("short-{round}");
        registry.register("short", &short, r#"{"TTL": "1s", "DeregisterCriticalServiceAfter": "2s"}"#);
        registry.put(&format!("/v1/agent/check/pass/service:{short}"), "");
        let status =
            |wanted: &str| check_status(&registry, &format!("service:{short}")).as_deref() == Some(wanted);
        wait::until_true("the TTL to lapse", || status("critical"));
        wait::until_true("it to be deregistered", || {
            registry.json("/v1/health/service/short").as_array().is_some_and(Vec::is_empty)
        });
        // The log is written by the clock that jumps: it has.
        let said = wait::until("a word about it", || {
            let log = registry.log();
            log.lines().find(|line| line.contains(&short) && line.contains("deregistered")).map(str::to_owned)
        });
        assert_eq!(hours_off(said.split_whitespace().next().expect("a time")), hours, "{said}");
        // And a wait lasts as long as it was asked to.
        let now = index(&registry.get("/v1/health/service/web"));
        let begun = Instant::now();
        registry.json(&format!("/v1/health/service/web?index={now}&wait=1s"));
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
        // Everything else has hours to live, or lives on.
        assert_eq!(registry.passing("web"), ["well"], "{hours} h");
        assert_eq!(check_status(&registry, "service:dying").as_deref(), Some("critical"), "{hours} h");
        let sessions = registry.json("/v1/session/list");
        assert_eq!(sessions[0]["ID"].as_str(), Some(&*session), "{hours} h: {sessions}");
        assert_eq!(registry.json("/v1/kv/lock")[0]["Session"].as_str(), Some(&*session), "{hours} h");
    }
}

fn age(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("outrigger_registry_last_confirmed_seconds", &[])
}

/// The catalogue, its age, the workload's entry and the copy on disk of a sidecar that leaves out what is stale.
#[test]
fn a_sidecar_does_not_live_by_the_wall_clock() {
    let clock = WallClock::new();
    let mut etcd = Etcd::start();
    let (a, own) = (Backend::named("a"), Backend::named("own"));
    etcd.instance("web", "a", a.address);
    let register = format!("register: {{service: web, id: own, address: '{}', ttl: 3s}}", own.address);
    let stale = "stale: {after: 30m, then: leave-out}";
    let url = etcd.addresses()[0];
    let registry = format!("{{etcd: {{endpoints: 'http://{url}', timeout: 1s}}, {stale}, {register}}}");
    let proxy = Scene::new().registry(&registry).with(&clock.environment()).start();
    proxy.wait_for_endpoints("web", &[&a, &own]);
    let load = Load::start(proxy.outbound, 2, "web");
    let lease = etcd.entry("/outrigger/services/web/own").expect("the workload's entry").lease;
    for (round, hours) in JUMPS.into_iter().enumerate() {
        clock.set(hours);
        // When a policy was refused is told by the clock that jumps: it has.
        assert_ne!(proxy.put_policy("p2c", b"no component").status, 200);
        let policy = proxy.ask("/policies/p2c");
        let refused_at =
            policy["last_refusal"]["at"].as_f64().unwrap_or_else(|| panic!("no refusal in {policy}"));
        assert_eq!(hours_off(&format!("@{refused_at}")), hours);
        // The age is that of the last word, and the next one makes it small again.
        let before = age(&proxy);
        assert!(before < 10.0, "{hours} h: {before}");
        wait::until_true("the next word", || age(&proxy) < 1.0);
        let b = Backend::named("b");
        etcd.instance("web", &format!("b{round}"), b.address);
        proxy.wait_for_endpoints("web", &[&a, &own, &b]);
        etcd.delete(&format!("/outrigger/services/web/b{round}"));
        proxy.wait_for_endpoints("web", &[&a, &own]);
        let entry = etcd.entry("/outrigger/services/web/own").expect("the workload's entry");
        assert_eq!(entry.lease, lease, "{hours} h: kept alive, not made anew");
        assert_eq!(proxy.metrics().sum("outrigger_registrations_total", &[]), 1.0);
        let ready = proxy.ask("/ready");
        assert!(
            ready["registry_valid"] == true && !ready["problems"].to_string().contains("registry"),
            "{ready}"
        );
    }
    load.stop().assert_clean();
    wait::until_true("the catalogue to be saved", || {
        proxy.scene.path("state").read_dir().is_ok_and(|mut files| files.next().is_some())
    });
    // The copy on disk is no older for a clock that is a day ahead at the next start.
    let scene = proxy.stop();
    etcd.kill(0);
    clock.set(24);
    let again = scene.start_again();
    assert_eq!(again.get("web", "/").status, 200, "{}", again.ask("/ready"));
    assert!(age(&again) < 1800.0, "{}", age(&again));
}
