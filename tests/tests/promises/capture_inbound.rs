//! What comes to a captured workload: handed on to where it was meant to go, counted, and refused as the workload itself
//! would have. Needs root, for namespaces.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use outrigger_tests::backend::Backend;
use outrigger_tests::captured::{
    Server, Stage, Workload, dial, echo, expect_refusal, expect_reset, read, reset, say_all,
};
use outrigger_tests::client::Client;
use outrigger_tests::program::say;
use outrigger_tests::wait;

/// An HTTP server of the workload's own.
fn own_backend(stage: &Stage) -> Backend {
    stage.host.enter(|| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        Backend::on(listener, |exchange| {
            let _ = exchange.body();
            exchange.reply("workload")
        })
    })
}

fn requests(workload: &Workload, labels: &[(&str, &str)]) -> f64 {
    let inbound = [&[("direction", "inbound")], labels].concat();
    workload.sum("outrigger_requests_total", &inbound)
}

#[test]
fn requests_reach_the_workload_and_are_counted() {
    let Some(stage) = Stage::new(", publish: ['8080:8080'], capture: {}") else { return };
    let backend = own_backend(&stage);
    let port = backend.address.port();
    let scene = stage.scene().set("node", "{service: shop}").set("workers", "1");
    let workload = stage.start(scene);
    for is_ipv4 in [true, false] {
        let at = SocketAddr::from((workload.own_address(is_ipv4), port));
        let said = say(workload.lab.node.command("curl").args(["-sS", &format!("http://{at}/x")]));
        assert_eq!(said.expect_ok("curl").out, "workload");
        let seen = backend.last_head();
        assert_eq!(seen.field("host"), Some(&*at.to_string()), "as the client said it");
        let gateway = if is_ipv4 { "10.88.0.1" } else { "fd88::1" };
        assert_eq!(seen.field("x-forwarded-for"), Some(gateway));
    }
    // Kept connections: many requests, and one connection to the workload.
    let at = SocketAddr::from((workload.own_address(true), port));
    let before = backend.connections();
    workload.lab.node.enter(|| {
        let mut client = Client::connect(at);
        for _ in 0..20 {
            assert_eq!(client.get("shop", "/", "").text(), "workload");
        }
    });
    assert_eq!(backend.connections() - before, 0, "the one of the first request is still there");
    assert_eq!(requests(&workload, &[("service", "shop"), ("code_class", "2xx")]), 22.0);
    let metrics = workload.metrics();
    assert_eq!(metrics.sum("outrigger_requests_total", &[("direction", "outbound")]), 0.0);
    assert_eq!(
        metrics.sum("outrigger_captured_connections_total", &[("direction", "inbound"), ("kind", "http")]),
        3.0
    );
    assert_eq!(metrics.sum("outrigger_upstream_connects_total", &[("service", "shop")]), 0.0);
    // The workload reaches itself without us, and a request that is none is refused.
    assert_eq!(workload.curl(&[&format!("http://{at}/")]), "workload");
    assert_eq!(requests(&workload, &[]), 22.0);
    let bad = say_all(dial(&workload.lab.node, at).unwrap(), b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(String::from_utf8_lossy(&bad).contains("bad-host"));
}

#[test]
fn connections_reach_the_workload_and_whoever_may_speak_first() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let greets = Server::start(&stage.host, |mut stream| {
        if stream.write_all(b"hello\n").is_ok() {
            echo(stream);
        }
    });
    let echoes = Server::start(&stage.host, echo);
    static RESETS: AtomicU64 = AtomicU64::new(0);
    let listens = Server::start(&stage.host, |mut stream| {
        let _ = stream.read(&mut [0; 1]);
        if stream.read(&mut [0; 1]).is_err() {
            RESETS.fetch_add(1, SeqCst);
        }
    });
    let breaks_off = Server::start(&stage.host, |mut stream| {
        let _ = stream.read(&mut [0; 1]);
        reset(stream);
    });
    let scene = stage.scene().set("node", "{service: shop}");
    let workload = stage.start(scene);
    for is_ipv4 in [true, false] {
        let at = |port: u16| SocketAddr::from((workload.own_address(is_ipv4), port));
        let outside = |port| dial(&workload.lab.node, at(port)).unwrap();
        let mut stream = outside(greets.port);
        assert_eq!(read(&mut stream, 6), "hello\n");
        stream.write_all(b"and you").unwrap();
        assert_eq!(read(&mut stream, 7), "and you");
        drop(stream);
        // The client ends first, and still hears all.
        let long = vec![7; 1 << 20];
        assert_eq!(say_all(outside(echoes.port), &long).unwrap(), long);
        let mut stream = outside(breaks_off.port);
        stream.write_all(b"\0").unwrap();
        expect_reset(&mut stream);
        let mut stream = outside(listens.port);
        stream.write_all(b"\0").unwrap();
        wait::until_true("the byte to have come", || {
            workload.sum("outrigger_tcp_received_bytes_total", &[("direction", "inbound")]) > 0.0
        });
        reset(stream);
    }
    wait::until_true("the workload to see resets", || RESETS.load(SeqCst) == 2);
    let ended = |outcome| {
        let labels = [("direction", "inbound"), ("service", "shop"), ("outcome", outcome)];
        workload.sum("outrigger_tcp_connections_total", &labels)
    };
    wait::until_true("all to have ended", || ended("success") == 4.0);
    assert_eq!((ended("reset"), ended("cancelled")), (2.0, 2.0));
}

#[test]
fn a_workload_that_does_not_listen_is_a_reset() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let backend = own_backend(&stage);
    let port = backend.address.port();
    let scene = stage.scene();
    let workload = stage.start(scene);
    let closed = Server::start(&workload.host, drop).port + 1;
    for is_ipv4 in [true, false] {
        let own: IpAddr = workload.own_address(is_ipv4);
        // Silent or not, it learns at once.
        for words in [&b""[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            expect_refusal(&workload.lab.node, (own, closed).into(), words);
        }
    }
    // It has listened, and stops: a kept client's next request finds out, and a silent one that comes then.
    let at = (workload.own_address(true), port).into();
    let mut kept = dial(&workload.lab.node, at).unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    kept.write_all(request).unwrap();
    let answer = "HTTP/1.1 200 OK\r\nx-backend: workload\r\ncontent-length: 8\r\n\r\nworkload";
    assert_eq!(read(&mut kept, answer.len()), answer);
    workload.host.enter(|| drop(backend));
    wait::until_true("the port to be closed", || dial(&workload.host, at).is_err());
    kept.write_all(request).unwrap();
    expect_reset(&mut kept);
    expect_refusal(&workload.lab.node, at, b"");
    let log = workload.proxy().access_log();
    assert!(log.is_empty() || log.contains("connect-failed"), "{log}");
}

/// Without rules for what goes out, nothing tells our own connection to the workload from a stranger's but its way.
#[test]
fn the_inbound_side_works_alone() {
    let Some(stage) = Stage::new(", capture: {outbound: 0, dns: 0}") else { return };
    let backend = own_backend(&stage);
    let scene = stage.scene().set("capture", "{outbound: []}");
    let workload = stage.start(scene);
    for is_ipv4 in [true, false] {
        let at = SocketAddr::from((workload.own_address(is_ipv4), backend.address.port()));
        let said = say(workload.lab.node.command("curl").args(["-sS", &format!("http://{at}/x")]));
        assert_eq!(said.expect_ok("curl").out, "workload");
    }
    assert_eq!(requests(&workload, &[]), 2.0);
    assert_eq!(workload.sum("outrigger_captured_refused_total", &[]), 0.0);
}

/// Ports on which nothing is parsed.
#[test]
fn an_opaque_port_takes_any_bytes() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = Server::start(&stage.host, echo);
    let scene = stage.scene().set("capture", &format!("{{opaque_inbound: ['{}']}}", server.port));
    let workload = stage.start(scene);
    let at = (workload.own_address(true), server.port).into();
    let request = b"GET / HTTP/1.1\nnot a request we would take\n\n";
    assert_eq!(say_all(dial(&workload.lab.node, at).unwrap(), request).unwrap(), request);
    assert_eq!(requests(&workload, &[]), 0.0);
}
