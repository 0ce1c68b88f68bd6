//! Backends that answer early, close, say too much, or cannot be reached: the client gets the best answer there is.

use std::net::{SocketAddr, TcpListener};

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::proxy::Scene;
use socket2::{Domain, Socket, Type};

/// An address that nobody else gets and on which nobody listens, for as long as the socket is kept.
fn dead() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

/// Nothing has been sent when a connection is refused, so that a request of any method may go elsewhere.
#[test]
fn a_refused_connection_costs_no_request_of_any_method() {
    let good = Backend::scripted(|exchange| {
        let body = exchange.body().unwrap_or_default().text();
        exchange.reply(&body)
    });
    let (_kept, dead) = dead();
    let proxy = Scene::new()
        .endpoints("web", &[dead, good.address.to_string()])
        .set("services", "{web: {balancer: round-robin, ejection: {consecutive_failures: 0}}}")
        .start();
    let mut client = proxy.client();
    for number in 0..20 {
        let body = format!("order {number}");
        let length = body.len();
        client.send(format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {length}\r\n\r\n{body}"));
        assert_eq!(client.answer("POST").text(), body);
    }
    assert_eq!(good.requests(), 20, "each once");
}

/// A request that may have been seen is not sent twice if that may do harm.
#[test]
fn a_post_that_was_cut_off_is_not_repeated() {
    let backend = Backend::scripted(|exchange| {
        let _ = exchange.body();
        Next::Close
    });
    let proxy = Scene::web(&[&backend]).set("services", "{web: {retry: {attempts: 5}}}").start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello");
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.reason()), (502, "upstream-reset"));
    assert_eq!(backend.requests(), 1);
    assert_eq!(proxy.get("web", "/").status, 502);
    assert_eq!(backend.requests(), 6, "a GET is tried as often as configured");
}

/// The answer counts, also when the backend has not listened to the end.
#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let backend = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge");
        Next::Close
    });
    let proxy = Scene::web(&[&backend]).start();
    for _ in 0..10 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\n");
        client.try_send(vec![b'x'; 60_000]);
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
        client.expect_end();
    }
}

#[test]
fn connections_that_backends_announce_to_close_are_not_used_again() {
    let backend = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na");
        Next::Keep
    });
    let proxy = Scene::web(&[&backend]).set("workers", "1").start();
    let mut client = proxy.client();
    for _ in 0..5 {
        let answer = client.get("web", "/", "");
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("a", None), "ours stays open");
    }
    assert_eq!(backend.connections(), 5);
}

#[test]
fn answers_with_too_large_a_head_are_not_relayed() {
    for fields in [format!("x: {}\r\n", "y".repeat(9_000)), "x: y\r\n".repeat(200)] {
        let backend = Backend::scripted(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"))
        });
        let proxy = Scene::web(&[&backend]).set("limits", "{head_bytes_max: 8KiB}").start();
        let answer = proxy.get("web", "/");
        assert_eq!((answer.status, answer.reason()), (502, "bad-answer"));
    }
}

/// A body that is shorter than announced must not look whole.
#[test]
fn a_short_body_is_cut_for_the_client_too() {
    let backend = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort");
        Next::Close
    });
    let proxy = Scene::web(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert!(client.try_answer("GET").is_err());
    let chunked = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        Next::Close
    });
    let proxy = Scene::web(&[&chunked]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert!(client.try_answer("GET").is_err());
}

#[test]
fn endpoints_and_listeners_speak_ipv6() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let backend = Backend::on(listener, |exchange| exchange.reply("six"));
    let proxy = Scene::new()
        .endpoints("web", &[format!("'{}'", backend.address)])
        .set("outbound", "['[::1]:0', '127.0.0.1:0']")
        .start();
    assert!(proxy.outbound.is_ipv6());
    assert_eq!(proxy.get("web", "/").backend(), "six");
    assert_eq!(backend.last_head().field("x-forwarded-for"), Some("::1"));
}

/// All endpoints fail: everything is tried, nothing is given up on for good, and the answer is the backend's own.
#[test]
fn a_service_that_fails_as_a_whole_is_still_asked() {
    let backend = Backend::scripted(|exchange| exchange.status(500, "bad"));
    let proxy = Scene::web(&[&backend]).start();
    for _ in 0..30 {
        let answer = proxy.get("web", "/");
        assert_eq!((answer.status, answer.backend(), answer.reason()), (500, "bad", ""));
    }
    assert_eq!(backend.requests(), 30);
}
