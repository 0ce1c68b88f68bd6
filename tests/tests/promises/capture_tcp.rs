//! Captured clients that speak anything else: relayed as they are, and balanced by connection. Needs root, for
//! namespaces.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use outrigger_tests::captured::{
    Server, Stage, Workload, dial, echo, expect_refusal, expect_reset, read, reset, say_all,
};
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;

/// So long that nobody could take a wait for chance.
const DETECT: Duration = Duration::from_secs(3);
const GREETING: &str = "220 mail ready\r\n";

/// Speaks first, as mail servers and databases do; then echoes.
fn greeting(mut stream: TcpStream) {
    if stream.write_all(GREETING.as_bytes()).is_ok() {
        echo(stream);
    }
}

/// A service with a virtual address and these endpoints, on one worker, which then remembers all.
fn scene(stage: &Stage, ports: &[u16], more: &str) -> Scene {
    let endpoints: Vec<String> =
        ports.iter().map(|port| format!("'{}'", stage.outside(*port, true))).collect();
    stage
        .scene()
        .set("workers", "1")
        .endpoints("db", &endpoints)
        .set("services", &format!("{{db: {{dns: {{answer: virtual}}{more}}}}}"))
}

fn ended(workload: &Workload, outcome: &str) -> f64 {
    let labels = [("direction", "outbound"), ("service", "db"), ("outcome", outcome)];
    workload.sum("outrigger_tcp_connections_total", &labels)
}

#[test]
fn a_server_that_speaks_first_is_waited_for_once() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = stage.server(greeting);
    let scene = scene(&stage, &[server.port], "").set("capture", "{detect: 3s}");
    let workload = stage.start(scene);
    let greeted = |port: u16, is_ipv4| {
        let began = Instant::now();
        let mut stream = workload.dial((workload.address_of("db", is_ipv4), port).into());
        assert_eq!(read(&mut stream, GREETING.len()), GREETING);
        (began.elapsed(), stream)
    };
    let (first, mut stream) = greeted(3306, true);
    assert!(first >= DETECT, "{first:?}");
    for is_ipv4 in [true, false, true] {
        let (again, _) = greeted(3306, is_ipv4);
        assert!(again < DETECT, "it is known: {again:?}");
    }
    // At another port it may be another server.
    assert!(greeted(3307, true).0 >= DETECT);
    stream.write_all(b"hello").unwrap();
    assert_eq!(read(&mut stream, 5), "hello");
    drop(stream);
    wait::until_true("all to have ended", || ended(&workload, "success") == 5.0);
    assert_eq!(workload.sum("outrigger_captured_connections_total", &[("kind", "tcp")]), 5.0);
}

#[test]
fn a_client_that_speaks_first_waits_for_nobody() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = stage.server(echo);
    let scene =
        scene(&stage, &[server.port], "").set("capture", "{detect: 10s, opaque_outbound: ['9000-9001']}");
    let workload = stage.start(scene);
    let at = |port: u16| SocketAddr::from((workload.address_of("db", true), port));
    let began = Instant::now();
    for hello in [
        "\u{16}\u{3}\u{1}\0\u{5}hello",
        "*1\r\n$4\r\nPING\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET key\r\n",
        "\0",
    ] {
        assert_eq!(say_all(workload.dial(at(80)), hello.as_bytes()).unwrap(), hello.as_bytes());
    }
    // Who has nothing to say but the end, has said so.
    assert_eq!(say_all(workload.dial(at(80)), b"").unwrap(), b"");
    // Where nothing is parsed, not even this is.
    let request = b"GET / HTTP/1.1\r\nhost: db\r\n\r\n";
    assert_eq!(say_all(workload.dial(at(9001)), request).unwrap(), request);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    wait::until_true("all to have ended", || ended(&workload, "success") == 7.0);
    assert_eq!(workload.sum("outrigger_captured_connections_total", &[("kind", "http")]), 0.0);
}

#[test]
fn connections_are_balanced_by_the_service_s_policy() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let servers = [stage.server(greeting), stage.server(greeting), stage.server(greeting)];
    let ports = servers.each_ref().map(|server| server.port);
    let scene = scene(&stage, &ports, ", balancer: round-robin").set("capture", "{detect: 20ms}");
    let workload = stage.start(scene);
    // The first connections find no instance yet where it is made on first use.
    let to = (workload.address_of("db", true), 25).into();
    let mut open: Vec<TcpStream> = (0..30).map(|_| workload.dial(to)).collect();
    open.iter_mut().for_each(|stream| assert_eq!(read(stream, GREETING.len()), GREETING));
    assert_eq!(servers.each_ref().map(Server::connections), [10; 3]);
    let picks = [("policy", "round-robin"), ("call", "pick")];
    assert_eq!(workload.sum("outrigger_policy_calls_total", &picks), 30.0);
    assert_eq!(workload.sum("outrigger_upstream_connections", &[("service", "db")]), 30.0);
    drop(open);
    wait::until_true("all to have ended", || ended(&workload, "success") == 30.0);
    let log = workload.proxy().access_log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 30, "each once");
    for line in lines {
        assert_eq!((&line["service"], &line["pick"]), (&"db".into(), &"policy".into()), "{line}");
        assert_eq!((&line["direction"], &line["outcome"]), (&"outbound".into(), &"success".into()), "{line}");
        assert_eq!(line["bytes_out"], GREETING.len());
        assert_eq!(line["destination"], to.to_string());
    }
    let sent = workload.sum("outrigger_tcp_sent_bytes_total", &[("service", "db")]);
    assert_eq!(sent, 30.0 * GREETING.len() as f64);
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = stage.server(echo);
    // Nobody listens at the first.
    let closed = stage.server(drop).port + 1;
    let scene = scene(&stage, &[closed, server.port], ", balancer: round-robin, retry: {attempts: 3}");
    let scene = scene.endpoints("none", &[format!("'{}'", stage.outside(closed, true))]);
    let scene = scene.endpoints("empty", &[]);
    let workload = stage.start(scene);
    let to = (workload.address_of("db", true), 80).into();
    for _ in 0..4 {
        assert_eq!(say_all(workload.dial(to), b"hi\n").unwrap(), b"hi\n");
    }
    assert!(workload.sum("outrigger_upstream_connect_failures_total", &[("service", "db")]) >= 2.0);
    // Where all attempts fail, and where there is nobody to try, the client learns it as it would have without us.
    for (service, outcome) in [("none", "refused"), ("empty", "rejected")] {
        let said = workload.run("getent", &["ahostsv4", &format!("{service}.virtual.mesh.internal")]);
        let address: std::net::IpAddr = said.out.split_whitespace().next().unwrap().parse().unwrap();
        expect_refusal(&workload.host, (address, 80).into(), b"\0");
        let labels = [("service", service), ("outcome", outcome)];
        workload.wait_for_sum("outrigger_tcp_connections_total", &labels, 1.0);
    }
}

/// Each direction ends by itself, whoever ends first.
#[test]
fn half_closed_connections_go_on_in_the_other_direction() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    // Answers only when the client has said all it had to.
    let patient = stage.server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let _ = write!(stream, "{} bytes", all.len());
    });
    // Says all it has, and listens on.
    let hasty = stage.server(|mut stream| {
        stream.write_all(b"that is all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        HEARD.store(all.len(), std::sync::atomic::Ordering::SeqCst);
    });
    static HEARD: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let scene = scene(&stage, &[patient.port], "");
    let past_us = stage.outside(hasty.port, true);
    let workload = stage.start(scene);
    let to = (workload.address_of("db", false), 80).into();
    assert_eq!(say_all(workload.dial(to), &[0; 100_000]).unwrap(), b"100000 bytes");
    let mut stream = workload.dial(past_us);
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "that is all");
    stream.write_all(&[1; 50_000]).unwrap();
    drop(stream);
    wait::until_true("the server to have heard the rest", || {
        HEARD.load(std::sync::atomic::Ordering::SeqCst) == 50_000
    });
}

#[test]
fn large_transfers_go_both_ways_at_once_within_bounds() {
    const LENGTH: usize = 48 << 20;
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = stage.server(echo);
    let scene = scene(&stage, &[server.port], "");
    let past_us = stage.outside(server.port, false);
    let workload = stage.start(scene);
    let through = (workload.address_of("db", true), 80).into();
    for to in [through, past_us] {
        let before = workload.proxy().resident_kib();
        let mut stream = workload.dial(to);
        let mut back = stream.try_clone().unwrap();
        let byte = |at: usize| (at % 251) as u8;
        let sender = std::thread::spawn(move || {
            let mut at = 0;
            while at < LENGTH {
                let chunk: Vec<u8> = (at..LENGTH.min(at + 65_536)).map(byte).collect();
                stream.write_all(&chunk).unwrap();
                at += chunk.len();
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut at, mut chunk) = (0, vec![0; 65_536]);
        loop {
            let count = back.read(&mut chunk).unwrap();
            if count == 0 {
                break;
            }
            assert!(
                chunk[..count].iter().enumerate().all(|(index, got)| *got == byte(at + index)),
                "at {at}"
            );
            at += count;
        }
        sender.join().unwrap();
        assert_eq!(at, LENGTH);
        let more = workload.proxy().resident_kib().saturating_sub(before);
        assert!(more < 16 << 10, "{more} KiB more");
    }
    let bytes =
        |way, service| workload.sum(&format!("outrigger_tcp_{way}_bytes_total"), &[("service", service)]);
    for service in ["db", ""] {
        wait::until_true("all to be counted", || bytes("sent", service) == LENGTH as f64);
        assert_eq!(bytes("received", service), LENGTH as f64);
    }
}

/// A client that does not read slows the server down, and costs the sidecar no memory.
#[test]
fn a_slow_reader_holds_the_server_back() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    static SENT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let server = stage.server(|mut stream| {
        while let Ok(count) = stream.write(&[0; 65_536]) {
            SENT.fetch_add(count as u64, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let scene = scene(&stage, &[server.port], "").set("capture", "{detect: 10ms}");
    let workload = stage.start(scene);
    let before = workload.proxy().resident_kib();
    let mut stream = workload.dial((workload.address_of("db", true), 80).into());
    let sent =
        wait::until_settled("the server to be held back", || SENT.load(std::sync::atomic::Ordering::SeqCst));
    // Two sockets' buffers, which the kernel bounds.
    assert!(sent < 64 << 20, "{sent}");
    assert!(workload.proxy().resident_kib() < before + (16 << 10));
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..64 {
        stream.read_exact(&mut chunk).unwrap();
    }
    assert!(SENT.load(std::sync::atomic::Ordering::SeqCst) > sent);
}

#[test]
fn resets_are_passed_on_as_resets() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let breaks_off = stage.server(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
        reset(stream);
    });
    static SEEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let listens = stage.server(|mut stream| {
        stream.write_all(b"!").unwrap();
        if stream.read(&mut [0; 16]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset) {
            SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let scene = scene(&stage, &[breaks_off.port], "")
        .endpoints("listens", &stage.both(listens.port))
        .set("capture", "{detect: 1s}");
    let (past_us, listening) = (stage.outside(breaks_off.port, true), stage.outside(listens.port, true));
    let db = scene.set("defaults", "{dns: {answer: virtual}}");
    let workload = stage.start(db);
    let service = (workload.address_of("db", true), 80).into();
    for to in [service, past_us] {
        let mut stream = workload.dial(to);
        stream.write_all(b"\0").unwrap();
        expect_reset(&mut stream);
    }
    wait::until_true("the reset to be counted", || ended(&workload, "reset") == 2.0);
    for to in [listening, (workload.address_of("listens", false), 9).into()] {
        let mut stream = workload.dial(to);
        assert_eq!(read(&mut stream, 1), "!");
        reset(stream);
    }
    wait::until_true("the server to see both", || SEEN.load(std::sync::atomic::Ordering::SeqCst) == 2);
    // While it is still waited for what the client says, too.
    let silent = workload.dial(service);
    workload.wait_for_sum("outrigger_connections", &[], 1.0);
    reset(silent);
    let cancelled = [("outcome", "cancelled")];
    wait::until_true("it to be noticed", || {
        workload.sum("outrigger_tcp_connections_total", &cancelled) == 3.0
    });
}

#[test]
fn a_relay_on_which_nothing_moves_ends() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let server = stage.server(echo);
    let scene = scene(&stage, &[server.port], "").set("capture", "{detect: 10ms, idle: 1s}");
    let workload = stage.start(scene);
    let to = (workload.address_of("db", true), 80).into();
    let mut stream = workload.dial(to);
    stream.write_all(b"\0hello").unwrap();
    assert_eq!(read(&mut stream, 6), "\0hello");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // Nobody has ever said anything.
    assert_eq!(workload.dial(to).read(&mut [0; 1]).unwrap(), 0);
    wait::until_true("both to be counted", || ended(&workload, "timeout") == 2.0);
}

/// Thousands of short connections of all kinds leave nothing behind.
#[test]
fn short_connections_leave_nothing_behind() {
    const EACH: usize = 700;
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let (_backend, http) = stage.backend("a");
    let server = stage.server(greeting);
    let scene = scene(&stage, &[server.port], "")
        .endpoints("web", &stage.both(http))
        .set("capture", "{detect: 20ms}")
        .set("limits", "{pool_idle_max: 4}");
    let past_us = stage.outside(server.port, true);
    let to_web = stage.outside(http, true);
    let workload = stage.start(scene);
    let db: SocketAddr = (workload.address_of("db", true), 80).into();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", workload.proxy().id())).unwrap().count();
    let before = files();
    let once = |to: SocketAddr, kind: usize| {
        let Ok(mut stream) = dial(&workload.host, to) else { panic!("{to}") };
        match kind {
            0 => {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
                let mut all = String::new();
                stream.read_to_string(&mut all).unwrap();
                assert!(all.ends_with("\r\n\r\na"), "{all}");
            }
            1 => assert_eq!(read(&mut stream, GREETING.len()), GREETING),
            2 => reset(stream),
            _ => drop(stream),
        }
    };
    std::thread::scope(|scope| {
        for (kind, to) in [(0, to_web), (1, db), (1, past_us), (2, db), (3, db), (3, past_us)] {
            let once = &once;
            scope.spawn(move || (0..EACH).for_each(|_| once(to, kind)));
        }
    });
    wait::until_true("all to be gone", || workload.sum("outrigger_connections", &[]) == 0.0);
    // One that is reset may be gone before it is taken in.
    let counted = workload.sum("outrigger_captured_connections_total", &[]);
    assert!((5 * EACH..=6 * EACH).contains(&(counted as usize)), "{counted}");
    let refused = workload.sum("outrigger_captured_refused_total", &[]);
    assert_eq!(refused, 0.0, "none is taken for our own");
    // Four idle connections to each endpoint may stay, and those of this test to the admin interface.
    wait::until_true("its files to be closed", || files() <= before + 16);
}
