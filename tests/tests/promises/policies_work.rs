//! Every built-in policy does by its name what its README says.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::client::Answer;
use outrigger_tests::load::Load;
use outrigger_tests::proxy::{Proxy, Scene};

const BALANCERS: [&str; 8] =
    ["round-robin", "weighted", "random", "least-request", "p2c", "peak-ewma", "maglev", "rendezvous"];

fn backends(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::named(name)).collect()
}

/// One worker, so that orders are exact.
fn start(backends: &[Backend], service: &str) -> Proxy {
    let all: Vec<&Backend> = backends.iter().collect();
    Scene::web(&all).set("workers", "1").set("services", &format!("{{web: {service}}}")).start()
}

/// How many of so many requests each backend answers.
fn shares(proxy: &Proxy, requests: usize, fields: &str) -> BTreeMap<String, usize> {
    let mut client = proxy.client();
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get("web", "/", fields);
        assert_eq!(answer.status, 200, "{}", answer.text());
        *shares.entry(answer.backend().to_owned()).or_default() += 1;
    }
    shares
}

fn assert_by_policy(proxy: &Proxy, policy: &str) {
    let metrics = proxy.metrics();
    let calls = metrics.sum("outrigger_policy_calls_total", &[("policy", policy)]);
    assert!(calls > 0.0, "{policy} was asked");
    assert_eq!(metrics.sum("outrigger_policy_fallbacks_total", &[]), 0.0, "{policy}");
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0, "{policy}");
}

#[test]
fn every_balancer_serves_by_name_and_under_load() {
    let backends = backends(&["a", "b", "c"]);
    for balancer in BALANCERS {
        let proxy = start(&backends, &format!("{{balancer: {balancer}}}"));
        let load = Load::start(proxy.outbound, 6, "web");
        load.wait_for(600);
        let tally = load.stop();
        tally.assert_clean();
        assert_eq!(tally.by_backend.len(), 3, "{balancer} uses all: {tally:?}");
        assert_by_policy(&proxy, balancer);
    }
}

#[test]
fn round_robin_takes_turns() {
    let backends = backends(&["a", "b", "c"]);
    let proxy = start(&backends, "{balancer: round-robin}");
    let shares = shares(&proxy, 300, "");
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [100, 100, 100], "{shares:?}");
}

#[test]
fn weighted_follows_weights() {
    let backends = backends(&["a", "b"]);
    let endpoint =
        |backend: &Backend, weight| format!("{{address: '{}', weight: {weight}}}", backend.address);
    let proxy = Scene::new()
        .endpoints("web", &[endpoint(&backends[0], 1), endpoint(&backends[1], 3)])
        .set("workers", "1")
        .set("services", "{web: {balancer: weighted}}")
        .start();
    let shares = shares(&proxy, 400, "");
    assert!((298..=302).contains(&shares["b"]), "{shares:?}");
}

#[test]
fn hash_policies_keep_keys_where_they_are() {
    let backends = backends(&["a", "b", "c", "d"]);
    for balancer in ["maglev", "rendezvous"] {
        let proxy = start(&backends, &format!("{{balancer: {balancer}, hash_key: {{header: x-user}}}}"));
        let place = |user: u32| {
            let shares = shares(&proxy, 4, &format!("x-user: {user}\r\n"));
            assert_eq!(shares.len(), 1, "{balancer}: user {user} stays: {shares:?}");
            shares.into_keys().next().unwrap()
        };
        let before: Vec<String> = (0..60).map(place).collect();
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "{balancer}: keys spread: {before:?}");
        // One endpoint leaves: only its keys move, or nearly so.
        let text = proxy.scene.services_text().replace(&format!(", {}", backends[3].address), "");
        let version = proxy.version();
        proxy.scene.replace("services.yaml", text.as_bytes());
        proxy.wait_for_version_after(version);
        let moved = |(user, was): (usize, &String)| was != "d" && place(user as u32) != *was;
        let needless = before.iter().enumerate().filter(|(user, was)| moved((*user, was))).count();
        assert!(needless <= 4, "{balancer}: {needless} of 60 keys moved without need");
        assert_by_policy(&proxy, balancer);
    }
}

#[test]
fn hash_keys_come_from_where_the_configuration_says() {
    let backends = backends(&["a", "b", "c", "d"]);
    let distinct = |key: &str, request: &dyn Fn(u32) -> (String, String)| {
        let proxy = start(&backends, &format!("{{balancer: maglev, hash_key: {key}}}"));
        let mut client = proxy.client();
        let mut get = |number| {
            let (path, fields) = request(number);
            client.get("web", &path, &fields).backend().to_owned()
        };
        let first: Vec<String> = (0..40).map(&mut get).collect();
        let second: Vec<String> = (0..40).map(&mut get).collect();
        (first == second, first.into_iter().collect::<BTreeSet<_>>().len())
    };
    let fields = |fields: String| ("/".to_owned(), fields);
    let (path, none) = (|n| (format!("/{n}?q={n}"), String::new()), |_| ("/".to_owned(), String::new()));
    assert_eq!(distinct("{header: x-user}", &|n| fields(format!("X-User: {n}\r\n"))), (true, 4));
    assert_eq!(distinct("{cookie: id}", &|n| fields(format!("cookie: a=b; id={n}\r\n"))), (true, 4));
    assert_eq!(distinct("path", &path), (true, 4));
    assert_eq!(
        distinct("path", &|n| (format!("/same?q={n}"), String::new())),
        (true, 1),
        "without the query"
    );
    assert_eq!(distinct("source-address", &none), (true, 1), "one client");
    let (same, spread) = distinct("none", &none);
    assert!(!same && spread > 1, "random without a key");
}

#[test]
fn peak_ewma_avoids_what_fails_fast() {
    let good = backends(&["a", "b"]);
    let bad = Backend::scripted(|exchange| exchange.status(500, "bad"));
    let proxy = Scene::web(&[&good[0], &good[1], &bad])
        .set("workers", "1")
        .set("services", "{web: {balancer: peak-ewma, ejection: {consecutive_failures: 0}}}")
        .start();
    let mut client = proxy.client();
    let statuses: Vec<u16> = (0..300).map(|_| client.get("web", "/", "").status).collect();
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert!(failed <= 15, "{failed} of 300 went to the one that fails");
    assert_by_policy(&proxy, "peak-ewma");
}

/// Two services behind one router.
fn routed(router: &str) -> (Proxy, Vec<Backend>) {
    let backends = backends(&["stable", "canary"]);
    let proxy = Scene::new()
        .service("stable", &[&backends[0]])
        .service("next", &[&backends[1]])
        .set("workers", "1")
        .set(
            "routes",
            &format!("[{{name: split, router: {router}, backends: {{stable: stable, canary: next}}}}]"),
        )
        .start();
    (proxy, backends)
}

#[test]
fn canary_sends_its_share() {
    let (proxy, _backends) = routed("{policy: canary, config: {percent: 20}}");
    let shares = shares(&proxy, 1_000, "");
    assert!((140..=260).contains(&shares["canary"]), "{shares:?}");
    assert_by_policy(&proxy, "canary");
    let routed = proxy.metrics().sum("outrigger_requests_total", &[("route", "split")]);
    assert_eq!(routed, 1_000.0);
}

#[test]
fn canary_obeys_header_and_cookie() {
    let (proxy, _backends) = routed("{policy: canary, config: {percent: 0, header: x-canary, cookie: lane}}");
    let always = |fields: &str| shares(&proxy, 5, fields).into_keys().collect::<Vec<_>>();
    assert_eq!(always(""), ["stable"]);
    assert_eq!(always("x-canary: always\r\n"), ["canary"]);
    assert_eq!(always("cookie: lane=always\r\n"), ["canary"]);
    assert_eq!(always("x-canary: never\r\ncookie: lane=always\r\n"), ["stable"], "the header decides first");
}

#[test]
fn canary_sticks_by_its_cookie() {
    let (proxy, _backends) = routed("{policy: canary, config: {percent: 50, cookie: lane, sticky: true}}");
    let mut client = proxy.client();
    for _ in 0..10 {
        let first: Answer = client.get("web", "/", "");
        let cookie = first.field("set-cookie").expect("a cookie").to_owned();
        let pair = cookie.split(';').next().unwrap().to_owned();
        let again = shares(&proxy, 10, &format!("cookie: {pair}\r\n"));
        assert_eq!(again.into_keys().collect::<Vec<_>>(), [first.backend().to_owned()], "{cookie}");
    }
}

#[test]
fn header_match_follows_its_rules() {
    let rules = "[{headers: [{name: x-tag, prefix: beta-}], path_prefix: /api, backend: canary}, \
                 {path_prefix: /old, redirect: {status: 308, location: /new}}, \
                 {headers: [{name: authorization, present: false}], method: DELETE, reply: {status: 401, body: who}}]";
    let backends = backends(&["stable", "canary", "other"]);
    let proxy = Scene::new()
        .service("stable", &[&backends[0]])
        .service("next", &[&backends[1]])
        .service("web", &[&backends[2]])
        .set(
            "routes",
            &format!(
                "[{{router: {{policy: header-match, config: {{rules: {rules}}}}}, backends: {{stable: stable, canary: next}}}}]"
            ),
        )
        .start();
    let mut client = proxy.client();
    assert_eq!(client.get("web", "/api/7", "x-tag: beta-1\r\n").backend(), "canary");
    assert_eq!(client.get("web", "/apis", "x-tag: beta-1\r\n").backend(), "other", "the next route");
    assert_eq!(client.get("web", "/api", "").backend(), "other");
    let moved = client.get("web", "/old/x", "");
    assert_eq!((moved.status, moved.field("location")), (308, Some("/new")));
    client.send("DELETE / HTTP/1.1\r\nhost: web\r\n\r\n");
    let refused = client.answer("DELETE");
    assert_eq!((refused.status, refused.text().as_str()), (401, "who"));
    assert_by_policy(&proxy, "header-match");
}

#[test]
fn routes_choose_by_host_path_method_and_labels() {
    let backends = backends(&["v1", "v2", "admin"]);
    let labelled = |backend: &Backend, version| {
        format!("{{address: '{}', labels: {{version: {version}}}}}", backend.address)
    };
    let proxy = Scene::new()
        .endpoints("web", &[labelled(&backends[0], "v1"), labelled(&backends[1], "v2")])
        .service("admin", &[&backends[2]])
        .set(
            "routes",
            "[{match: {hosts: ['*.shop.example'], path_prefix: /admin}, service: admin}, \
              {match: {hosts: ['*.shop.example'], methods: [PUT]}, service: web, labels: {version: v2}}, \
              {match: {hosts: ['*.shop.example']}, service: web, labels: {version: v1}}]",
        )
        .start();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("a.shop.example", "/admin/x", "").backend(), "admin");
        assert_eq!(client.get("a.b.shop.example:80", "/administer", "").backend(), "v1");
        client.send("PUT /x HTTP/1.1\r\nhost: a.shop.example\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(client.answer("PUT").backend(), "v2");
    }
    assert_eq!(client.get("shop.example", "/", "").status, 404);
}

/// Least loaded wins: a backend that answers slowly gets less, whatever the policy that looks at load.
#[test]
fn slow_endpoints_get_less() {
    for balancer in ["p2c", "least-request", "peak-ewma"] {
        let quick = backends(&["a", "b"]);
        let slow = Backend::scripted(|exchange| {
            let _ = exchange.wire.stream.set_read_timeout(Some(std::time::Duration::from_millis(20)));
            // Waits out the read timeout: the client says nothing more.
            let _ = exchange.wire.some();
            let _ = exchange.wire.stream.set_read_timeout(None);
            exchange.reply("slow")
        });
        let proxy = Scene::web(&[&quick[0], &quick[1], &slow])
            .set("services", &format!("{{web: {{balancer: {balancer}}}}}"))
            .start();
        let load = Load::start(proxy.outbound, 8, "web");
        load.wait_for(1_500);
        let tally = load.stop();
        tally.assert_clean();
        assert!(tally.of("slow") * 6 < tally.good(), "{balancer}: {tally:?}");
        assert!(tally.of("a") > 0 && tally.of("b") > 0, "{balancer}: {tally:?}");
    }
}

/// The broken one closes each connection without an answer.
#[test]
fn retries_go_elsewhere_with_every_balancer() {
    let good = Backend::named("good");
    let broken = Backend::scripted(|_| Next::Close);
    for balancer in BALANCERS {
        let proxy = Scene::web(&[&good, &broken])
            .set(
                "services",
                &format!("{{web: {{balancer: {balancer}, ejection: {{consecutive_failures: 0}}}}}}"),
            )
            .start();
        let mut client = proxy.client();
        for _ in 0..40 {
            assert_eq!(client.get("web", "/", "").backend(), "good", "{balancer}");
        }
    }
}
