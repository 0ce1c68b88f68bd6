//! What a router decides is what happens on the wire: a policy built as its author would build it, and both backends.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use outrigger_tests::backend::{Backend, Exchange, Next};
use outrigger_tests::client::Answer;
use outrigger_tests::program;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;
use tempfile::TempDir;

use super::authors::outrigger;

/// Copies under way that a worker has at most.
const COPIES_MAX: u64 = 64;

/// The component of `examples/policy-shadow`, built once.
fn component() -> &'static [u8] {
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let example = program::root().join("examples/policy-shadow");
        let arguments = ["policy", "build", example.to_str().unwrap(), "-o", "shadow.wasm"];
        outrigger(&arguments, dir.path()).expect_ok("policy build");
        let arguments = ["policy", "check", "shadow.wasm", "--backends", "main,shadow"];
        outrigger(&arguments, dir.path()).expect_ok("policy check");
        std::fs::read(dir.path().join("shadow.wasm")).unwrap()
    })
}

/// One worker; all requests go through the policy with this configuration.
fn scene(config: &str, main: &[&Backend], shadow: &str) -> Scene {
    Scene::new()
        .service("web", main)
        .endpoints("next", &[shadow.to_owned()])
        .component("shadow", component())
        .set("workers", "1")
        .set("policies", "{shadow: {file: shadow.wasm}}")
        .set("defaults", "{balancer: round-robin, ejection: {consecutive_failures: 0}}")
        .set(
            "routes",
            &format!(
                "[{{name: split, router: {{policy: shadow, config: {config}}}, backends: {{main: web, shadow: next}}}}]"
            ),
        )
}

fn start(config: &str, main: &[&Backend], shadow: &Backend) -> Proxy {
    scene(config, main, &shadow.address.to_string()).start()
}

fn wait_for_copies(shadow: &Backend, copies: u64) {
    wait::until_true(&format!("{copies} copies"), || shadow.heads().len() as u64 >= copies);
}

/// The policy has decided each of these requests, and `main` has answered each.
fn assert_clean(proxy: &Proxy, requests: u64) {
    let metrics = proxy.metrics();
    let decided = metrics.sum("outrigger_requests_total", &[("route", "split")]);
    let good = metrics.sum("outrigger_requests_total", &[("service", "web"), ("outcome", "success")]);
    assert_eq!((decided, good), (requests as f64, requests as f64), "{}", metrics.text);
    assert_no_failures(proxy);
}

fn assert_no_failures(proxy: &Proxy) {
    let metrics = proxy.metrics();
    assert!(metrics.sum("outrigger_policy_calls_total", &[("policy", "shadow")]) > 0.0);
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0, "{}", proxy.log());
    assert_eq!(metrics.sum("outrigger_policy_fallbacks_total", &[]), 0.0);
}

/// A request without a body, on a connection of its own.
fn bare(proxy: &Proxy, method: &str) -> Answer {
    let mut client = proxy.client();
    client.send(format!("{method} / HTTP/1.1\r\nhost: web\r\n\r\n"));
    client.answer(method)
}

/// Passes after so long, in which the other side says nothing.
fn let_pass(exchange: &mut Exchange<'_>, time: Duration) {
    let _ = exchange.wire.stream.set_read_timeout(Some(time));
    let _ = exchange.wire.some();
}

#[test]
fn a_forward_changes_requests_and_answers_on_the_wire() {
    let main = Backend::scripted(|exchange| {
        exchange.send(
            "HTTP/1.1 200 OK\r\nx-backend: main\r\nX-Shadowed: no\r\nx-own: kept\r\ncontent-length: 0\r\n\r\n",
        )
    });
    let shadow = Backend::named("shadow");
    let config = "{percent: 100, strip_prefix: /api, authority: 'Next.internal:81', remove_headers: [X-Secret, cookie]}";
    let proxy = start(config, &[&main], &shadow);
    let fields = "x-shadowed: forged\r\nx-secret: 1\r\nCookie: a=b\r\nX-SECRET: 2\r\nx-kept: yes\r\n";
    let answer = proxy.client().get("shop.example", "/api/items?page=2", fields);
    assert_eq!((answer.status, answer.backend(), answer.field("x-own")), (200, "main", Some("kept")));
    assert_eq!(answer.head.all("x-shadowed").collect::<Vec<_>>(), ["1"], "replaces the backend's");
    let head = main.last_head();
    assert_eq!(head.first, "GET /items?page=2 HTTP/1.1");
    assert_eq!(head.all("host").collect::<Vec<_>>(), ["next.internal:81"]);
    assert_eq!(head.field("x-forwarded-host"), Some("shop.example"));
    assert_eq!(head.all("x-shadowed").collect::<Vec<_>>(), ["1"], "replaces the client's");
    assert_eq!(
        (head.field("x-secret"), head.field("cookie"), head.field("x-kept")),
        (None, None, Some("yes"))
    );
    wait_for_copies(&shadow, 1);
    assert_eq!(shadow.last_head().raw, head.raw, "the copy is what main gets");
    assert_clean(&proxy, 1);
}

#[test]
fn a_share_is_copied_and_the_rest_is_not() {
    let (main, shadow) = (Backend::named("main"), Backend::named("shadow"));
    let proxy = start("{percent: 20, strip_prefix: /api}", &[&main], &shadow);
    let mut client = proxy.client();
    let mut copied = 0;
    for number in 0..400 {
        let answer = client.get("web", &format!("/api/{number}"), "x-shadowed: forged\r\n");
        assert_eq!((answer.backend(), answer.text().as_str()), ("main", "main"));
        copied += u64::from(answer.field("x-shadowed") == Some("1"));
        // So few are under way that none is left out.
        wait_for_copies(&shadow, copied);
    }
    assert!((40..=120).contains(&copied), "{copied}");
    let marked = |backend: &Backend| {
        let heads = backend.heads().into_iter().filter(|head| head.field("x-shadowed").is_some());
        let mut targets: Vec<String> = heads.map(|head| head.target().to_owned()).collect();
        targets.sort();
        targets
    };
    assert_eq!(marked(&shadow).len() as u64, copied);
    assert_eq!(marked(&shadow), marked(&main), "those marked are those copied");
    assert_eq!(shadow.requests(), copied);
    let counted =
        proxy.metrics().sum("outrigger_policy_value", &[("policy", "shadow"), ("name", "shadowed")]);
    assert_eq!(counted, copied as f64);
    assert_clean(&proxy, 400);
}

/// Whatever the shadow does, its copies come and nobody notices.
#[test]
fn a_bad_shadow_does_not_reach_the_client() {
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    let shadows = [
        ("fails", Backend::scripted(|exchange| exchange.status(500, "shadow"))),
        ("cuts", Backend::scripted(|_| Next::Close)),
        ("babbles", Backend::scripted(|exchange| exchange.send("what?\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))),
        (
            "stops within",
            Backend::scripted(|exchange| {
                exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
                Next::Close
            }),
        ),
        ("never ends", Backend::scripted(move |exchange| exchange.send(&large))),
        (
            "says too much",
            Backend::scripted(|exchange| {
                exchange.reply("shadow");
                exchange.reply("more")
            }),
        ),
    ];
    for (what, shadow) in shadows {
        let main = Backend::named("main");
        let proxy = start("{percent: 100}", &[&main], &shadow);
        let mut client = proxy.client();
        for copies in 1..=20 {
            let answer = client.get("web", "/", "");
            let seen = (answer.status, answer.text(), answer.field("x-shadowed").is_some());
            assert_eq!(seen, (200, "main".to_owned(), true), "{what}");
            wait::until_true(what, || shadow.requests() >= copies);
        }
        assert_eq!(main.requests(), 20, "{what}");
        assert_clean(&proxy, 20);
    }
}

#[test]
fn a_shadow_that_is_not_there_does_not_matter() {
    let main = Backend::named("main");
    // Bound and let go: nobody listens.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let proxy = scene("{percent: 100}", &[&main], &address).start();
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("web", "/", "").backend(), "main");
    }
    assert_clean(&proxy, 50);
    let proxy = scene("{percent: 100}", &[&main], "").endpoints("next", &[]).start();
    assert_eq!(proxy.get("web", "/").backend(), "main", "without an endpoint");
    assert_clean(&proxy, 1);
}

/// A silent shadow holds its copies, up to a bound; the requests do not wait for them.
#[test]
fn a_slow_shadow_does_not_slow_the_client() {
    let main = Backend::named("main");
    let shadow = Backend::scripted(|exchange| {
        let _ = exchange.wire.some();
        Next::Close
    });
    let proxy = start("{percent: 100}", &[&main], &shadow);
    let mut client = proxy.client();
    for _ in 0..200 {
        assert_eq!(client.get("web", "/", "").backend(), "main");
    }
    wait_for_copies(&shadow, COPIES_MAX);
    assert_eq!(shadow.requests(), COPIES_MAX, "not one is given up while the client goes on");
    assert_clean(&proxy, 200);
    // Its end makes room for copies again.
    shadow.cut_connections();
    wait::until_true("another copy", || {
        assert_eq!(client.get("web", "/", "").backend(), "main");
        shadow.requests() > COPIES_MAX
    });
}

#[test]
fn requests_with_a_body_are_not_copied() {
    let (main, shadow) = (Backend::named("main"), Backend::named("shadow"));
    let proxy = start("{percent: 100}", &[&main], &shadow);
    let mut client = proxy.client();
    for (framing, body) in
        [("content-length: 5", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
    {
        client.send(format!("POST /with HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n{body}"));
        assert_eq!(client.answer("POST").backend(), "main");
    }
    assert!(main.bodies().iter().all(|body| body.text() == "hello"), "{:?}", main.bodies());
    client.send("POST /empty HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.answer("POST").backend(), "main");
    client.send("HEAD /head HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(client.answer("HEAD").backend(), "main");
    // Whether it becomes an upgrade is between the client and main.
    client.send("GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n");
    assert_eq!(client.answer("GET").backend(), "main");
    assert_eq!(main.last_head().field("upgrade"), Some("chat"));
    wait_for_copies(&shadow, 3);
    let heads = shadow.heads();
    let mut lines: Vec<&str> = heads.iter().map(|head| head.first.as_str()).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["GET /upgrade HTTP/1.1", "HEAD /head HTTP/1.1", "POST /empty HTTP/1.1"]);
    assert!(heads.iter().all(|head| head.field("upgrade").or(head.field("connection")).is_none()));
    assert_clean(&proxy, 5);
}

#[test]
fn a_forward_replaces_the_timeout() {
    let silent = Backend::scripted(|exchange| {
        let _ = exchange.wire.some();
        Next::Close
    });
    let shadow = Backend::named("shadow");
    let proxy = start("{percent: 100, timeout_ms: 300}", &[&silent], &shadow);
    let begun = Instant::now();
    let answer = proxy.get("web", "/");
    let took = begun.elapsed();
    assert_eq!((answer.status, answer.reason()), (504, "request-timeout"));
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(silent.requests(), 1);
    wait_for_copies(&shadow, 1);
    assert_no_failures(&proxy);

    // A longer one than the configuration's, too.
    let slow = Backend::scripted(|exchange| {
        let_pass(exchange, Duration::from_millis(600));
        exchange.reply("slow");
        Next::Close
    });
    let start = |config: &str| {
        scene(config, &[&slow], &shadow.address.to_string())
            .set("defaults", "{timeouts: {request: 200ms}}")
            .start()
    };
    assert_eq!(start("{percent: 0}").get("web", "/").reason(), "request-timeout");
    assert_eq!(start("{percent: 0, timeout_ms: 20000}").get("web", "/").backend(), "slow");
}

/// Of two endpoints one ends each connection without an answer.
#[test]
fn a_forward_says_what_may_be_repeated() {
    let (good, broken) = (Backend::named("good"), Backend::scripted(|_| Next::Close));
    let shadow = Backend::named("shadow");
    let statuses = |retry: &str, method: &str| {
        let proxy = start(&format!("{{percent: 0, retry: {retry}}}"), &[&good, &broken], &shadow);
        let before = broken.requests();
        let answers: Vec<Answer> = (0..10).map(|_| bare(&proxy, method)).collect();
        assert!(broken.requests() > before, "the broken one was tried");
        assert_no_failures(&proxy);
        let failed = answers.iter().filter(|answer| answer.status != 200);
        failed.map(|answer| (answer.status, answer.reason().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(statuses("safe", "POST"), []);
    assert_eq!(statuses("configured", "GET"), []);
    for (retry, method) in [("configured", "POST"), ("never", "GET")] {
        let failed = statuses(retry, method);
        assert_eq!(failed.len(), 5, "{retry} {method}: {failed:?}");
        assert!(failed.iter().all(|failed| *failed == (502, "upstream-reset".to_owned())), "{failed:?}");
    }

    // A body is not kept, so it is not sent again, whatever the policy says.
    let proxy = start("{percent: 0, retry: safe}", &[&good, &broken], &shadow);
    let post = || {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello");
        client.answer("POST").status
    };
    let statuses: Vec<u16> = (0..10).map(|_| post()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 5, "{statuses:?}");
    assert_eq!(shadow.requests(), 0);
}

#[test]
fn a_forward_gives_the_balancer_its_key() {
    let backends: Vec<Backend> = ["a", "b", "c", "d"].map(Backend::named).into();
    let all: Vec<&Backend> = backends.iter().collect();
    let shadow = Backend::named("shadow");
    let proxy = scene("{percent: 30, user_header: x-user}", &all, &shadow.address.to_string())
        .set("defaults", "{balancer: maglev}")
        .start();
    let mut client = proxy.client();
    let mut ask = |user: u32| {
        let answer = client.get("web", "/", &format!("X-User: {user}\r\n"));
        (answer.backend().to_owned(), answer.field("x-shadowed").is_some())
    };
    let first: Vec<_> = (0..60).map(&mut ask).collect();
    let second: Vec<_> = (0..60).map(&mut ask).collect();
    assert_eq!(first, second, "users stay, at their endpoint and in the share");
    for name in ["a", "b", "c", "d"] {
        assert!(first.iter().any(|(backend, _)| backend == name), "{name}: {first:?}");
    }
    assert!(first.iter().any(|(_, copied)| *copied) && first.iter().any(|(_, copied)| !copied));
    assert_clean(&proxy, 120);
}

/// A router's own answers are framed like any other, and the connection goes on.
#[test]
fn redirects_and_replies_keep_the_connection() {
    let backend = Backend::named("web");
    let rules = "[{path_prefix: /old, redirect: {status: 301, location: 'https://shop.example/new?a=b'}}, \
                 {path_prefix: /no, reply: {status: 403, body: not here}}]";
    let proxy = Scene::web(&[&backend])
        .set("workers", "1")
        .set(
            "routes",
            &format!(
                "[{{name: own, router: {{policy: header-match, config: {{rules: {rules}}}}}, backends: {{web: web}}}}]"
            ),
        )
        .start();
    let mut client = proxy.client();
    for method in ["GET", "HEAD", "POST"] {
        client.send(format!("{method} /old/x HTTP/1.1\r\nhost: web\r\n\r\n"));
        let moved = client.answer(method);
        assert_eq!((moved.status, moved.field("location")), (301, Some("https://shop.example/new?a=b")));
        client.send(format!("{method} /no HTTP/1.1\r\nhost: web\r\n\r\n"));
        let refused = client.answer(method);
        assert_eq!((refused.status, refused.field("content-length"), refused.reason()), (403, Some("8"), ""));
        assert_eq!(refused.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(refused.text(), if method == "HEAD" { "" } else { "not here" });
    }
    assert_eq!(client.get("web", "/yes", "").backend(), "web");
    assert_eq!(backend.requests(), 1);
    // What is left of a body must not be taken for a request: the connection ends.
    client.send("POST /no HTTP/1.1\r\nhost: web\r\ncontent-length: 40\r\n\r\nGET /smuggled");
    let refused = client.answer("POST");
    assert_eq!((refused.status, refused.field("connection")), (403, Some("close")));
    client.expect_end();
    let metrics = proxy.metrics();
    let answered = [("route", "own"), ("outcome", "answered")];
    assert_eq!(metrics.sum("outrigger_requests_total", &answered), 7.0, "{}", metrics.text);
    assert_eq!(backend.requests(), 1);
}
