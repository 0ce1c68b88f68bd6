//! An endpoint that is killed costs no request that may be repeated, is left out, and comes back.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use outrigger_tests::backend::Backend;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;

/// A backend as a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(address: &str, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_backend"))
            .args([address, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().expect("the address it listens on");
        Self { child, address }
    }

    /// SIGKILL: no goodbye, connections are reset or closed as the kernel likes.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kills_are_survived(balancer: &str) {
    let (steady, mortal) = (Backend::named("steady"), Process::start("127.0.0.1:0", "mortal"));
    let other = Backend::named("other");
    let address = mortal.address;
    let proxy = Scene::new()
        .endpoints("web", &[steady.address, other.address, address].map(|a| a.to_string()))
        .set("services", &format!("{{web: {{balancer: {balancer}}}}}"))
        .start();
    let load = Load::start(proxy.outbound, 8, "web");
    load.wait_for(500);

    mortal.kill();
    proxy.wait_for_metric("outrigger_upstream_ejections_total", &[("service", "web")], 1.0);
    load.wait_for(500);
    let ejected = || proxy.metrics().sum("outrigger_upstream_connect_failures_total", &[("service", "web")]);
    assert!(ejected() >= 1.0);

    let back = Process::start(&address.to_string(), "reborn");
    let tally = wait::until("the reborn endpoint to serve", || {
        load.wait_for(200);
        let latest = Load::start(proxy.outbound, 4, "web");
        latest.wait_for(200);
        Some(latest.stop()).filter(|tally| tally.of("reborn") > 0)
    });
    tally.assert_clean();
    let total = load.stop();
    total.assert_clean();
    assert!(total.of("mortal") > 0 && total.of("steady") > 0 && total.of("reborn") > 0, "{total:?}");
    drop(back);
}

#[test]
fn kill_9_under_load_with_p2c() {
    kills_are_survived("p2c");
}

#[test]
fn kill_9_under_load_with_round_robin() {
    kills_are_survived("round-robin");
}

#[test]
fn an_ejected_endpoint_is_shown_as_such() {
    let (steady, mortal) = (Backend::named("steady"), Process::start("127.0.0.1:0", "mortal"));
    let address = mortal.address.to_string();
    let proxy = Scene::new()
        .endpoints("web", &[steady.address.to_string(), address.clone()])
        .set("services", "{web: {balancer: round-robin, ejection: {time: 60s}}}")
        .start();
    mortal.kill();
    let load = Load::start(proxy.outbound, 2, "web");
    let shown = |address: &str| {
        let endpoints = proxy.ask("/endpoints");
        let all = endpoints["web"].as_array().cloned().unwrap_or_default();
        let one = all.into_iter().find(|endpoint| endpoint["address"] == address);
        one.expect("the endpoint is listed")["status"].clone()
    };
    wait::until_true("the ejection", || shown(&address) == "ejected");
    assert_eq!(shown(&steady.address.to_string()), "ready");
    let states = [("ready", 1.0), ("ejected", 1.0)];
    for (state, count) in states {
        assert_eq!(
            proxy.metrics().sum("outrigger_endpoints", &[("service", "web"), ("state", state)]),
            count
        );
    }
    load.stop().assert_clean();
}

/// When all endpoints are gone, the answer says so, and service resumes by itself.
#[test]
fn the_last_endpoint_dies() {
    let mortal = Process::start("127.0.0.1:0", "mortal");
    let address = mortal.address.to_string();
    let proxy = Scene::new().endpoints("web", std::slice::from_ref(&address)).start();
    assert_eq!(proxy.get("web", "/").status, 200);
    mortal.kill();
    for _ in 0..20 {
        let answer = proxy.get("web", "/");
        assert_eq!((answer.status, answer.reason()), (502, "connect-failed"), "{}", answer.text());
        assert_eq!(answer.json()["blame"], "upstream");
    }
    let _reborn = Process::start(&address, "reborn");
    wait::until_true("service to resume", || proxy.get("web", "/").status == 200);
}
