//! HTTP/1.1 as the RFCs say, on both sides: persistence, framing, forwarding, upgrades.

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::client::Client;
use outrigger_tests::program;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;
use outrigger_tests::wire::Framing;

/// One worker, so that every connection meets the same pool.
fn start(backend: &Backend) -> Proxy {
    Scene::web(&[backend]).set("workers", "1").start()
}

/// Answers with the request's target.
fn echo_target() -> Backend {
    Backend::scripted(|exchange| {
        let _ = exchange.body();
        let target = exchange.head.target().to_owned();
        exchange.reply(&target)
    })
}

#[test]
fn connections_are_kept_on_both_sides() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("web", "/", "").status, 200);
    }
    assert_eq!((backend.requests(), backend.connections()), (50, 1));
    // Another client finds the idle connection.
    assert_eq!(proxy.get("web", "/").status, 200);
    assert_eq!(backend.connections(), 1);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("outrigger_upstream_reused_total", &[("service", "web")]), 50.0);
    assert_eq!(metrics.sum("outrigger_upstream_connects_total", &[("service", "web")]), 1.0);
    assert_eq!(metrics.sum("outrigger_requests_total", &[("service", "web"), ("outcome", "success")]), 51.0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = echo_target();
    let proxy = start(&backend);
    let mut client = proxy.client();
    let get = |number: u32| format!("GET /{number} HTTP/1.1\r\nhost: web\r\n\r\n");
    let post = |number: u32| format!("POST /{number} HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nbody");
    let all: String =
        (0..40).map(|number| if number % 3 == 0 { post(number) } else { get(number) }).collect();
    client.send(all);
    for number in 0..40 {
        assert_eq!(client.answer("GET").text(), format!("/{number}"));
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let backend = Backend::scripted(|exchange| match exchange.head.target() {
        "/204" => exchange.send("HTTP/1.1 204 No Content\r\nx-backend: a\r\n\r\n"),
        "/304" => exchange.send("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 1234\r\n\r\n"),
        "/chunked" => exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        _ => exchange.reply("twelve bytes"),
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    let mut head = |path: &str| {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: web\r\n\r\n"));
        client.answer("HEAD")
    };
    assert_eq!(head("/").field("content-length"), Some("12"), "the length of the body that is not there");
    assert_eq!(head("/chunked").status, 200);
    assert_eq!(head("/").status, 200, "the connection is in step");
    let no_content = client.get("web", "/204", "");
    assert_eq!((no_content.status, no_content.field("content-length")), (204, None));
    assert_eq!(no_content.field("transfer-encoding"), None);
    let not_modified = client.get("web", "/304", "");
    assert_eq!((not_modified.status, not_modified.field("etag")), (304, Some("\"x\"")));
    assert_eq!(client.get("web", "/", "").text(), "twelve bytes", "the connection is in step");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn interim_answers_pass() {
    let backend = Backend::scripted(|exchange| {
        exchange.send(
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n",
        );
        exchange.reply("a")
    });
    let proxy = start(&backend);
    let answer = proxy.client().get("web", "/", "");
    let statuses: Vec<u16> = answer.interim.iter().map(|head| head.status().unwrap()).collect();
    assert_eq!((statuses, answer.status), (vec![102, 103], 200));
    assert_eq!(answer.interim[1].field("link"), Some("</x>; rel=preload"));
    // HTTP/1.0 does not know them.
    let old = proxy.raw("GET / HTTP/1.0\r\nhost: web\r\n\r\n");
    assert!(old.starts_with("HTTP/1.1 200 ") && !old.contains("103"), "{old}");
}

#[test]
fn curl_waits_for_100_continue() {
    let backend = Backend::scripted(|exchange| {
        if exchange.head.target() == "/no" {
            return exchange.send("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        assert_eq!(exchange.head.field("expect"), Some("100-continue"));
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        let length = exchange.body().map_or(0, |body| body.bytes.len());
        exchange.reply(&length.to_string())
    });
    let proxy = start(&backend);
    let file = proxy.scene.path("upload");
    std::fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
    let curl = |path: &str| {
        let url = format!("http://{}{path}", proxy.outbound);
        let data = format!("@{}", file.display());
        let arguments = [
            "-sS",
            "-v",
            "--max-time",
            "20",
            "-H",
            "Host: web",
            "-H",
            "Expect: 100-continue",
            "-w",
            "\n%{http_code}",
            "--expect100-timeout",
            "15",
            "--data-binary",
            &data,
            &url,
        ];
        program::tool("curl", &arguments, program::root()).expect_ok("curl")
    };
    let sent = curl("/yes");
    assert_eq!(sent.out, format!("{}\n200", 3 << 20));
    assert!(sent.err.contains("100 Continue"), "{}", sent.err);
    let refused = curl("/no");
    assert_eq!(refused.out, "\n413");
    assert!(!refused.err.contains("100 Continue"), "{}", refused.err);
}

#[test]
fn trailers_pass_in_both_directions() {
    let backend = Backend::scripted(|exchange| {
        let _ = exchange.body();
        exchange.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             5\r\nhello\r\n6;note=\"x\"\r\n world\r\n0\r\nx-sum: 42\r\n\r\n",
        )
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nhost: web\r\nte: trailers, gzip\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nx-check: 7\r\n\r\n",
    );
    let answer = client.answer("POST");
    assert_eq!(
        (answer.text().as_str(), &answer.body.trailers[..]),
        ("hello world", &pair("x-sum", "42")[..])
    );
    let body = backend.bodies().remove(0);
    assert_eq!((body.text().as_str(), &body.trailers[..]), ("abc", &pair("x-check", "7")[..]));
    assert_eq!(backend.last_head().field("te"), Some("trailers"), "of TE only what passes proxies");
}

fn pair(name: &str, value: &str) -> [(String, String); 1] {
    [(name.to_owned(), value.to_owned())]
}

#[test]
fn bodies_are_reframed_for_the_client() {
    let backend = Backend::scripted(|exchange| match exchange.head.target() {
        "/chunked" => exchange
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"),
        "/close" => {
            exchange.send("HTTP/1.1 200 OK\r\nx-backend: a\r\n\r\nhello");
            Next::Close
        }
        "/old" => {
            exchange.send("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello");
            Next::Close
        }
        _ => exchange.reply("hello"),
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    for path in ["/chunked", "/close", "/old", "/length"] {
        let answer = client.get("web", path, "");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{path}, on one kept connection");
        let old = proxy.raw(format!("GET {path} HTTP/1.0\r\nhost: web\r\n\r\n"));
        let (head, body) = old.split_once("\r\n\r\n").expect("a head");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{path}: {head}");
        assert_eq!(body, "hello", "{path}, to HTTP/1.0");
    }
}

#[test]
fn http_1_0_connections_are_kept_only_if_asked_for() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nhost: web\r\nconnection: keep-alive\r\n\r\n");
        let answer = client.answer("GET");
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("a", Some("keep-alive")));
    }
    client.send("GET / HTTP/1.0\r\nhost: web\r\n\r\n");
    assert_eq!(client.answer("GET").field("connection"), Some("close"));
    client.expect_end();
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let backend = Backend::scripted(|exchange| {
        exchange.send(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive, x-mine\r\nkeep-alive: timeout=5\r\n\
             x-mine: 1\r\nx-yours: 2\r\nproxy-authenticate: Basic\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n",
        )
    });
    let proxy = start(&backend);
    let fields = "connection: x-private, keep-alive\r\nkeep-alive: 5\r\nproxy-connection: close\r\nx-private: 1\r\n\
                  x-public: 2\r\nproxy-authorization: Basic xyz\r\nupgrade: h2c\r\nte: gzip\r\n";
    let answer = proxy.client().get("web", "/a?b=c", fields);
    let head = backend.last_head();
    for gone in
        ["connection", "keep-alive", "proxy-connection", "x-private", "proxy-authorization", "upgrade", "te"]
    {
        assert_eq!(head.field(gone), None, "{gone} went to the backend: {}", head.raw);
    }
    assert_eq!(
        (head.target(), head.field("x-public"), head.field("host")),
        ("/a?b=c", Some("2"), Some("web"))
    );
    for gone in ["keep-alive", "x-mine", "proxy-authenticate", "connection"] {
        assert_eq!(answer.field(gone), None, "{gone} went to the client");
    }
    assert_eq!(answer.field("x-yours"), Some("2"));
    assert_eq!(answer.head.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn the_backend_is_told_who_asked() {
    let backend = Backend::named("a");
    let came = "x-forwarded-for: 10.1.2.3\r\nx-forwarded-proto: https\r\nforwarded: for=10.1.2.3\r\nvia: 1.0 before\r\n";
    let head = |forwarded: Option<&str>, fields: &str| {
        let scene = Scene::web(&[&backend]);
        let scene = match forwarded {
            Some(forwarded) => scene.set("forwarded", forwarded),
            None => scene,
        };
        assert_eq!(scene.start().client().get("web", "/", fields).status, 200);
        backend.last_head()
    };
    let by_default = head(None, "");
    assert_eq!(by_default.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(by_default.field("x-forwarded-proto"), Some("http"));
    assert_eq!(by_default.field("x-forwarded-host"), None, "the host goes on unchanged");
    assert_eq!(by_default.field("forwarded"), None);
    assert!(by_default.field("via").is_some_and(|via| via.starts_with("1.1 ")));
    let added = head(None, came);
    assert_eq!(added.field("x-forwarded-for"), Some("10.1.2.3, 127.0.0.1"));
    assert_eq!(added.all("x-forwarded-proto").collect::<Vec<_>>(), ["https"]);
    assert!(added.field("via").is_some_and(|via| via.starts_with("1.0 before, 1.1 ")));
    assert_eq!(added.field("forwarded"), Some("for=10.1.2.3"), "what came in is kept");
    let standard = head(Some("forwarded"), came);
    let forwarded = standard.field("forwarded").unwrap();
    assert!(forwarded.starts_with("for=10.1.2.3, ") && forwarded.contains("for=127.0.0.1"), "{forwarded}");
    assert_eq!(standard.field("x-forwarded-for"), Some("10.1.2.3"));
    let none = head(Some("none"), "");
    assert_eq!((none.field("x-forwarded-for"), none.field("forwarded")), (None, None));
}

/// Upper-cases what it gets, until there is no more.
fn shouting() -> Backend {
    Backend::scripted(|exchange| {
        if exchange.head.field("upgrade") != Some("shout") || exchange.head.field("connection").is_none() {
            return exchange.status(426, "a");
        }
        exchange
            .send("HTTP/1.1 101 Switching Protocols\r\nupgrade: shout\r\nconnection: upgrade\r\n\r\nREADY");
        while let Ok(bytes) = exchange.wire.some() {
            if bytes.is_empty() || exchange.send(bytes.to_ascii_uppercase()) == Next::Close {
                break;
            }
        }
        exchange.send("BYE");
        Next::Close
    })
}

fn upgrade(client: &mut Client, early: &str) {
    client.send(format!(
        "GET /ws HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n{early}"
    ));
    let (head, _) = client.heads().unwrap();
    assert_eq!((head.status(), head.field("upgrade")), (Ok(101), Some("shout")));
    assert!(head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
    let mut greeting = Vec::new();
    client.wire.stream_body(Framing::Length(5), |part| greeting.extend_from_slice(part)).unwrap();
    assert_eq!(greeting, b"READY");
}

#[test]
fn an_upgraded_connection_is_a_tunnel() {
    let backend = shouting();
    let proxy = start(&backend);
    let mut client = proxy.client();
    upgrade(&mut client, "");
    for text in ["hello", "GET / HTTP/1.1\r\n\r\n", "0\r\n\r\n", "\0\u{1}"] {
        client.send(text);
        let mut came = Vec::new();
        client
            .wire
            .stream_body(Framing::Length(text.len() as u64), |part| came.extend_from_slice(part))
            .unwrap();
        assert_eq!(came, text.to_ascii_uppercase().as_bytes());
    }
    // Half closed: the other direction goes on.
    client.finish();
    assert_eq!(client.wire.rest().unwrap(), b"BYE");
    assert_eq!(proxy.metrics().sum("outrigger_requests_total", &[("code_class", "1xx")]), 1.0);
}

#[test]
fn bytes_sent_before_the_101_reach_the_tunnel() {
    let backend = shouting();
    let proxy = start(&backend);
    let mut client = proxy.client();
    upgrade(&mut client, "early");
    let mut came = Vec::new();
    client.wire.stream_body(Framing::Length(5), |part| came.extend_from_slice(part)).unwrap();
    assert_eq!(came, b"EARLY");
}

#[test]
fn a_refused_upgrade_is_an_answer_like_others() {
    let backend = Backend::named("plain");
    let proxy = start(&backend);
    let mut client = proxy.client();
    let answer = client.get("web", "/", "connection: upgrade\r\nupgrade: websocket\r\n");
    assert_eq!((answer.status, answer.backend()), (200, "plain"));
    assert_eq!(client.get("web", "/", "").status, 200, "the connection goes on");
}

/// A kept connection may have been closed by the backend just now: the request goes out again.
#[test]
fn stale_connections_cost_no_request() {
    let backend = Backend::scripted(|exchange| {
        exchange.reply("a");
        // Closes without having announced it.
        if exchange.before % 3 == 2 { Next::Close } else { Next::Keep }
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    for number in 0..300 {
        let answer = client.get("web", "/", "");
        assert_eq!(answer.status, 200, "request {number}: {}", answer.text());
        if number % 50 == 0 {
            backend.cut_connections();
        }
    }
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let backend = Backend::scripted(|exchange| {
        // Nothing is answered; the wait ends when the connection does.
        let _ = exchange.wire.some();
        exchange.status(500, "left")
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    wait::until_true("the request to arrive", || backend.requests() == 1);
    let in_flight = |proxy: &Proxy| proxy.ask("/endpoints")["web"][0]["in_flight"].clone();
    assert_eq!(in_flight(&proxy), 1);
    drop(client);
    proxy.wait_for_metric("outrigger_requests_total", &[("outcome", "cancelled")], 1.0);
    assert_eq!(in_flight(&proxy), 0);
    wait::until_true("the upstream connection to end", || {
        proxy.metrics().sum("outrigger_upstream_connections", &[("service", "web")]) == 0.0
    });
}

#[test]
fn answers_of_our_own_say_why() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).service("empty", &[]).start();
    let mut client = proxy.client();
    let unknown = client.get("nobody", "/", "");
    assert_eq!((unknown.status, unknown.reason()), (404, "no-service"));
    assert_eq!(unknown.field("content-type"), Some("application/json"));
    assert_eq!(unknown.json()["blame"], "operator");
    assert!(unknown.json()["advice"].is_string());
    let empty = client.get("empty", "/", "");
    assert_eq!((empty.status, empty.reason()), (503, "no-endpoint"));
    client.send("HEAD / HTTP/1.1\r\nhost: nobody\r\n\r\n");
    assert_eq!(client.answer("HEAD").status, 404);
    assert_eq!(client.get("web", "/", "").status, 200, "the connection goes on");
    for host in ["WEB", "web:80", "web.mesh.internal", "Web.Mesh.Internal:8080"] {
        assert_eq!(client.get(host, "/", "").status, 200, "{host}");
    }
}

#[test]
fn connections_to_an_endpoint_are_limited() {
    let backend = Backend::scripted(|exchange| {
        if exchange.head.target() == "/wait" {
            let _ = exchange.wire.some();
        }
        exchange.reply("a")
    });
    let proxy =
        Scene::web(&[&backend]).set("workers", "1").set("limits", "{endpoint_connections_max: 2}").start();
    let mut waiting: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send("POST /wait HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\n");
    }
    wait::until_true("both to arrive", || backend.requests() == 2);
    let refused = proxy.get("web", "/");
    assert_eq!((refused.status, refused.reason()), (503, "overloaded"));
    for mut client in waiting {
        client.send("x");
        assert_eq!(client.answer("POST").status, 200);
    }
    assert_eq!(proxy.get("web", "/").status, 200);
    assert_eq!(backend.connections(), 2);
}

#[test]
fn failed_attempts_are_repeated_only_if_that_is_safe() {
    let (good, bad) = (Backend::named("good"), Backend::scripted(|exchange| exchange.status(503, "bad")));
    let proxy = Scene::web(&[&good, &bad])
        .set("services", "{web: {balancer: round-robin, retry: {attempts: 2, statuses: [503]}, ejection: {consecutive_failures: 0}}}")
        .start();
    for _ in 0..20 {
        assert_eq!(proxy.get("web", "/").status, 200);
    }
    assert!(proxy.metrics().sum("outrigger_upstream_retries_total", &[("service", "web")]) > 0.0);
    let post = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n";
    let statuses: Vec<u16> = (0..10)
        .map(|_| {
            let mut client = proxy.client();
            client.send(post);
            client.answer("POST").status
        })
        .collect();
    assert!(statuses.contains(&503), "a POST is not repeated: {statuses:?}");
}

#[test]
fn the_access_log_has_a_line_per_request() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("log", "{access: true}").start();
    assert_eq!(proxy.get("web", "/seen?x=1").status, 200);
    assert_eq!(proxy.get("nobody", "/lost").status, 404);
    let lines = wait::until("both lines", || {
        let lines: Vec<serde_json::Value> =
            proxy.access_log().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        (lines.len() == 2).then_some(lines)
    });
    let seen = lines.iter().find(|line| line["path"] == "/seen?x=1").expect("the first request");
    assert_eq!(
        (&seen["status"], &seen["service"], &seen["outcome"]),
        (&200.into(), &"web".into(), &"success".into())
    );
    assert_eq!(
        (&seen["policy"], &seen["pick"], &seen["attempts"]),
        (&"p2c".into(), &"policy".into(), &1.into())
    );
    assert_eq!(seen["endpoint"], backend.address.to_string());
    assert!(lines.iter().any(|line| line["status"] == 404 && line["reason"] == "no-service"), "{lines:?}");
}
