//! Captured clients that speak HTTP: by the address they dial they reach a service, its routes and its policy, and know
//! nothing of it. Needs root, for namespaces.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use outrigger_tests::captured::{Stage, Workload, expect_refusal, read};
use outrigger_tests::proxy::Scene;
use outrigger_tests::{guest, netlab, wait};

/// Two requests on one connection, by hand.
const PYTHON: &str = "
import http.client, socket, sys
connection = http.client.HTTPConnection('web.mesh.internal', timeout=20)
for path in ('/one', '/two'):
    connection.request('GET', path)
    print(connection.getresponse().read().decode())
family = socket.AF_INET if sys.argv[1] == '4' else socket.AF_INET6
address = socket.getaddrinfo('web.mesh.internal', 80, family)[0][4]
raw = socket.create_connection(address[:2])
raw.sendall(b'GET / HTTP/1.1\\r\\nhost: web.mesh.internal\\r\\nconnection: close\\r\\n\\r\\n')
answer = b''
while True:
    more = raw.recv(4096)
    if not more:
        break
    answer += more
print(answer.split(b'\\r\\n\\r\\n')[1].decode())
";

fn last() -> Vec<u8> {
    guest::Balancer::last().component()
}

/// `web` has two endpoints, of which its policy always picks the same.
fn picky(stage: &Stage, ports: [u16; 2], answer: &str) -> Scene {
    let mut endpoints = ports.map(|port| format!("'{}'", stage.outside(port, true)));
    endpoints.sort();
    stage
        .scene()
        .endpoints("web", &endpoints)
        .component("last", &last())
        .set("policies", "{last: {file: last.wasm}}")
        .set("services", &format!("{{web: {{balancer: last, dns: {{answer: {answer}}}}}}}"))
}

/// Who answers, asked in whatever way; always the same, since the policy says so.
fn asked(workload: &Workload, way: &[&str]) -> String {
    let first = workload.curl(way);
    for _ in 0..4 {
        assert_eq!(workload.curl(way), first, "{way:?}");
    }
    first
}

#[test]
fn an_unmodified_program_reaches_a_service_by_name_through_the_policy() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let ((a, at_a), (b, at_b)) = (stage.backend("a"), stage.backend("b"));
    let scene = picky(&stage, [at_a, at_b], "virtual");
    let workload = stage.start(scene);
    let names = workload.run("getent", &["ahosts", "web.mesh.internal"]).expect_ok("getent").out;
    assert!(names.contains("240.") || names.contains("24") && names.contains("fd6f:7574:7269:"), "{names}");
    let url = "http://web.mesh.internal/";
    let chosen = asked(&workload, &["-4", url]);
    assert_eq!(asked(&workload, &["-6", url]), chosen);
    assert_eq!(asked(&workload, &["--http1.0", url]), chosen);
    for family in ["4", "6"] {
        let said = workload.run("python3", &["-c", PYTHON, family]).expect_ok("python");
        assert_eq!(said.out.lines().collect::<Vec<_>>(), [&chosen[..]; 3]);
    }
    let (mine, other) = if chosen == "a" { (a, b) } else { (b, a) };
    assert_eq!((mine.requests(), other.requests()), (21, 0), "the policy's choice is the only one");
    assert_eq!(mine.last_head().field("x-forwarded-for"), Some(&*workload.own_address(false).to_string()));
    let metrics = workload.metrics();
    let service = ("service", "web");
    assert_eq!(metrics.sum("outrigger_requests_total", &[service, ("direction", "outbound")]), 21.0);
    assert_eq!(metrics.sum("outrigger_policy_calls_total", &[("policy", "last"), ("call", "pick")]), 21.0);
    let kinds = [("direction", "outbound"), ("kind", "http")];
    assert_eq!(metrics.sum("outrigger_captured_connections_total", &kinds), 19.0);
    wait::until_true("the access log to have it all", || {
        let log = workload.proxy().access_log();
        log.lines().filter(|line| line.contains(r#""pick":"policy""#)).count() == 21
    });
}

/// A client that has resolved endpoints itself dials one of them, and gets whom the policy picks.
#[test]
fn an_endpoint_s_address_leads_to_its_service() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let ((a, at_a), (b, at_b)) = (stage.backend("a"), stage.backend("b"));
    let scene = picky(&stage, [at_a, at_b], "endpoints");
    let alone = stage.backend("alone");
    let scene = scene.endpoints("six", &[format!("'{}'", stage.outside(alone.1, false))]).set(
        "routes",
        "[{name: by-name, match: {hosts: [web.mesh.internal], path_prefix: /routed}, service: six}]",
    );
    let (six, four) = (stage.outside(alone.1, false), stage.outside(at_a, true));
    let workload = stage.start(scene);
    let chosen = asked(&workload, &[&format!("http://{four}/")]);
    assert_eq!(asked(&workload, &[&format!("http://10.77.0.2:{at_b}/")]), chosen);
    assert_eq!(a.requests() + b.requests(), 10);
    assert!(a.requests() == 0 || b.requests() == 0, "the policy has chosen");
    assert_eq!(asked(&workload, &[&format!("http://{six}/")]), "alone");
    // Routes know the service by name, though the client names an address, or somebody else.
    for host in [format!("{four}"), "six.mesh.internal".into(), "web.mesh.internal".into()] {
        let host = format!("host: {host}");
        assert_eq!(workload.curl(&["-H", &host, &format!("http://{four}/routed")]), "alone", "{host}");
        assert_eq!(workload.curl(&["-H", &host, &format!("http://{four}/")]), chosen, "{host}");
    }
    // A name that nobody knows contradicts nothing, and no route has it.
    assert_eq!(workload.curl(&["-H", "host: x.example", &format!("http://{four}/routed")]), chosen);
    // The registry moves the endpoint: its address is nobody's, so the connection goes past us.
    let mut workload = workload;
    let mut proxy = workload.proxy.take().unwrap();
    let version = workload.host.enter(|| proxy.version());
    proxy.scene = std::mem::take(&mut proxy.scene).endpoints("six", &[]);
    proxy.scene.write();
    workload.host.enter(|| proxy.wait_for_version_after(version));
    workload.proxy = Some(proxy);
    assert_eq!(workload.curl(&[&format!("http://{six}/")]), "alone");
    assert_eq!(workload.sum("outrigger_captured_connections_total", &[("kind", "passed")]), 1.0);
}

#[test]
fn what_no_service_has_is_passed_on_or_refused() {
    for (unknown, kind) in [("pass", "passed"), ("refuse", "refused")] {
        let Some(stage) = Stage::new(", capture: {}") else { return };
        let (backend, port) = stage.backend("stranger");
        let scene = stage.scene().set("capture", &format!("{{unknown: {unknown}}}"));
        let (four, six) = (stage.outside(port, true), stage.outside(port, false));
        let workload = stage.start(scene);
        for to in [four, six] {
            if unknown == "pass" {
                assert_eq!(workload.curl(&[&format!("http://{to}/")]), "stranger");
                // Unread: what we would refuse goes through as well.
                let mut stream = workload.dial(to);
                stream.write_all(b"GET / HTTP/1.1\nhost: x\n\n").unwrap();
                expect_end_or_more(&mut stream);
            } else {
                expect_refusal(&workload.host, to, b"");
            }
        }
        assert_eq!(backend.requests() > 0, unknown == "pass");
        let kinds = [("direction", "outbound"), ("kind", kind)];
        let wanted = if unknown == "pass" { 4.0 } else { 2.0 };
        workload.wait_for_sum("outrigger_captured_connections_total", &kinds, wanted);
        // A virtual address that no service has is nobody's, whatever the setting.
        expect_refusal(&workload.host, (Ipv4Addr::new(240, 1, 2, 3), 80).into(), b"");
        let refused = [("direction", "outbound"), ("reason", "unassigned")];
        assert_eq!(workload.sum("outrigger_captured_refused_total", &refused), 1.0);
        // Nobody listens there, and the client learns it.
        let closed = SocketAddr::new(netlab::NODE6.parse().unwrap(), 9);
        expect_refusal(&workload.host, closed, b"");
    }
}

fn expect_end_or_more(stream: &mut std::net::TcpStream) {
    use std::io::Read as _;
    // The scripted backend is strict as well: it closes.
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn what_was_never_captured_is_refused() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let scene = stage.scene();
    let workload = stage.start(scene);
    for at in ["127.0.0.1:15001", "[::1]:15001"] {
        expect_refusal(&workload.host, at.parse().unwrap(), b"");
    }
    let from_outside = (workload.own_address(true), 15006).into();
    expect_refusal(&workload.lab.node, from_outside, b"");
    let refused = |direction| {
        let labels = [("direction", direction), ("reason", "not-redirected")];
        workload.sum("outrigger_captured_refused_total", &labels)
    };
    assert_eq!((refused("outbound"), refused("inbound")), (2.0, 1.0));
    let log = workload.proxy().log();
    let lines = log.lines().filter(|line| line.contains("nobody has led this connection here")).count();
    assert!((1..=4).contains(&lines), "bounded: {log}");
    // The explicit listener is where it was.
    let explicit = workload.proxy().outbound;
    let answer = workload.curl(&["-o", "/dev/null", "-w", "%{http_code}", &format!("http://{explicit}/")]);
    assert_eq!(answer, "404");
}

/// The table exempts user 1337, and the sidecar is another.
#[test]
fn a_sidecar_that_is_not_exempt_does_not_go_round_for_ever() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let (_backend, port) = stage.backend("a");
    let scene = stage.scene().by_user(1338).endpoints("web", &stage.both(port));
    let scene = scene.set("services", "{web: {dns: {answer: virtual}}}");
    let (dialled, stranger) = (stage.outside(port, true), stage.outside(9, true));
    let workload = stage.start(scene);
    for to in [dialled, stranger] {
        let said = workload.run("curl", &["-sS", "--max-time", "20", &format!("http://{to}/")]);
        assert!(said.code != Some(28), "it ends by itself: {said:?}");
        assert!(!said.out.contains('a') || said.out.contains("reason"), "{said:?}");
    }
    assert!(workload.sum("outrigger_captured_refused_total", &[("reason", "loop")]) >= 2.0);
    assert!(workload.sum("outrigger_captured_connections_total", &[]) < 200.0);
    assert!(workload.proxy().log().contains("a connection of our own came back to us"));
}

/// Unread bytes on a captured connection are nobody's but the exchange's: pipelining works as it does without capture.
#[test]
fn pipelined_requests_and_a_late_start_are_served() {
    let Some(stage) = Stage::new(", capture: {}") else { return };
    let (backend, port) = stage.backend("a");
    let scene = stage.scene().endpoints("web", &stage.both(port)).set("capture", "{detect: 50ms}");
    let scene = scene.set("services", "{web: {dns: {answer: virtual}}}").set("workers", "1");
    let workload = stage.start(scene);
    let to = (workload.address_of("web", true), 80).into();
    let mut stream = workload.dial(to);
    let request = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    let answer = "HTTP/1.1 200 OK\r\nx-backend: a\r\ncontent-length: 1\r\n\r\na";
    assert_eq!(read(&mut stream, answer.len() * 2), answer.repeat(2));
    // One that says nothing for longer than `detect`: an endpoint is connected to, and the client may still begin.
    let mut late = workload.dial(to);
    wait::until_true("an endpoint to be connected to", || {
        workload.sum("outrigger_upstream_connects_total", &[("service", "web")]) >= 2.0
    });
    late.write_all(&request.as_bytes()[..7]).unwrap();
    wait::until_true("the first part to have come", || backend.connections() == 2);
    late.write_all(&request.as_bytes()[7..]).unwrap();
    assert_eq!(read(&mut late, answer.len()), answer);
    assert_eq!(workload.sum("outrigger_captured_connections_total", &[("kind", "http")]), 2.0);
    assert_eq!(backend.requests(), 3);
}
