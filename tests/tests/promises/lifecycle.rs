//! Outside Kubernetes, two verbs order a workload and its sidecar: `wait` holds the workload back, `status` tells.

use std::process::{Command, Stdio};

use outrigger_tests::backend::Backend;
use outrigger_tests::program::{outrigger, run, say};
use outrigger_tests::proxy::Scene;
use outrigger_tests::{guest, wait};

#[test]
fn a_workload_starts_when_its_sidecar_is_ready_and_not_before() {
    let backend = Backend::named("a");
    let mut scene = Scene::web(&[&backend]);
    let socket = scene.path("admin.sock");
    let admin = format!("unix:{}", socket.display());
    scene.change("admin", &format!("{{listen: '{admin}'}}"));
    let started = scene.path("started");
    let mut waiting = Command::new(outrigger())
        .args(["wait", "--admin", &admin, "--timeout", "60", "--", "sh", "-c", "touch \"$0\"; exit 7"])
        .arg(&started)
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    assert!(waiting.try_wait().expect("runs").is_none(), "it waits for a sidecar that is not there yet");
    assert!(!started.exists());
    let _proxy = scene.start();
    let status = waiting.wait().expect("ends");
    assert!(started.exists());
    assert_eq!(status.code(), Some(7), "the command takes its place, with its exit code");
}

#[test]
fn waiting_ends_in_time_and_says_why() {
    let scene = Scene::web(&[]);
    let admin = format!("unix:{}", scene.path("nobody.sock").display());
    let said =
        say(Command::new(outrigger()).args(["wait", "--admin", &admin, "--timeout", "0.1", "--", "true"]));
    assert_eq!(said.code, Some(124), "{said:?}");
    assert!(said.err.contains("nobody.sock") && said.err.contains("No such file"), "{said:?}");
    let said = run(&["wait", "--admin", "somewhere"], scene.path("").as_path());
    assert!(!said.ok() && said.err.contains("write IP:port, or unix:PATH"), "{said:?}");
}

#[test]
fn status_shows_services_endpoints_and_policies() {
    let (one, two) = (Backend::named("a"), Backend::named("b"));
    let proxy = Scene::web(&[&one, &two])
        .component("mine", &guest::Balancer::picking(guest::FIRST).component())
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("services", "{web: {balancer: mine}}")
        .start();
    let admin = proxy.admin.expect("TCP").to_string();
    let dir = std::env::temp_dir();
    let said = run(&["status", "--admin", &admin], &dir).expect_ok("status");
    assert!(said.out.starts_with("ready, snapshot "), "{said:?}");
    let row = |name: &str| {
        let line = said.out.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} in {said:?}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("web"), ["web", "2", "0", "0", "0", "0"]);
    let policy = row("mine");
    assert_eq!((policy[1], policy[2], policy[3]), ("in", "force", "-"));
    let json: serde_json::Value =
        serde_json::from_str(&run(&["status", "--json", "--admin", &admin], &dir).expect_ok("status").out)
            .expect("JSON");
    assert_eq!(json["endpoints"]["web"].as_array().map(Vec::len), Some(2));
    let mine =
        json["policies"].as_array().expect("a list").iter().find(|p| p["name"] == "mine").expect("mine");
    assert!(mine["digest"].as_str().expect("a digest").starts_with(policy[4]));
    // A registry that breaks is a problem, not the end.
    proxy.scene.overwrite("services.yaml", b"services: 5");
    wait::until_true("the problem shows", || {
        run(&["status", "--admin", &admin], &dir).out.contains("problem: ")
    });
}
