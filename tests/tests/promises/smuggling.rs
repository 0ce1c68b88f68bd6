//! What two parsers could read differently is refused, counted, and never reaches a backend.

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::client::Client;
use outrigger_tests::proxy::{Proxy, Scene};

/// A refused request with the status and the reason it gets.
struct Case {
    name: &'static str,
    request: String,
    status: u16,
    reason: &'static str,
}

/// The request that an attacker would like to get through, behind a request that is refused.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: web\r\n\r\n";

fn post(fields: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: web\r\n{fields}\r\n{rest}{HIDDEN}")
}

fn case(name: &'static str, status: u16, reason: &'static str, request: String) -> Case {
    Case { name, request, status, reason }
}

/// Heads that are refused before anything is forwarded.
fn heads() -> Vec<Case> {
    [codings(), lines(), lengths(), targets()].into_iter().flatten().collect()
}

/// Where the body ends, said twice or in doubt.
fn codings() -> Vec<Case> {
    vec![
        case(
            "CL.TE",
            400,
            "two-lengths",
            post("content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\nX"),
        ),
        case(
            "TE.CL",
            400,
            "two-lengths",
            post("transfer-encoding: chunked\r\ncontent-length: 4\r\n", "5c\r\n"),
        ),
        case(
            "TE.TE twice",
            400,
            "bad-transfer-encoding",
            post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        case(
            "TE.TE with another coding",
            400,
            "bad-transfer-encoding",
            post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
        ),
        case(
            "a doubled coding",
            400,
            "bad-transfer-encoding",
            post("transfer-encoding: chunked, chunked\r\n", ""),
        ),
        case(
            "chunked not last",
            400,
            "bad-transfer-encoding",
            post("transfer-encoding: chunked, gzip\r\n", ""),
        ),
        case("an obscured coding", 400, "bad-transfer-encoding", post("transfer-encoding: xchunked\r\n", "")),
        case("a quoted coding", 400, "bad-transfer-encoding", post("transfer-encoding: \"chunked\"\r\n", "")),
        case("an unknown coding", 501, "unknown-coding", post("transfer-encoding: gzip\r\n", "")),
    ]
}

/// Lines that parsers split differently.
fn lines() -> Vec<Case> {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\n{rest}\r\n{HIDDEN}");
    vec![
        case(
            "a space before the colon",
            400,
            "bad-syntax",
            post("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
        ),
        case("a tab before the colon", 400, "bad-syntax", post("content-length\t: 3\r\n", "abc")),
        case("obs-fold", 400, "bad-syntax", post("x: a\r\n b\r\n", "")),
        case("a folded coding", 400, "bad-syntax", post("transfer-encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        case("a space before the first field", 400, "bad-syntax", get(" host: web\r\nx: y\r\n")),
        case(
            "bare LF after the request line",
            400,
            "bare-lf",
            format!("GET / HTTP/1.1\nhost: web\r\n\r\n{HIDDEN}"),
        ),
        case("bare LF after a field", 400, "bare-lf", get("host: web\nx: y\r\n")),
        case("bare LF at the end", 400, "bare-lf", format!("GET / HTTP/1.1\r\nhost: web\r\n\n{HIDDEN}")),
        case("bare CR in a value", 400, "bad-syntax", get("host: web\r\nx: a\rb\r\n")),
        case("bare CR as a line's end", 400, "bad-syntax", get("host: web\rx: y\r\n")),
        case("NUL in a value", 400, "bad-syntax", get("host: web\r\nx: a\0b\r\n")),
        case("NUL in a name", 400, "bad-syntax", get("host: web\r\nx\0: ab\r\n")),
        case("a field without colon", 400, "bad-syntax", get("host: web\r\nnonsense\r\n")),
        case("a field without name", 400, "bad-syntax", get("host: web\r\n: x\r\n")),
    ]
}

/// Lengths that parsers read differently.
fn lengths() -> Vec<Case> {
    vec![
        case("equal lengths", 400, "bad-length", post("content-length: 3\r\ncontent-length: 3\r\n", "abc")),
        case(
            "different lengths",
            400,
            "bad-length",
            post("content-length: 3\r\ncontent-length: 4\r\n", "abcd"),
        ),
        case("a list of lengths", 400, "bad-length", post("content-length: 3, 3\r\n", "abc")),
        case("a signed length", 400, "bad-length", post("content-length: +3\r\n", "abc")),
        case("a negative length", 400, "bad-length", post("content-length: -1\r\n", "")),
        case("a hexadecimal length", 400, "bad-length", post("content-length: 0x3\r\n", "abc")),
        case("an empty length", 400, "bad-length", post("content-length:\r\n", "")),
        case(
            "a length that overflows",
            400,
            "bad-length",
            post("content-length: 18446744073709551619\r\n", "abc"),
        ),
    ]
}

/// Whom a request is for, and by which rules.
fn targets() -> Vec<Case> {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\n{rest}\r\n{HIDDEN}");
    vec![
        case("no host", 400, "bad-host", format!("GET / HTTP/1.1\r\n\r\n{HIDDEN}")),
        case("two hosts", 400, "bad-host", get("host: web\r\nhost: other\r\n")),
        case("a host with user", 400, "bad-host", get("host: user@web\r\n")),
        case("a host with a path", 400, "bad-host", get("host: web/x\r\n")),
        case("an empty host", 400, "bad-host", get("host:\r\n")),
        case(
            "HTTP/1.0 with a coding",
            400,
            "bad-transfer-encoding",
            format!("POST / HTTP/1.0\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        case("HTTP/2.0", 505, "bad-version", format!("GET / HTTP/2.0\r\nhost: web\r\n\r\n{HIDDEN}")),
        case("HTTP/0.9", 400, "bad-syntax", format!("GET /\r\n{HIDDEN}")),
        case("a fragment", 400, "bad-target", format!("GET /a#b HTTP/1.1\r\nhost: web\r\n\r\n{HIDDEN}")),
        case("a relative target", 400, "bad-target", format!("GET a HTTP/1.1\r\nhost: web\r\n\r\n{HIDDEN}")),
        case(
            "a space in the target",
            400,
            "bad-syntax",
            format!("GET /a b HTTP/1.1\r\nhost: web\r\n\r\n{HIDDEN}"),
        ),
        case(
            "CONNECT",
            501,
            "no-connect",
            format!("CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\n{HIDDEN}"),
        ),
        case(
            "another expectation",
            417,
            "bad-expectation",
            post("expect: miracles\r\ncontent-length: 1\r\n", "x"),
        ),
    ]
}

fn start(backend: &Backend) -> Proxy {
    Scene::web(&[backend]).start()
}

fn refusals(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metrics().sum("outrigger_bad_requests_total", &[("reason", reason)])
}

/// One answer with this status and reason, and then the end of the connection.
fn assert_refused(proxy: &Proxy, name: &str, request: impl AsRef<[u8]>, status: u16, reason: &str) {
    let before = refusals(proxy, reason);
    let mut client = proxy.client();
    client.try_send(request);
    let answer = client.try_answer("GET").unwrap_or_else(|trouble| panic!("{name}: {trouble}"));
    assert_eq!((answer.status, answer.reason()), (status, reason), "{name}");
    assert_eq!(answer.field("connection"), Some("close"), "{name}");
    let body = answer.json();
    assert_eq!((&body["reason"], &body["blame"]), (&reason.into(), &"client".into()), "{name}");
    assert!(body["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{name}");
    client.expect_end();
    assert!(refusals(proxy, reason) > before, "{name} is counted");
}

#[test]
fn ambiguous_heads_are_refused_and_nothing_behind_them_is_read() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    for Case { name, request, status, reason } in heads() {
        assert_refused(&proxy, name, request, status, reason);
    }
    assert_eq!(backend.requests(), 0, "{:?}", backend.heads());
    assert_eq!(backend.connections(), 0);
    assert_eq!(proxy.get("web", "/").status, 200, "it serves on");
}

/// The same shapes where they would do most harm: on a kept connection, behind a good request.
#[test]
fn ambiguous_heads_are_refused_on_kept_connections() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    for Case { name, request, status, reason } in heads() {
        let good = backend.requests() + 1;
        let mut client = proxy.client();
        client.send(format!("GET /good HTTP/1.1\r\nhost: web\r\n\r\n{request}"));
        assert_eq!(client.answer("GET").status, 200, "{name}");
        let answer = client.try_answer("GET").unwrap_or_else(|trouble| panic!("{name}: {trouble}"));
        assert_eq!((answer.status, answer.reason()), (status, reason), "{name}");
        client.expect_end();
        assert_eq!(backend.requests(), good, "{name}: {:?}", backend.last_head());
    }
    assert!(backend.heads().iter().all(|head| head.target() == "/good"));
}

#[test]
fn heads_byte_by_byte_are_refused_all_the_same() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    for Case { name, request, status, reason } in heads().into_iter().step_by(3) {
        let mut client = proxy.client();
        let end = request.len() - HIDDEN.len();
        for byte in &request.as_bytes()[..end] {
            client.try_send([*byte]);
        }
        let answer = client.try_answer("GET").unwrap_or_else(|trouble| panic!("{name}: {trouble}"));
        assert_eq!((answer.status, answer.reason()), (status, reason), "{name}");
    }
    assert_eq!(backend.requests(), 0, "{:?}", backend.heads());
}

#[test]
fn bad_chunks_are_refused() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    let cases = [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("no digit", "g\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a space before", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a space behind", "3 \r\nabc\r\n0\r\n\r\n"),
        ("an underscore", "1_0\r\nabc\r\n0\r\n\r\n"),
        ("an overflow", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("LF after the size", "3\nabc\r\n0\r\n\r\n"),
        ("LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("data longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("LF after the data", "3\r\nabc\n0\r\n\r\n"),
        ("no end of the data", "3\r\nabc0\r\n\r\n"),
        ("a length in the trailer", "3\r\nabc\r\n0\r\ncontent-length: 3\r\n\r\n"),
        ("a coding in the trailer", "3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("a host in the trailer", "3\r\nabc\r\n0\r\nhost: other\r\n\r\n"),
        ("a folded trailer", "3\r\nabc\r\n0\r\nx: y\r\n z\r\n\r\n"),
        ("LF in the trailer", "3\r\nabc\r\n0\r\nx: y\n\r\n"),
        ("LF at the end", "3\r\nabc\r\n0\r\n\n"),
    ];
    for (name, body) in cases {
        let request = post("transfer-encoding: chunked\r\n", body);
        assert_refused(&proxy, name, request, 400, "bad-body");
    }
    assert_eq!(backend.requests(), 0, "{:?}", backend.heads());
    assert_eq!(proxy.get("web", "/").status, 200);
}

/// A chunk that turns bad when the request is on its way already: the backend sees a request that never ends.
#[test]
fn a_bad_chunk_late_in_the_body_completes_no_request() {
    let backend = Backend::scripted(|exchange| {
        let whole = exchange.body().is_ok();
        exchange.reply(if whole { "whole" } else { "cut" })
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    outrigger_tests::wait::until_true("the head to arrive", || backend.requests() == 1);
    client.send(format!("3\nabc\r\n0\r\n\r\n{HIDDEN}"));
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.reason()), (400, "bad-body"));
    client.expect_end();
    assert_eq!(backend.bodies().len(), 0, "no body came whole");
    assert_eq!(backend.requests(), 1);
    assert!(refusals(&proxy, "bad-body") >= 1.0);
}

#[test]
fn oversize_heads_are_refused_before_they_end() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).set("limits", "{head_bytes_max: 4KiB, headers_max: 20}").start();
    let endless = format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}", "y".repeat(8_000));
    assert_refused(&proxy, "a large head", endless, 431, "head-too-large");
    let target = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "y".repeat(8_000));
    assert_refused(&proxy, "a large target", target, 431, "head-too-large");
    let many = format!("GET / HTTP/1.1\r\nhost: web\r\n{}\r\n", "x: y\r\n".repeat(30));
    assert_refused(&proxy, "many fields", many, 431, "too-many-fields");
    let very_many = format!("GET / HTTP/1.1\r\nhost: web\r\n{}\r\n", "x:y\r\n".repeat(500));
    assert_refused(&proxy, "very many fields", very_many, 431, "too-many-fields");
    assert_eq!(backend.requests(), 0);
    let fits = format!("x: {}\r\n", "y".repeat(3_000));
    assert_eq!(proxy.client().get("web", "/", &fits).status, 200);
}

/// The absolute form rules over Host, and the backend is told one name only (RFC 9112, 3.2.2).
#[test]
fn the_absolute_form_rules_over_host() {
    let (web, other) = (Backend::named("web"), Backend::named("other"));
    let proxy = Scene::new().service("web", &[&web]).service("other", &[&other]).start();
    let mut client = proxy.client();
    client.send("GET http://web/x?y HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!(client.answer("GET").backend(), "web");
    let head = web.last_head();
    assert_eq!((head.target(), head.all("host").collect::<Vec<_>>()), ("/x?y", vec!["web"]));
    assert_eq!(other.requests(), 0);
}

/// Fields that `Connection` names are for us alone, but it must not take away what the framing rests on.
#[test]
fn connection_cannot_name_away_the_framing() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    let mut client = proxy.client();
    let names = "connection: content-length, transfer-encoding, host, x-secret\r\nx-secret: 1\r\n";
    client.send(format!("POST / HTTP/1.1\r\nhost: web\r\n{names}content-length: 5\r\n\r\nhello"));
    assert_eq!(client.answer("POST").status, 200);
    let head = backend.last_head();
    assert_eq!(head.field("content-length"), Some("5"));
    assert_eq!(head.field("host"), Some("web"));
    assert_eq!(head.field("x-secret"), None);
    assert_eq!(backend.bodies()[0].bytes, b"hello");
}

/// A refusal ends the connection: what was sent behind it is thrown away, however it is cut into packets.
#[test]
fn requests_pipelined_behind_a_refused_one_are_thrown_away() {
    let backend = Backend::named("a");
    let proxy = start(&backend);
    let bad = post("content-length: 3\r\ntransfer-encoding: chunked\r\n", "");
    let mut client = proxy.client();
    client.send(format!("{bad}{}", HIDDEN.repeat(50)));
    assert_eq!(client.answer("POST").reason(), "two-lengths");
    client.try_send(HIDDEN);
    client.expect_end();
    assert_eq!(backend.requests(), 0);
}

/// Answers of a backend that could be read in two ways, and what the client may see of them.
#[test]
fn ambiguous_answers_are_not_relayed() {
    let cases = [
        ("CL and TE", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        ("equal lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
        ("a bad length", "HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\nhello"),
        ("two codings", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("a bare LF", "HTTP/1.1 200 OK\ncontent-length: 5\r\n\r\nhello"),
        ("a folded field", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("another version", "HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (
            "a bad chunk at once",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "101 without being asked",
            "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
        ),
    ];
    for (name, bytes) in cases {
        let backend = Backend::scripted(move |exchange| {
            exchange.send(bytes);
            Next::Close
        });
        let proxy = Scene::web(&[&backend]).start();
        let answer = proxy.get("web", "/");
        assert_eq!((answer.status, answer.reason()), (502, "bad-answer"), "{name}");
        assert_eq!(answer.json()["blame"], "upstream", "{name}");
    }
}

/// Once the answer is on its way, only closing the connection tells the client.
#[test]
fn a_bad_chunk_late_in_an_answer_ends_the_connection() {
    let backend = Backend::scripted(|exchange| {
        let _ = exchange.wire.some();
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // The first chunk goes out alone: the rest waits for the client to have seen it.
        let _ = exchange.wire.some();
        exchange.send("5\nworld\r\n0\r\n\r\n")
    });
    let proxy = start(&backend);
    let mut client: Client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\na");
    let (head, _) = client.heads().unwrap();
    assert_eq!(head.status(), Ok(200));
    client.send("b");
    let body = client.wire.body(outrigger_tests::wire::Framing::Chunked);
    assert!(body.is_err(), "{body:?}");
    client.expect_end();
}

/// An answer nobody asked for, left on a kept connection, must not answer the next request.
#[test]
fn a_second_answer_on_a_kept_connection_goes_to_nobody() {
    let backend = Backend::scripted(|exchange| {
        let path = exchange.head.target().to_owned();
        let length = path.len();
        let own = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
        exchange.send(format!("{own}HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\npoison!"))
    });
    let proxy = Scene::web(&[&backend]).set("workers", "1").start();
    let mut client = proxy.client();
    for number in 0..20 {
        let path = format!("/{number}");
        let answer = client.get("web", &path, "");
        assert_eq!((answer.status, answer.text()), (200, path));
    }
}
