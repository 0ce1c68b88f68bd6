//! The admin interface tells the truth to those who may ask, takes changes from those who may make them, and the
//! program ends as gracefully as it runs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::guest::{self, Balancer};
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;
use rustix::process::Signal;

/// Families that users build dashboards on.
const FAMILIES: [&str; 24] = [
    "outrigger_requests_total",
    "outrigger_request_duration_seconds",
    "outrigger_first_byte_seconds",
    "outrigger_request_bytes_total",
    "outrigger_response_bytes_total",
    "outrigger_connections",
    "outrigger_bad_requests_total",
    "outrigger_upstream_connects_total",
    "outrigger_upstream_connect_failures_total",
    "outrigger_upstream_retries_total",
    "outrigger_upstream_reused_total",
    "outrigger_upstream_connections",
    "outrigger_policy_calls_total",
    "outrigger_policy_failures_total",
    "outrigger_policy_fallbacks_total",
    "outrigger_policy_swaps_total",
    "outrigger_policy_info",
    "outrigger_endpoints",
    "outrigger_registry_valid",
    "outrigger_registry_last_confirmed_seconds",
    "outrigger_config_valid",
    "outrigger_snapshot_version",
    "outrigger_build_info",
    "process_resident_memory_bytes",
];

#[test]
fn metrics_are_clean_and_whole() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend])
        .component("mine", &Balancer::picking(guest::EIGHTH).component())
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("services", "{other: {balancer: mine}}")
        .service("other", &[&backend])
        .start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.answer("POST").status, 200);
    client.get("other", "/", "");
    proxy.raw("nonsense\r\n\r\n");
    assert_eq!(proxy.put_policy("mine", &Balancer::picking(guest::FIRST).component()).status, 200);
    proxy.wait_for_metric("outrigger_policy_failures_total", &[("kind", "nonsense")], 1.0);
    let metrics = proxy.metrics();
    let families = metrics.families();
    for family in FAMILIES {
        assert!(families.iter().any(|name| name == family), "{family} is missing from\n{}", metrics.text);
    }
    assert_eq!(metrics.sum("outrigger_request_bytes_total", &[("service", "web")]), 5.0);
    assert_eq!(metrics.sum("outrigger_connections", &[]), 1.0, "ours");
    assert_eq!(metrics.sum("outrigger_bad_requests_total", &[("reason", "bad-syntax")]), 1.0);
    promtool(&metrics.text);
}

/// `promtool check metrics` says nothing about clean metrics.
pub(crate) fn promtool(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; tests/run.sh installs it");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.trim().is_empty(), "promtool: {told}");
}

#[test]
fn everything_can_be_looked_at() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("admin", "{listen: '127.0.0.1:0', token: s3cret}").start();
    assert_eq!(proxy.get("web", "/").status, 200);
    assert_eq!(proxy.ask("/live")["live"], true);
    let ready = proxy.ask("/ready");
    assert_eq!((&ready["ready"], &ready["draining"]), (&true.into(), &false.into()));
    let config = proxy.admin("GET", "/config", "", b"");
    assert!(!config.text().contains("s3cret"), "secrets are hidden");
    assert_eq!(config.json()["domain"], "mesh.internal");
    assert_eq!(config.json()["defaults"]["balancer"]["policy"], "p2c");
    // The client has its answer a moment before the worker has counted the request out.
    let endpoint = wait::until("the request to be over", || {
        Some(proxy.ask("/endpoints")["web"][0].clone()).filter(|endpoint| endpoint["in_flight"] == 0)
    });
    assert_eq!(endpoint["address"], backend.address.to_string());
    assert_eq!(endpoint["status"], "ready");
    assert!(endpoint["latency_us"].as_u64().is_some_and(|latency| latency > 0), "{endpoint}");
    let policies = proxy.ask("/policies");
    assert_eq!(policies["policies"][0]["name"], "p2c");
    assert_eq!(proxy.ask("/policies/p2c")["source"], "builtin");
    assert!(proxy.ask("/").to_string().contains("/metrics"), "the index says what there is");
    assert_eq!(proxy.admin("GET", "/nothing", "", b"").status, 404);
    assert_eq!(proxy.admin("POST", "/ready", "", b"").status, 405);
}

#[test]
fn changes_need_the_token() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("admin", "{listen: '127.0.0.1:0', token: s3cret}").start();
    let component = Balancer::default().component();
    let put = |fields: &str| proxy.admin("PUT", "/policies/p2c", fields, &component).status;
    assert_eq!(put(""), 401);
    assert_eq!(put("authorization: Bearer wrong\r\n"), 401);
    assert_eq!(put("authorization: Bearer s3cret\r\norigin: http://evil.example\r\n"), 403);
    assert_eq!(proxy.version(), 1, "nothing has changed");
    assert_eq!(put("authorization: Bearer s3cret\r\n"), 200);
    assert_eq!(proxy.admin("POST", "/policies/p2c/rollback", "", b"").status, 401);
}

/// A web page can make a browser send requests to loopback: by another site's script, or by a name that resolves here.
#[test]
fn web_pages_change_and_read_nothing() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).start();
    let reset = proxy.admin("POST", "/policies/p2c/reset", "origin: http://evil.example\r\n", b"");
    assert_eq!(reset.status, 403);
    let admin = proxy.admin.unwrap();
    let mut client = outrigger_tests::client::Client::connect(admin);
    client.send("GET /config HTTP/1.1\r\nhost: evil.example\r\n\r\n");
    assert_eq!(client.answer("GET").status, 403);
}

/// Off loopback, changes without a configured token are refused; on loopback they are trusted.
#[test]
fn an_exposed_listener_takes_no_changes_without_a_token() {
    let backend = Backend::named("a");
    let scene = Scene::web(&[&backend]).set("admin", "{listen: '0.0.0.0:0'}");
    scene.write();
    let path = scene.path("outrigger.yaml");
    let said = outrigger_tests::program::run(&["check", path.to_str().unwrap()], path.parent().unwrap());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("token"), "{}", said.err);
}

#[test]
fn a_unix_socket_serves_its_owner() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("admin", "{listen: 'unix:admin.sock'}").start();
    assert_eq!(proxy.admin, None);
    let path = proxy.scene.path("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"ready\": true"), "{answer}");
    let scene = proxy.stop();
    drop(scene);
}

/// Requests in flight are finished, new connections are refused or ended in order, and the exit code is 0.
#[test]
fn sigterm_under_load_finishes_what_is_in_flight() {
    let backend = Backend::scripted(|exchange| {
        if exchange.head.target() == "/slow" {
            let _ = exchange.body();
        }
        exchange.reply("a")
    });
    let mut proxy = Scene::web(&[&backend]).start();
    let mut slow: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut slow {
        client.send("POST /slow HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nab");
    }
    wait::until_true("the slow ones to arrive", || backend.requests() >= 8);
    let mut idle = proxy.client();
    assert_eq!(idle.get("web", "/", "").status, 200);
    let load = Load::start(proxy.outbound, 4, "web");
    load.wait_for(100);

    proxy.signal(Signal::TERM);
    let ready = wait::until("/ready to say no", || {
        let ready = proxy.admin("GET", "/ready", "", b"");
        (ready.status == 503).then(|| ready.json())
    });
    assert_eq!(ready["draining"], true);
    idle.expect_end();
    for client in &mut slow {
        client.send("cd");
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    }
    let tally = load.stop();
    for failure in tally.failures.keys() {
        // What could not be sent any more, not what was lost on its way.
        let refused = ["connect", "closed", "cut", "io"].iter().any(|kind| failure.starts_with(kind));
        assert!(refused, "{tally:?}");
    }
    let status = proxy.wait(wait::WAIT_MAX);
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    assert!(!proxy.scene.path("ready.json").exists(), "the ready file is gone");
}

#[test]
fn a_second_signal_ends_at_once() {
    let backend = Backend::scripted(|exchange| {
        let _ = exchange.wire.some();
        Next::Close
    });
    let mut proxy: Proxy = Scene::web(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    wait::until_true("the request to arrive", || backend.requests() == 1);
    proxy.signal(Signal::TERM);
    wait::until_true("the drain", || proxy.log().contains("draining"));
    assert!(proxy.is_running(), "it waits for the request");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait(wait::WAIT_MAX).code(), Some(1));
}
