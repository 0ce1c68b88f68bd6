//! The server side of names: many questions on one connection, bounds on all that a client can hold, and counts of
//! what was answered from where.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::{dig, wait};

const QUERIES: &str = "outrigger_dns_queries_total";

fn proxy(dns: &str) -> Proxy {
    let web = ["'10.1.0.1:81'".to_owned()];
    Scene::new().set("dns", &format!("{{listen: '127.0.0.1:0'{dns}}}")).endpoints("web", &web).start()
}

/// About type A, with this id.
fn question(id: u16, name: &str) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut bytes = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&length, message].concat()
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(wait::WAIT_MAX)).unwrap();
    stream
}

/// Id and code of the next reply.
fn reply(stream: &mut TcpStream) -> Option<(u16, u8)> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    Some((u16::from_be_bytes([bytes[0], bytes[1]]), bytes[3] & 0x0f))
}

/// A resolver that takes questions and never answers.
fn silent() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn forwarding_to(silent: &UdpSocket) -> String {
    let address = silent.local_addr().unwrap();
    format!(", forward: {{servers: ['{address}'], timeout: 1s}}")
}

#[test]
fn a_slow_name_holds_up_nobody_on_its_connection() {
    let upstream = silent();
    let proxy = proxy(&forwarding_to(&upstream));
    let mut stream = connect(proxy.dns());
    let mut bytes = framed(&question(1, "slow.example"));
    (2..12).for_each(|id| bytes.extend(framed(&question(id, "web.mesh.internal"))));
    stream.write_all(&bytes).unwrap();
    let replies: Vec<(u16, u8)> = (0..11).map(|_| reply(&mut stream).unwrap()).collect();
    assert_eq!(replies[..10], (2..12).map(|id| (id, 0)).collect::<Vec<_>>());
    assert_eq!(replies[10], (1, 2), "nobody answered");
}

#[test]
fn messages_may_come_in_pieces_and_what_is_none_ends_the_connection() {
    let proxy = proxy("");
    let at = proxy.dns();
    let mut stream = connect(at);
    stream.set_nodelay(true).unwrap();
    for byte in framed(&question(7, "web.mesh.internal")) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(reply(&mut stream), Some((7, 0)));
    // Half-closed by the client: what was asked for still comes.
    stream.write_all(&framed(&question(8, "web.mesh.internal"))).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(reply(&mut stream), Some((8, 0)));
    assert_eq!(reply(&mut stream), None);

    let mut answer = question(9, "web.mesh.internal");
    answer[2] |= 0x80;
    for nonsense in [framed(&[]), framed(&[0; 11]), framed(&answer), vec![0xff; 70_000]] {
        let mut stream = connect(at);
        // The other side may have closed before all of it is written.
        let _ = stream.write_all(&nonsense);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    let malformed = framed(&question(10, "web.mesh.internal")[..20]);
    let mut stream = connect(at);
    stream.write_all(&malformed).unwrap();
    assert_eq!(reply(&mut stream), Some((10, 1)), "its header could be read");
    assert_eq!(dig::ask(at, &["web.mesh.internal", "A"]).records, ["10.1.0.1"]);
}

#[test]
fn connections_that_idle_or_do_not_read_are_closed_and_counted() {
    let proxy = proxy(", limits: {connections_max: 2, in_flight_max: 4, idle: 300ms}");
    let at = proxy.dns();
    let began = Instant::now();
    let mut idle = connect(at);
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_millis(300));

    // One that asks without end and reads nothing: its place comes back, and others are served meanwhile.
    let mut greedy = connect(at);
    greedy.set_write_timeout(Some(wait::WAIT_MAX)).unwrap();
    let question = framed(&question(1, "web.mesh.internal")).repeat(1000);
    while greedy.write_all(&question).is_ok() {
        assert_eq!(dig::ask(at, &["web.mesh.internal", "A"]).records, ["10.1.0.1"]);
    }
    let dropped = |reason| proxy.metrics().sum("outrigger_dns_dropped_total", &[("reason", reason)]);
    assert!(dropped("slow-client") >= 1.0);

    let (_one, _two) = (connect(at), connect(at));
    let mut third = connect(at);
    assert_eq!(third.read_to_end(&mut rest).unwrap_or(0), 0);
    wait::until_true("the connection to be counted", || dropped("connections") >= 1.0);
}

#[test]
fn a_client_that_asks_too_much_is_refused() {
    let proxy = proxy(", limits: {queries_per_second: 5}");
    let at = proxy.dns();
    let mut stream = connect(at);
    (0..12).for_each(|id| stream.write_all(&framed(&question(id, "web.mesh.internal"))).unwrap());
    let codes: Vec<u8> = (0..12).map(|_| reply(&mut stream).unwrap().1).collect();
    assert!(codes.starts_with(&[0; 5]), "{codes:?}");
    assert!(codes.iter().filter(|code| **code == 5).count() >= 5, "{codes:?}");
    wait::until_true("a second to pass", || dig::ask(at, &["web.mesh.internal", "A"]).status == "NOERROR");
}

#[test]
fn answers_are_counted_by_source_and_some_are_logged() {
    let upstream = silent();
    let proxy = proxy(&format!(", log_one_in: 2{}", forwarding_to(&upstream)));
    let at = proxy.dns();
    for _ in 0..4 {
        assert_eq!(dig::ask(at, &["web.mesh.internal", "A"]).status, "NOERROR");
    }
    assert_eq!(dig::ask(at, &["no.mesh.internal", "A", "+tcp"]).status, "NXDOMAIN");
    assert_eq!(dig::ask(at, &["away.example", "A"]).status, "SERVFAIL");
    assert_eq!(dig::ask(at, &["web.mesh.internal", "A", "-c", "CH"]).status, "REFUSED");
    let metrics = proxy.metrics();
    let count = |transport, source, code| {
        metrics.sum(QUERIES, &[("transport", transport), ("source", source), ("code", code)])
    };
    assert_eq!(count("udp", "local", "no-error"), 4.0);
    assert_eq!(count("tcp", "local", "no-such-name"), 1.0);
    assert_eq!(count("udp", "failed", "failure"), 1.0);
    assert_eq!(count("udp", "refused", "refused"), 1.0);
    assert!(metrics.sum("outrigger_dns_duration_seconds_count", &[("source", "local")]) >= 5.0);
    // The first question, and from then on every other one.
    let logged = || proxy.log().matches("INFO outrigger::names").count();
    wait::until_true("the questions to be logged", || logged() == 4);
}

#[test]
fn a_port_that_is_taken_is_said_at_the_start() {
    let proxy = proxy("");
    let taken = proxy.dns();
    let scene = Scene::new().set("dns", &format!("{{listen: '{taken}'}}"));
    scene.write();
    let (config, dir) = (scene.path("outrigger.yaml"), scene.path(""));
    let said = outrigger_tests::program::run(&["run", config.to_str().unwrap()], &dir);
    assert!(!said.ok());
    assert!(said.err.contains(&format!("cannot listen on {taken} for names")), "{said:?}");
    assert!(said.err.contains("another process has it"), "{said:?}");
}
