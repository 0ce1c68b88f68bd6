//! The embedded registry answers Consul's DNS names, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use outrigger_tests::registry::{Home, Registry};

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;

/// What is looked at in an answer.
#[derive(Debug)]
struct Answer {
    code: u8,
    authoritative: bool,
    truncated: bool,
    /// Type and data of each record, by section.
    answers: Vec<(u16, Vec<u8>)>,
    authorities: Vec<(u16, Vec<u8>)>,
    additionals: Vec<(u16, Vec<u8>)>,
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, u8::try_from(kind).unwrap(), 0, 1]);
    bytes
}

fn over_udp(dns: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(bytes, dns).unwrap();
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn over_tcp(dns: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(dns).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, bytes].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn ask(registry: &Registry, name: &str, kind: u16) -> Answer {
    let dns = registry.dns.expect("a DNS address");
    read(&over_udp(dns, &question(name, kind)).expect("an answer"))
}

fn read(bytes: &[u8]) -> Answer {
    assert_eq!(bytes[..2], [0x12, 0x34]);
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut at = after_name(bytes, 12) + 4;
    let mut section = |count: u16| {
        let mut records = Vec::new();
        for _ in 0..count {
            at = after_name(bytes, at);
            let length = usize::from(number(at + 8));
            records.push((number(at), bytes[at + 10..at + 10 + length].to_vec()));
            at += 10 + length;
        }
        records
    };
    let (answers, authorities, additionals) = (section(number(6)), section(number(8)), section(number(10)));
    let (code, flags) = (bytes[3] & 0x0f, bytes[2]);
    let (authoritative, truncated) = (flags & 4 != 0, flags & 2 != 0);
    Answer { code, authoritative, truncated, answers, authorities, additionals }
}

fn after_name(bytes: &[u8], mut at: usize) -> usize {
    while bytes[at] != 0 {
        if bytes[at] & 0xc0 == 0xc0 {
            return at + 2;
        }
        at += 1 + usize::from(bytes[at]);
    }
    at + 1
}

fn registry() -> Registry {
    Home::new("dns: {listen: '127.0.0.1:0', ttl: 5s}\nnode: {name: n1}\n").start()
}

fn register(registry: &Registry, id: &str, address: &str, status: &str) {
    let body = format!(
        r#"{{"Name": "web", "ID": "{id}", "Port": 8080, "Address": "{address}", "Tags": ["{id}"],
            "Weights": {{"Passing": 3}}, "Check": {{"TTL": "60s", "Status": "{status}"}}}}"#
    );
    registry.put("/v1/agent/service/register", body);
}

#[test]
fn services_and_nodes_have_names() {
    let registry = registry();
    register(&registry, "a", "10.0.0.1", "passing");
    register(&registry, "b", "fd00::1", "warning");
    register(&registry, "c", "", "passing");
    register(&registry, "down", "10.0.0.9", "critical");
    let answer = ask(&registry, "WEB.service.consul", A);
    let mut found: Vec<_> = answer.answers.clone();
    found.sort();
    assert_eq!(found, [(A, vec![10, 0, 0, 1]), (A, vec![127, 0, 0, 1])]);
    assert!(answer.authoritative && answer.code == 0, "{answer:?}");
    assert_eq!(ask(&registry, "web.service.dc1.consul", AAAA).answers.len(), 1);
    assert_eq!(ask(&registry, "a.web.service.consul", A).answers, [(A, vec![10, 0, 0, 1])]);
    assert_eq!(ask(&registry, "n1.node.consul", A).answers, [(A, vec![127, 0, 0, 1])]);
    assert_eq!(ask(&registry, "0a000001.addr.dc1.consul", A).answers, [(A, vec![10, 0, 0, 1])]);

    let srv = ask(&registry, "_web._tcp.service.consul", SRV);
    assert_eq!((srv.answers.len(), srv.additionals.len()), (3, 3), "{srv:?}");
    assert!(srv.answers.iter().all(|(kind, data)| *kind == SRV && data[..6] == [0, 1, 0, 3, 0x1f, 0x90]));

    registry.put("/v1/agent/service/maintenance/a?enable=true", "");
    let nothing = ask(&registry, "a.web.service.consul", A);
    assert_eq!((nothing.code, nothing.authorities[0].0), (NO_SUCH_NAME, SOA));
    let no_data = ask(&registry, "n1.node.consul", AAAA);
    assert_eq!((no_data.code, no_data.answers.len(), no_data.authorities[0].0), (0, 0, SOA));
    assert_eq!(ask(&registry, "none.service.consul", A).code, NO_SUCH_NAME);
    assert_eq!(ask(&registry, "web.service.dc2.consul", A).code, NO_SUCH_NAME);
    assert_eq!(ask(&registry, "example.com", A).code, REFUSED);
}

#[test]
fn what_is_too_large_for_udp_comes_over_tcp() {
    let registry = registry();
    for n in 0..60 {
        register(&registry, &format!("i{n}"), &format!("10.0.0.{n}"), "passing");
    }
    let short = ask(&registry, "web.service.consul", A);
    assert!(short.truncated && (1..60).contains(&short.answers.len()), "{}", short.answers.len());
    let dns = registry.dns.unwrap();
    let whole = read(&over_tcp(dns, &question("web.service.consul", A)));
    assert!(!whole.truncated);
    assert_eq!(whole.answers.len(), 60);
}

#[test]
fn nonsense_does_no_harm() {
    let registry = registry();
    let dns = registry.dns.unwrap();
    let cut = over_udp(dns, &question("web.service.consul", A)[..20]).expect("an answer");
    assert_eq!(cut[3] & 0x0f, 1, "a format error");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for junk in [&[][..], &[0; 5], &[0xff; 600]] {
        socket.send_to(junk, dns).unwrap();
    }
    assert_eq!(ask(&registry, "n1.node.consul", A).answers.len(), 1);
}

#[test]
fn dns_knows_no_tokens() {
    let home = Home::new("dns: {listen: '127.0.0.1:0'}\ntokens: [{name: a, token: s3cret}]\n");
    assert_eq!(home.spawn().wait().unwrap().code(), Some(1));
    assert!(home.log().contains("DNS knows neither tokens nor certificates"), "{}", home.log());
}
