//! The embedded registry says what was registered, to those who ask and to those who wait, and keeps to its limits.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::backend::Backend;
use outrigger_tests::client::Client;
use outrigger_tests::registry::{Home, Registry, ask, index};
use outrigger_tests::wait;
use serde_json::json;

#[test]
fn what_is_registered_is_found_until_it_is_deregistered() {
    let registry = Registry::start();
    registry.put(
        "/v1/agent/service/register",
        r#"{"name": "web", "id": "web-1", "port": 8080, "tags": ["blue"], "meta": {"zone": "z1"},
            "weights": {"passing": 7}, "check": {"ttl": "30s", "status": "passing"}}"#,
    );
    let entries = registry.json("/v1/health/service/web?passing&tag=blue");
    assert_eq!(entries[0]["Service"]["Port"], 8080);
    assert_eq!(entries[0]["Service"]["Weights"], json!({"Passing": 7, "Warning": 1}));
    assert_eq!(entries[0]["Service"]["Meta"], json!({"zone": "z1"}));
    assert_eq!(entries[0]["Node"]["Address"], "127.0.0.1");
    let checks = entries[0]["Checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["CheckID"] == "service:web-1" && check["Status"] == "passing"));
    assert_eq!(registry.json("/v1/catalog/services"), json!({"web": ["blue"]}));
    assert_eq!(registry.json("/v1/catalog/service/web")[0]["ServiceID"], "web-1");
    assert_eq!(registry.json("/v1/health/service/web?tag=green"), json!([]));
    assert_eq!(registry.json("/v1/health/service/none"), json!([]));
    assert_eq!(registry.json("/v1/health/service/web?filter=Service.Meta.zone==z2"), json!([]));
    assert_eq!(registry.get("/v1/health/service/web?filter=Service.Port+matches+8").status, 400);

    registry.put("/v1/agent/service/maintenance/web-1?enable=true&reason=upgrade", "");
    assert!(registry.passing("web").is_empty());
    registry.put("/v1/agent/service/maintenance/web-1?enable=false", "");
    assert_eq!(registry.passing("web"), ["web-1"]);

    registry.put("/v1/agent/service/deregister/web-1", "");
    assert_eq!(registry.json("/v1/catalog/services"), json!({}));
    assert_eq!(registry.json("/v1/agent/checks"), json!({}));
    let again = registry.ask("PUT", "/v1/agent/service/deregister/web-1", "", "");
    assert_eq!(again.status, 404, "{}", again.text());
}

#[test]
fn nodes_without_an_agent_are_registered_through_the_catalogue() {
    let registry = Registry::start();
    let body = r#"{"Node": "db1", "Address": "10.0.0.9", "Service": {"Service": "db", "Port": 5432},
                   "Check": {"Name": "up", "CheckID": "up", "Status": "passing", "ServiceID": "db"}}"#;
    registry.put("/v1/catalog/register", body);
    let entry = registry.json("/v1/health/service/db?passing")[0].clone();
    assert_eq!((&entry["Node"]["Address"], &entry["Service"]["ID"]), (&json!("10.0.0.9"), &json!("db")));
    registry.put("/v1/catalog/deregister", r#"{"Node": "db1"}"#);
    assert_eq!(registry.json("/v1/health/service/db"), json!([]));
    assert_eq!(registry.json("/v1/catalog/node/db1"), json!(null));
}

/// A question that waits; the answer and how long it took come over the channel.
fn waits(registry: &Registry, path: String) -> std::sync::mpsc::Receiver<(u64, Duration)> {
    let (said, heard) = sync_channel(1);
    let http = registry.http;
    let begun = Instant::now();
    thread::spawn(move || {
        let answer = ask(&mut Client::connect(http), "GET", &path, "", b"");
        said.send((index(&answer), begun.elapsed()))
    });
    heard
}

fn wait_for_waiters(registry: &Registry, count: f64) {
    wait::until_true("blocking reads to wait", || {
        registry.metrics().sum("outrigger_registry_server_waiters", &[]) == count
    });
}

#[test]
fn a_blocking_read_ends_with_a_change_of_its_own_service_only() {
    let registry = Registry::start();
    let ttl = r#"{"TTL": "60s", "Status": "passing"}"#;
    registry.register("web", "web-1", ttl);
    registry.register("api", "api-1", ttl);
    let seen = index(&registry.get("/v1/health/service/web"));
    let answer = waits(&registry, format!("/v1/health/service/web?index={seen}&wait=60s"));
    let gone = waits(&registry, format!("/v1/health/service/other?index={seen}&wait=60s"));
    wait_for_waiters(&registry, 2.0);
    // Changes of others, and changes that change nothing.
    registry.register("api", "api-2", ttl);
    registry.put("/v1/agent/check/fail/service:api-1", "");
    registry.put("/v1/agent/service/deregister/api-2", "");
    registry.register("web", "web-1", ttl);
    registry.put("/v1/agent/check/pass/service:web-1", "");
    registry.put("/v1/kv/a", "1");
    assert!(answer.try_recv().is_err() && gone.try_recv().is_err());
    wait_for_waiters(&registry, 2.0);
    registry.put("/v1/agent/check/warn/service:web-1?note=slow", "");
    let (now, _) = answer.recv().unwrap();
    assert!(now > seen);
    registry.register("other", "o", ttl);
    assert!(gone.recv().unwrap().0 > now);
}

#[test]
fn keys_can_be_waited_for_alone_and_by_prefix() {
    let registry = Registry::start();
    registry.put("/v1/kv/app/a", "1");
    registry.put("/v1/kv/app/b?flags=42", "2");
    let missing = registry.get("/v1/kv/app/c");
    assert_eq!(missing.status, 404);
    let (a, prefix) = (index(&registry.get("/v1/kv/app/a")), index(&registry.get("/v1/kv/app/?recurse")));
    let one = waits(&registry, format!("/v1/kv/app/a?index={a}&wait=60s"));
    let new = waits(&registry, format!("/v1/kv/app/c?index={}&wait=60s", index(&missing)));
    let all = waits(&registry, format!("/v1/kv/app/?recurse&index={prefix}&wait=60s"));
    wait_for_waiters(&registry, 3.0);
    registry.put("/v1/kv/application", "no part of it");
    registry.put("/v1/kv/app/c", "3");
    let (seen, _) = all.recv().unwrap();
    assert_eq!(new.recv().unwrap().0, seen);
    assert!(one.try_recv().is_err());
    // A deletion is a change, too.
    let all = waits(&registry, format!("/v1/kv/app/?recurse&index={seen}&wait=60s"));
    wait_for_waiters(&registry, 2.0);
    assert_eq!(registry.ask("DELETE", "/v1/kv/app/a", "", "").text(), "true");
    assert!(all.recv().unwrap().0 > seen && one.recv().unwrap().0 > seen);
    assert_eq!(registry.json("/v1/kv/app/b")[0]["Flags"], 42);
    assert_eq!(registry.json("/v1/kv/?keys&separator=/"), json!(["app/", "application"]));
    assert_eq!(registry.get("/v1/kv/app/b?raw").text(), "2");
}

#[test]
fn conditions_on_keys_hold() {
    let registry = Registry::start();
    let put = |path: &str, body: &str| registry.put(path, body).text();
    assert_eq!(put("/v1/kv/k?cas=0", "1"), "true");
    assert_eq!(put("/v1/kv/k?cas=0", "2"), "false");
    let seen = index(&registry.get("/v1/kv/k"));
    assert_eq!(put(&format!("/v1/kv/k?cas={seen}"), "3"), "true");
    assert_eq!(registry.ask("DELETE", &format!("/v1/kv/k?cas={seen}"), "", "").text(), "false");
    assert_eq!(registry.get("/v1/kv/k?raw").text(), "3");

    let session = registry.put("/v1/session/create", r#"{"LockDelay": "0s"}"#).json()["ID"].clone();
    let session = session.as_str().unwrap();
    let other = registry.put("/v1/session/create", "").json()["ID"].clone();
    assert_eq!(put(&format!("/v1/kv/lock?acquire={session}"), "me"), "true");
    assert_eq!(put(&format!("/v1/kv/lock?acquire={}", other.as_str().unwrap()), "you"), "false");
    assert_eq!(registry.json("/v1/kv/lock")[0]["Session"], session);
    registry.put(&format!("/v1/session/destroy/{session}"), "");
    assert_eq!(put(&format!("/v1/kv/lock?acquire={}", other.as_str().unwrap()), "you"), "true");
    assert_eq!(registry.json("/v1/kv/lock")[0]["LockIndex"], 2);

    let failing = r#"[{"KV": {"Verb": "set", "Key": "t", "Value": "MQ=="}}, {"KV": {"Verb": "check-not-exists", "Key": "k"}}]"#;
    let refused = registry.ask("PUT", "/v1/txn", "", failing);
    assert_eq!((refused.status, &refused.json()["Errors"][0]["OpIndex"]), (409, &json!(1)));
    assert_eq!(registry.get("/v1/kv/t").status, 404, "all or nothing");
}

#[test]
fn a_wait_ends_by_itself_and_with_the_registry() {
    let registry = Registry::start();
    registry.register("web", "web-1", r#"{"TTL": "60s"}"#);
    let seen = index(&registry.get("/v1/health/service/web"));
    let (now, took) =
        waits(&registry, format!("/v1/health/service/web?index={seen}&wait=100ms")).recv().unwrap();
    assert_eq!(now, seen);
    assert!(took >= Duration::from_millis(100), "{took:?}");
    // An index from another life is answered at once.
    assert_eq!(index(&registry.get("/v1/health/service/web?index=1000000&wait=60s")), seen);
    let answer = waits(&registry, format!("/v1/health/service/web?index={seen}&wait=60s"));
    wait_for_waiters(&registry, 1.0);
    registry.stop();
    assert_eq!(answer.recv().unwrap().0, seen);
}

#[test]
fn everything_is_there_after_a_restart_and_indexes_go_on() {
    let registry = Registry::start();
    registry.register("web", "web-1", r#"{"TTL": "60s", "Status": "passing"}"#);
    registry.put("/v1/kv/a", "1");
    registry.put("/v1/session/create", r#"{"Name": "s"}"#);
    registry.put("/v1/catalog/register", r#"{"Node": "n2", "Address": "10.0.0.2"}"#);
    let paths =
        ["/v1/health/service/web", "/v1/catalog/nodes", "/v1/kv/?recurse", "/v1/session/list", "/v1/kv/a"];
    let before: Vec<_> = paths.iter().map(|path| registry.get(path)).collect();
    let registry = registry.kill().start();
    for (path, before) in paths.iter().zip(&before) {
        let after = registry.get(path);
        assert_eq!(after.json(), before.json(), "{path}");
        assert!(index(&after) >= index(before), "{path}");
    }
    let seen = index(&registry.get("/v1/kv/a"));
    registry.put("/v1/kv/a", "2");
    assert!(index(&registry.get("/v1/kv/a")) > seen);
}

#[test]
fn checks_follow_what_they_look_at() {
    let backend = Backend::named("a");
    let registry = Home::new("limits: {deregister_after_min: 1s}").start();
    let http = format!(r#"{{"HTTP": "http://{}/", "Interval": "1s"}}"#, backend.address);
    let tcp = format!(r#"{{"TCP": "{}", "Interval": "1s"}}"#, backend.address);
    registry.register("http", "h", &http);
    registry.register("tcp", "t", &tcp);
    registry.register("ttl", "live", r#"{"TTL": "1s", "Status": "passing"}"#);
    registry.register("ttl", "zombie", r#"{"TTL": "1s", "DeregisterCriticalServiceAfter": "1s"}"#);
    let dead = r#"{"TCP": "127.0.0.1:1", "Interval": "1s", "Status": "passing"}"#;
    registry.register("dead", "d", dead);
    wait::until_true("http and tcp to pass", || {
        registry.passing("http") == ["h"] && registry.passing("tcp") == ["t"]
    });
    wait::until_true("the dead one to be seen", || registry.passing("dead").is_empty());
    wait::until_true("the one that says nothing to fail", || registry.passing("ttl").is_empty());
    let checks = registry.json("/v1/health/checks/ttl");
    assert!(checks[0]["Output"].as_str().unwrap().contains("TTL expired"), "{checks}");
    wait::until_true("the zombie to be deregistered", || {
        registry.json("/v1/health/service/ttl").as_array().unwrap().len() == 1
    });
    registry.put("/v1/agent/check/pass/service:live", "");
    assert_eq!(registry.passing("ttl"), ["live"]);
}

#[test]
fn limits_are_kept_with_a_word() {
    let limits = "limits: {services: 2, instances: 3, kv_entries: 2, kv_bytes: 100B, value_bytes: 64B, waiters: 1, connections: 8}";
    let registry = Home::new(limits).start();
    let register = |name: &str, id: &str| {
        let body = format!(r#"{{"Name": "{name}", "ID": "{id}"}}"#);
        registry.ask("PUT", "/v1/agent/service/register", "", body)
    };
    assert_eq!([register("a", "1"), register("b", "2"), register("b", "3")].map(|a| a.status), [200; 3]);
    for refused in [register("c", "4"), register("b", "4")] {
        assert_eq!(refused.status, 507);
        assert!(refused.text().contains("limits."), "{}", refused.text());
    }
    let put = |key: &str, bytes: usize| registry.ask("PUT", &format!("/v1/kv/{key}"), "", "x".repeat(bytes));
    assert_eq!(put("a", 65).status, 413);
    assert_eq!(put("a", 60).status, 200);
    assert_eq!(put("b", 60).status, 507, "bytes");
    assert_eq!(put("b", 1).status, 200);
    assert_eq!(put("c", 1).status, 507, "entries");
    let seen = index(&registry.get("/v1/kv/a"));
    let waiting = waits(&registry, format!("/v1/kv/a?index={seen}&wait=60s"));
    wait_for_waiters(&registry, 1.0);
    let refused = registry.get(&format!("/v1/kv/a?index={seen}&wait=60s"));
    assert_eq!(refused.status, 429, "{}", refused.text());
    let open: Vec<Client> = (0..7).map(|_| Client::connect(registry.http)).collect();
    let refused = wait::until("a connection to be refused", || {
        let mut client = Client::try_connect(registry.http).ok()?;
        client.try_send("GET /v1/status/leader HTTP/1.1\r\nhost: localhost\r\n\r\n");
        client.try_answer("GET").ok().filter(|answer| answer.status == 429)
    });
    assert!(refused.text().contains("limits.connections"), "{}", refused.text());
    drop(open);
    wait::until_true("a place", || {
        Client::try_connect(registry.http).is_ok_and(|mut client| {
            client.try_send("GET /v1/status/leader HTTP/1.1\r\nhost: localhost\r\n\r\n");
            client.try_answer("GET").is_ok_and(|answer| answer.status == 200)
        })
    });
    let metrics = registry.metrics();
    for limit in ["services", "instances", "kv_entries", "kv_bytes", "value_bytes", "waiters", "connections"]
    {
        let refused = metrics.sum("outrigger_registry_server_refused_total", &[("limit", limit)]);
        assert!(refused >= 1.0, "{limit}");
    }
    registry.put("/v1/kv/a", "short");
    waiting.recv().unwrap();
}

#[test]
fn tokens_decide_who_may_do_what() {
    let settings =
        "listen: 0.0.0.0:0\ntokens:\n  - {name: ops, token: w}\n  - {name: viewer, token: r, rights: read}\n";
    let registry = Home::new(settings).start();
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], registry.http.port()));
    let ask = |method: &str, fields: &str| {
        let answer = ask(&mut Client::connect(http), method, "/v1/kv/a", fields, b"1");
        (answer.status, answer.text())
    };
    for (fields, word) in [
        ("", "token is needed"),
        ("x-consul-token: no\r\n", "unknown token"),
        ("x-consul-token: r\r\n", "viewer"),
    ] {
        let (status, text) = ask("PUT", fields);
        assert!(
            status == 403 && text.contains("Permission denied") && text.contains(word),
            "{status} {text}"
        );
    }
    assert_eq!(ask("PUT", "authorization: Bearer w\r\n").0, 200);
    assert_eq!(ask("GET", "x-consul-token: r\r\n").0, 200);
    assert_eq!(ask("GET", "").0, 403);
}

#[test]
fn others_reach_it_with_tokens_only() {
    let home = Home::new("listen: 0.0.0.0:0\n");
    let status = home.spawn().wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(home.log().contains("registry.yaml:1:9: listen: tokens are required"), "{}", home.log());
}

#[test]
fn a_store_serves_one_process() {
    let registry = Registry::start();
    let home = registry.kill();
    let mut first = home.spawn();
    home.wait_for(&mut first);
    let second = home.spawn().wait().unwrap();
    assert_eq!(second.code(), Some(1));
    assert!(home.log().contains("in use by another process"), "{}", home.log());
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn web_pages_read_and_change_nothing() {
    let registry = Registry::start();
    let page = registry.ask("PUT", "/v1/kv/a", "origin: http://evil.example\r\n", "1");
    assert_eq!(page.status, 403);
    let mut client = Client::connect(registry.http);
    client.send("GET /v1/catalog/services HTTP/1.1\r\nhost: evil.example\r\n\r\n");
    assert_eq!(client.answer("GET").status, 403);
}
