//! A policy is published once and reaches every sidecar, from etcd and from the embedded registry alike.

use outrigger_tests::backend::Backend;
use outrigger_tests::guest::Balancer;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::Scene;
use outrigger_tests::shelf::{Shelf, version, wait_for_problem, wait_for_version};
use outrigger_tests::{program, wait};
use serde_json::{Value, json};

fn two_backends(shelf: &Shelf) -> (Backend, Backend) {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    shelf.instance("web", "a", &a);
    shelf.instance("web", "b", &b);
    (a, b)
}

#[test]
fn a_push_reaches_every_sidecar_and_so_does_a_rollback() {
    for shelf in Shelf::all() {
        let (a, b) = two_backends(&shelf);
        shelf.push(&Balancer::first().component(), &["-m", "the first"]).expect_ok("push");
        let proxies = [shelf.scene("").start(), shelf.scene("").start()];
        let loads: Vec<Load> = proxies.iter().map(|proxy| Load::start(proxy.outbound, 2, "web")).collect();
        for proxy in &proxies {
            proxy.wait_for_endpoints("web", &[&a, &b]);
            wait_for_version(proxy, 1);
        }
        let before = proxies[0].get("web", "/").backend().to_owned();
        shelf.push(&Balancer::last().component(), &["--by", "somebody"]).expect_ok("push");
        for proxy in &proxies {
            wait_for_version(proxy, 2);
            assert_ne!(proxy.get("web", "/").backend(), before);
        }
        wait::until_true("both sidecars to report version 2", || {
            let releases = shelf.releases();
            releases["versions"][0]["sidecars"] == 2 && releases["in_force"] == 2
        });
        loads.iter().for_each(|load| load.wait_for(100));
        shelf.policy(&["rollback", "mine", "-m", "too eager"], program::root()).expect_ok("rollback");
        for proxy in &proxies {
            wait_for_version(proxy, 1);
            assert_eq!(proxy.get("web", "/").backend(), before);
        }
        loads.iter().for_each(|load| load.wait_for(100));
        loads.into_iter().for_each(|load| load.stop().assert_clean());
        assert_history(&shelf);
        let status = program::run(
            &["status", "--admin", &proxies[0].admin.expect("TCP").to_string()],
            program::root(),
        );
        let line = status.out.lines().find(|line| line.starts_with("mine")).expect("a line").to_owned();
        assert_eq!(line.split_whitespace().nth(3), Some("1"), "{line}");
        proxies[0].wait_for_metric("outrigger_policy_release", &[("policy", "mine")], 1.0);
        // Whoever ends is forgotten.
        for proxy in proxies {
            proxy.stop();
        }
        wait::until_true("no sidecar to be left", || shelf.releases()["sidecars"] == json!([]));
    }
}

fn assert_history(shelf: &Shelf) {
    let said = shelf.policy(&["history", "mine", "--json"], program::root()).expect_ok("history");
    let history: Value = serde_json::from_str(&said.out).unwrap();
    let moves: Vec<Value> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| json!([change["action"], change["from"], change["to"], change["message"]]))
        .collect();
    let expected = [
        json!(["push", null, 1, "the first"]),
        json!(["push", 1, 2, ""]),
        json!(["rollback", 2, 1, "too eager"]),
    ];
    assert_eq!(moves, expected);
    assert_eq!(history[1]["by"], "somebody");
}

/// What is pushed again is not published again, and an old version stays until there are sixteen newer ones.
#[test]
fn versions_count_up_and_are_bounded() {
    for shelf in Shelf::all() {
        shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        let again = shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        assert!(again.out.contains("mine 1 is in force already"), "{again:?}");
        for number in 2..=18 {
            let config = format!("{{\"number\": {number}}}");
            shelf.push(&Balancer::first().component(), &["--config", &config]).expect_ok("push");
        }
        let releases = shelf.releases();
        let versions = releases["versions"].as_array().expect("a list").iter();
        let versions: Vec<u64> = versions.map(|one| one["version"].as_u64().expect("a number")).collect();
        assert_eq!(versions, (3..=18).rev().collect::<Vec<_>>());
        let lower = shelf.push(&Balancer::last().component(), &["--version", "18"]);
        assert!(!lower.ok() && lower.err.contains("not higher than 18"), "{lower:?}");
        shelf.push(&Balancer::last().component(), &["--version", "40"]).expect_ok("push");
        let to = shelf.policy(&["rollback", "mine", "--to", "2"], program::root());
        assert!(!to.ok() && to.err.contains("its manifest is missing"), "{to:?}");
        shelf.policy(&["rollback", "mine", "--to", "7"], program::root()).expect_ok("rollback");
        let list = shelf.policy(&["releases", "--json"], program::root()).expect_ok("releases");
        let list: Value = serde_json::from_str(&list.out).unwrap();
        assert_eq!(list, json!([{"release": "mine", "version": 7}]));
    }
}

/// Several who push at once: each gets a version of its own, and the trail has them all.
#[test]
fn pushes_at_once_do_not_undo_each_other() {
    for shelf in Shelf::all() {
        let configs: Vec<String> = (0..4).map(|number| format!("{{\"number\": {number}}}")).collect();
        std::thread::scope(|scope| {
            for config in &configs {
                let shelf = &shelf;
                scope.spawn(move || {
                    shelf.push(&Balancer::first().component(), &["--config", config]).expect_ok("push")
                });
            }
        });
        let releases = shelf.releases();
        let versions = releases["versions"].as_array().expect("a list");
        assert_eq!(versions.len(), 4, "{releases:#}");
        let said = shelf.policy(&["history", "mine", "--json"], program::root()).expect_ok("history");
        let history: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(history.as_array().map(Vec::len), Some(4), "{history:#}");
    }
}

/// With the registry away a restarted sidecar serves the release it had; with the releases wiped, it serves on.
#[test]
fn losing_the_registry_loses_no_release() {
    for mut shelf in Shelf::all() {
        let (a, b) = two_backends(&shelf);
        shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        shelf.push(&Balancer::last().component(), &[]).expect_ok("push");
        let proxy = shelf.scene("").start();
        proxy.wait_for_endpoints("web", &[&a, &b]);
        wait_for_version(&proxy, 2);
        let backend = proxy.get("web", "/").backend().to_owned();
        let state = proxy.scene.path("state");
        wait::until_true("release and catalogue to be kept", || {
            let names = state.read_dir().into_iter().flatten().flatten().map(|file| file.file_name());
            let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            let ends = |begin: &str, end: &str| {
                names.iter().any(|name| name.starts_with(begin) && name.ends_with(end))
            };
            ends("catalogue-", ".json") && ends("release-", "-mine")
        });
        let scene = proxy.stop();
        shelf.kill();
        let again = scene.start_again();
        assert_eq!((version(&again), again.get("web", "/").backend()), (Some(2), backend.as_str()));
        wait_for_problem(&again, "releases: ");
        let load = Load::start(again.outbound, 2, "web");
        shelf.start_again();
        again.wait_for_ready("the registry", |ready| ready["problems"] == json!([]));
        shelf.wipe();
        wait_for_problem(&again, "the registry has no release `mine`");
        load.wait_for(100);
        assert_eq!((version(&again), again.get("web", "/").backend()), (Some(2), backend.as_str()));
        shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        wait_for_version(&again, 1);
        again.wait_for_ready("no problem", |ready| ready["problems"] == json!([]));
        load.stop().assert_clean();
    }
}

/// A sidecar that has never had the release serves without it, and takes it when it comes.
#[test]
fn a_release_may_come_later_than_the_sidecar() {
    for shelf in Shelf::all() {
        let (a, b) = two_backends(&shelf);
        let proxy = shelf.scene("").start();
        proxy.wait_for_endpoints("web", &[&a, &b]);
        assert_eq!(proxy.get("web", "/").status, 200);
        wait_for_problem(&proxy, "the registry has no release `mine`");
        let load = Load::start(proxy.outbound, 2, "web");
        shelf.push(&Balancer::first().component(), &[]).expect_ok("push");
        wait_for_version(&proxy, 1);
        proxy.wait_for_ready("no problem", |ready| ready["problems"] == json!([]));
        load.stop().assert_clean();
    }
}

/// What is published with a release is for uses that say nothing themselves; a new configuration is a new version.
#[test]
fn a_configuration_travels_with_its_release() {
    let shelf = Shelf::embedded();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    shelf.instance("old", "a", &a);
    shelf.instance("new", "b", &b);
    let push = |config: &str| {
        let line = ["push", "canary", "--name", "mine", "--config", config];
        shelf.policy(&line, program::root()).expect_ok("push");
    };
    push(r#"{"percent": 0}"#);
    let route = |host: &str, router: &str| {
        format!("{{match: {{hosts: [{host}]}}, router: {router}, backends: {{stable: old, canary: new}}}}")
    };
    let own = route("own", "{policy: mine, config: {percent: 100}}");
    let proxy = Scene::new()
        .registry(&shelf.yaml())
        .set("policies", "{mine: {release: mine}}")
        .set("routes", &format!("[{}, {own}]", route("shared", "mine")))
        .start();
    proxy.wait_for_endpoints("old", &[&a]);
    proxy.wait_for_endpoints("new", &[&b]);
    wait_for_version(&proxy, 1);
    assert_eq!((proxy.get("shared", "/").backend(), proxy.get("own", "/").backend()), ("a", "b"));
    push(r#"{"percent": 100}"#);
    wait_for_version(&proxy, 2);
    assert_eq!((proxy.get("shared", "/").backend(), proxy.get("own", "/").backend()), ("b", "b"));
}
