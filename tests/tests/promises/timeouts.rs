//! Everything that waits has a limit, and the answer says which one it was.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wire::{Framing, Trouble};
use socket2::{Domain, Socket, Type};

/// Says nothing, until the connection ends.
fn silent() -> Backend {
    Backend::scripted(|exchange| {
        let _ = exchange.wire.some();
        Next::Close
    })
}

fn start(backend: &Backend, timeouts: &str) -> Proxy {
    Scene::web(&[backend]).set("defaults", &format!("{{timeouts: {timeouts}}}")).start()
}

#[test]
fn a_backend_that_does_not_answer_in_time() {
    let backend = silent();
    let proxy = start(&backend, "{request: 300ms}");
    let begun = Instant::now();
    let answer = proxy.get("web", "/");
    assert_eq!((answer.status, answer.reason()), (504, "request-timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(backend.requests(), 1, "the time is for all attempts together");
    assert_eq!(proxy.metrics().sum("outrigger_requests_total", &[("outcome", "timeout")]), 1.0);
}

/// A listener that takes no more connections: its queue is full.
struct Full {
    address: SocketAddr,
    _socket: Socket,
    _queued: Vec<TcpStream>,
}

impl Full {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queued = std::iter::from_fn(connect).take(64).collect();
        Self { address, _socket: socket, _queued: queued }
    }
}

#[test]
fn an_endpoint_that_does_not_accept_in_time() {
    let full = Full::new();
    let address = full.address.to_string();
    let proxy = Scene::new()
        .endpoints("web", &[address])
        .set("defaults", "{timeouts: {connect: 200ms}, retry: {attempts: 1}}")
        .start();
    let answer = proxy.get("web", "/");
    assert_eq!((answer.status, answer.reason()), (504, "connect-timeout"));
    assert_eq!(proxy.metrics().sum("outrigger_upstream_connect_failures_total", &[("service", "web")]), 1.0);
}

/// With another endpoint at hand the client does not notice.
#[test]
fn a_connect_timeout_is_tried_elsewhere() {
    let (full, good) = (Full::new(), Backend::named("good"));
    let proxy = Scene::new()
        .endpoints("web", &[full.address.to_string(), good.address.to_string()])
        .set("defaults", "{balancer: round-robin, timeouts: {connect: 100ms}}")
        .start();
    for _ in 0..12 {
        assert_eq!(proxy.get("web", "/").backend(), "good");
    }
}

#[test]
fn an_idle_client_connection_is_closed() {
    let backend = Backend::named("a");
    let proxy = start(&backend, "{idle: 300ms}");
    let mut client = proxy.client();
    assert_eq!(client.get("web", "/", "").status, 200);
    let begun = Instant::now();
    client.expect_end();
    assert!(begun.elapsed() >= Duration::from_millis(250));
    let mut silent = proxy.client();
    silent.expect_end();
}

/// An answer that stops in the middle ends with its connection: the client must not take it for whole.
#[test]
fn an_answer_that_stalls_is_cut() {
    let backend = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
        let _ = exchange.wire.some();
        Next::Close
    });
    let proxy = start(&backend, "{idle: 300ms}");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    client.heads().unwrap();
    assert_eq!(client.wire.body(Framing::Length(10)), Err(Trouble::Cut));
}

/// An answer that is long but moves is not cut by the time for its head.
#[test]
fn an_answer_that_moves_may_take_its_time() {
    let backend = Backend::scripted(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n");
        for _ in 0..12 {
            // One byte for each that the client sends.
            if exchange.wire.some().is_err() || exchange.send("x") == Next::Close {
                return Next::Close;
            }
        }
        Next::Close
    });
    let proxy = start(&backend, "{request: 400ms}");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 12\r\n\r\n");
    client.heads().unwrap();
    client.wire.stream.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    let mut came = 0;
    for _ in 0..200 {
        if came == 12 {
            break;
        }
        match client.wire.some() {
            Ok(bytes) => {
                came += bytes.len();
                assert!(!bytes.is_empty(), "cut after {came} bytes");
            }
            // Time passes here, on purpose.
            Err(Trouble::Timeout) => client.try_send("y"),
            Err(other) => panic!("{other} after {came} bytes"),
        }
    }
    assert_eq!(came, 12);
}

/// Half a head holds a connection for a while, not for ever.
#[test]
fn a_head_that_does_not_end_is_refused() {
    let backend = Backend::named("a");
    let proxy = Scene::web(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\nx-slow: ");
    let answer = client.answer("GET");
    assert_eq!((answer.status, answer.reason()), (408, "head-timeout"));
    client.expect_end();
    assert_eq!(backend.requests(), 0);
    assert_eq!(proxy.metrics().sum("outrigger_bad_requests_total", &[("reason", "head-timeout")]), 1.0);
}
