//! The conformance suite: one case for each report of a broken name service in a sidecar that we know of, asked by
//! clients that are not ours. `proxy/DNS.md` lists the cases with their reports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::resolver::{A, Question, Reply, Resolver, wire};
use outrigger_tests::{dig, program};

const TIME_MAX: Duration = Duration::from_secs(10);

/// One service with so many endpoints, and a resolver for other names.
fn proxy(endpoints: usize, upstream: &Resolver) -> Proxy {
    let addresses: Vec<String> =
        (0..endpoints).map(|n| format!("10.2.{}.{}:80", n / 250, n % 250 + 1)).collect();
    Scene::new()
        .endpoints("web", &addresses)
        .set("services", "{web: {dns: {wildcard: true}}}")
        .set("dns", &format!("{{listen: '127.0.0.1:0', forward: {{servers: '{}'}}}}", upstream.address))
        .start()
}

/// `large` has 120 addresses, `middle` 60; nothing else exists.
fn upstream() -> Resolver {
    Resolver::start(|question| {
        let whole = match question.name.as_str() {
            "large.example" if question.kind == A => question.addresses(120, 60),
            "middle.example" if question.kind == A => compact(question, 60),
            _ => question.nothing(3),
        };
        let fits = question.tcp || whole.bytes.len() <= 1232;
        vec![if fits { whole } else { question.reply(0).changed(|bytes| bytes[2] |= 2) }]
    })
}

/// Addresses whose owner is a pointer to the question, 16 bytes each.
fn compact(question: &Question, count: u8) -> Reply {
    question.reply(0).changed(|bytes| {
        bytes[7] = count;
        for n in 0..count {
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 3, 0, n]);
        }
    })
}

/// What is sent by hand, and comes back.
fn over_udp(at: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(TIME_MAX)).unwrap();
    socket.send_to(message, at).unwrap();
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

fn query(id: u8, name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(wire(name));
    bytes.extend([0, kind, 0, 1]);
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(TIME_MAX)).unwrap();
    stream
}

fn next_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn python(script: &str, at: SocketAddr) -> String {
    let port = at.port().to_string();
    let said = program::tool("/usr/bin/python3", &["-c", script, &port], Path::new("/"));
    said.expect_ok("python3 with dnspython").out.trim().to_owned()
}

#[test]
fn large_answers_are_cut_at_512_bytes_for_clients_without_edns_and_whole_over_tcp() {
    let upstream = upstream();
    let proxy = proxy(200, &upstream);
    for (name, all) in [("web.mesh.internal", 200), ("large.example", 120)] {
        let cut = dig::ask(proxy.dns(), &[name, "A", "+noedns", "+ignore"]);
        assert!(cut.flags.contains("tc"), "{name}: {}", cut.text);
        assert!(size(&cut) <= 512 && !cut.records.is_empty() && cut.records.len() < all, "{}", cut.text);
        let whole = dig::ask(proxy.dns(), &[name, "A", "+noedns"]);
        assert_eq!(whole.records.len(), all, "{name} over TCP");
        let script = format!(
            "import sys, dns.message, dns.query\n\
             q = dns.message.make_query('{name}', 'A', use_edns=False)\n\
             r, tcp = dns.query.udp_with_fallback(q, '127.0.0.1', port=int(sys.argv[1]), timeout=10)\n\
             print(tcp, sum(len(s) for s in r.answer))"
        );
        assert_eq!(python(&script, proxy.dns()), format!("True {all}"));
    }
}

#[test]
fn a_client_with_edns_gets_up_to_1232_bytes_at_once() {
    let upstream = upstream();
    let proxy = proxy(60, &upstream);
    for name in ["web.mesh.internal", "middle.example"] {
        let answer = dig::ask(proxy.dns(), &[name, "A", "+bufsize=4096", "+ignore"]);
        assert_eq!(answer.records.len(), 60, "{name}: {}", answer.text);
        assert!(!answer.flags.contains("tc"), "{}", answer.text);
        let small = dig::ask(proxy.dns(), &[name, "A", "+bufsize=600", "+ignore"]);
        assert!(small.flags.contains("tc") && size(&small) <= 600, "{}", small.text);
    }
    assert!(upstream.all_heard().iter().all(|question| !question.tcp), "it is asked with EDNS, too");
}

/// 25 addresses are 435 bytes with names that point to the question, and 885 without.
#[test]
fn names_are_compressed() {
    let upstream = upstream();
    let answer = dig::ask(proxy(25, &upstream).dns(), &["web.mesh.internal", "A", "+noedns", "+ignore"]);
    assert_eq!((answer.records.len(), answer.flags.contains("tc")), (25, false), "{}", answer.text);
}

#[test]
fn no_data_is_not_no_such_name() {
    let upstream = Resolver::start(|question| {
        let exists = question.name == "v4.example";
        vec![match (exists, question.kind) {
            (true, A) => question.addresses(1, 60),
            (true, _) => question.nothing(0),
            (false, _) => question.nothing(3),
        }]
    });
    let proxy = proxy(1, &upstream);
    for name in ["web.mesh.internal", "v4.example"] {
        let none = dig::ask(proxy.dns(), &[name, "AAAA"]);
        assert_eq!((none.status.as_str(), none.records.len()), ("NOERROR", 0), "{name}: {}", none.text);
        assert!(none.text.contains("SOA"), "how long that holds: {}", none.text);
        assert_eq!(dig::ask(proxy.dns(), &[name, "A"]).records.len(), 1);
    }
    for name in ["none.mesh.internal", "none.example"] {
        let none = dig::ask(proxy.dns(), &[name, "A"]);
        assert_eq!(none.status, "NXDOMAIN", "{}", none.text);
        assert!(none.text.contains("SOA"), "{}", none.text);
    }
}

#[test]
fn that_nobody_answers_is_not_no_such_name() {
    let upstream = upstream();
    let proxy = proxy(1, &upstream);
    drop(upstream);
    assert_eq!(dig::ask(proxy.dns(), &["www.example", "A"]).status, "SERVFAIL");
}

#[test]
fn the_question_comes_back_as_it_was_spelt() {
    let upstream = Resolver::start(|question| vec![question.addresses(1, 60)]);
    let proxy = proxy(1, &upstream);
    for name in ["wEb.MESH.internaL", "WwW.eXample", "wWw.Example"] {
        let message = query(7, name, 1);
        let reply = over_udp(proxy.dns(), &message).expect("a reply");
        assert_eq!(reply[12..message.len()], message[12..]);
        assert_eq!(reply[7], 1, "one address");
    }
    assert_eq!(upstream.all_heard().len(), 1, "one name, however it is spelt");
    // dnspython compares the question with the reply's.
    let script = "import sys, dns.message, dns.query\n\
                  q = dns.message.make_query('WEB.mesh.INTERNAL', 'A')\n\
                  r = dns.query.udp(q, '127.0.0.1', port=int(sys.argv[1]), timeout=10)\n\
                  print(r.answer[0].name, len(r.answer[0]))";
    assert!(python(script, proxy.dns()).ends_with(" 1"));
}

#[test]
fn delv_takes_the_answers() {
    let upstream = Resolver::start(|question| vec![question.addresses(1, 60)]);
    let proxy = proxy(1, &upstream);
    let port = proxy.dns().port().to_string();
    for name in ["web.mesh.internal", "www.example"] {
        let said = program::tool("delv", &["@127.0.0.1", "-p", &port, "-i", name, "A"], Path::new("/"));
        assert!(said.out.contains("IN A\t10.") || said.out.contains("A\t10."), "{said:?}");
    }
}

#[test]
fn many_messages_come_over_one_connection() {
    let upstream = Resolver::start(|question| vec![question.addresses(1, 60)]);
    let proxy = proxy(1, &upstream);
    let mut stream = connect(proxy.dns());
    let names = ["web.mesh.internal", "a.example", "b.example", "web.mesh.internal", "c.example"];
    let together: Vec<u8> =
        names.iter().enumerate().flat_map(|(id, name)| framed(&query(id as u8, name, 1))).collect();
    stream.write_all(&together).unwrap();
    let mut ids: Vec<u8> = names.iter().map(|_| next_message(&mut stream)[1]).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4], "in whatever order");
    // And one after the other, with dig.
    let words =
        ["+tcp", "+keepopen", "+short", "web.mesh.internal", "A", "d.example", "A", "web.mesh.internal", "A"];
    let answer = dig::ask(proxy.dns(), &words);
    assert_eq!(answer.text.lines().filter(|line| line.starts_with("10.")).count(), 3, "{}", answer.text);
}

/// It sends one byte, and then nothing for as long as the others ask.
#[test]
fn a_slow_tcp_client_holds_up_nobody_else() {
    let upstream = Resolver::start(|question| vec![question.addresses(1, 60)]);
    let proxy = proxy(1, &upstream);
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(proxy.dns())).collect();
    for stream in &mut slow {
        stream.write_all(&[0]).unwrap();
    }
    let started = Instant::now();
    for n in 0..10 {
        let answer = dig::ask(proxy.dns(), &[&format!("n{n}.example"), "A", "+tcp"]);
        assert_eq!(answer.records.len(), 1, "{}", answer.text);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // It may go on in the end.
    let message = framed(&query(9, "web.mesh.internal", 1));
    slow[0].write_all(&message[1..]).unwrap();
    assert_eq!(next_message(&mut slow[0])[1], 9);
}

/// Each of these made a server of this kind loop or die. All others are answered meanwhile.
#[test]
fn lengths_that_lie_end_their_own_connection_only() {
    let upstream = upstream();
    let proxy = proxy(1, &upstream);
    let message = query(1, "web.mesh.internal", 1);
    let with_length = |length: u16| [&length.to_be_bytes()[..], &message].concat();
    let short = u16::try_from(message.len()).unwrap() - 5;
    for bytes in [vec![0, 0], vec![0, 1, 0], with_length(short), with_length(11), vec![0xff; 70_000]] {
        let mut stream = connect(proxy.dns());
        // It may close before it has all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 1_000, "{} bytes", rest.len());
        assert_eq!(dig::ask(proxy.dns(), &["web.mesh.internal", "A", "+tcp"]).records.len(), 1);
    }
}

/// A and AAAA at once from one port, as the C library asks: neither may wait for the other.
#[test]
fn both_families_are_answered_when_asked_at_once() {
    let upstream = Resolver::start(|question| vec![question.addresses(1, 60)]);
    let proxy = proxy(1, &upstream);
    for name in ["web.mesh.internal", "www.example"] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(TIME_MAX)).unwrap();
        let started = Instant::now();
        for kind in [1, 28] {
            socket.send_to(&query(kind, name, kind), proxy.dns()).unwrap();
        }
        let mut ids = [0; 2].map(|_: u8| {
            let mut buffer = [0; 512];
            socket.recv(&mut buffer).unwrap();
            buffer[1]
        });
        ids.sort_unstable();
        assert_eq!(ids, [1, 28]);
        assert!(started.elapsed() < Duration::from_secs(2), "{name}: {:?}", started.elapsed());
    }
}

/// In bytes, as dig says.
fn size(answer: &dig::Answer) -> usize {
    let rest = answer.text.split_once("MSG SIZE  rcvd: ").map(|(_, rest)| rest).unwrap_or_default();
    rest.split_whitespace().next().and_then(|size| size.parse().ok()).unwrap_or(usize::MAX)
}
