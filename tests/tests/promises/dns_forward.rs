//! Names of others are asked upstream and kept, and answers are right although resolvers die, are slow or lie.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use outrigger_tests::authority::Authority;
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::resolver::{A, CNAME, Question, Reply, Resolver, TXT, wire};
use outrigger_tests::unbound::Unbound;
use outrigger_tests::{dig, wait};

use dig::Answer;

const FAILURES: &str = "outrigger_dns_upstream_failures_total";
const UP: &str = "outrigger_dns_upstream_up";
const CACHE: &str = "outrigger_dns_cache_total";

/// A proxy that asks these, with more settings of `forward`.
fn proxy(upstreams: &[&Resolver], more: &str) -> Proxy {
    let servers: Vec<String> = upstreams.iter().map(|upstream| format!("'{}'", upstream.address)).collect();
    forwarding(&format!("servers: [{}]{more}", servers.join(", "))).start()
}

/// Its one service is not asked for.
fn forwarding(forward: &str) -> Scene {
    let scene = Scene::new().endpoints("web", &["'127.0.0.1:1'".to_owned()]);
    scene.set("dns", &format!("{{listen: '127.0.0.1:0', forward: {{{forward}}}}}"))
}

fn ask(proxy: &Proxy, name: &str) -> Answer {
    dig::ask(proxy.dns(), &[name, "A"])
}

fn failures(proxy: &Proxy, upstream: &Resolver, reason: &str) -> f64 {
    let upstream = upstream.address.to_string();
    proxy.metrics().sum(FAILURES, &[("upstream", &upstream), ("reason", reason)])
}

fn is_up(proxy: &Proxy, address: SocketAddr) -> bool {
    proxy.metrics().sum(UP, &[("upstream", &address.to_string())]) > 0.0
}

/// So many addresses for every name, for a minute.
fn answering(count: u8) -> Resolver {
    Resolver::start(move |question| vec![question.addresses(count, 60)])
}

#[test]
fn a_resolver_that_is_killed_is_left_out_until_it_is_back() {
    let (one, other) = (answering(1), answering(1));
    let proxy = proxy(&[&one, &other], "");
    let names = ["a.example", "b.example", "c.example"];
    assert!(names.iter().all(|name| ask(&proxy, name).records == ["10.1.0.0"]));
    let address = one.address;
    drop(one);
    let mut asked = 0;
    wait::until_true("the dead resolver to be noticed", || {
        asked += 1;
        let answer = ask(&proxy, &format!("n{asked}.example"));
        assert_eq!(answer.records, ["10.1.0.0"], "{}", answer.text);
        !is_up(&proxy, address)
    });
    let (sent, name) = ("outrigger_dns_upstream_queries_total", address.to_string());
    let of_the_dead = proxy.metrics().sum(sent, &[("upstream", &name)]);
    for n in 0..20 {
        assert_eq!(ask(&proxy, &format!("m{n}.example")).records, ["10.1.0.0"]);
    }
    let probes = proxy.metrics().sum(sent, &[("upstream", &name)]) - of_the_dead;
    assert!(probes <= 10.0, "only probes go to it: {probes}");
    let _back = Resolver::start_at(address, |question| vec![question.addresses(1, 60)]);
    wait::until_true("the resolver to be asked again", || is_up(&proxy, address));
}

#[test]
fn when_all_are_dead_what_was_known_is_served_and_the_rest_fails_with_a_reason() {
    let upstream = Resolver::start(|question| vec![question.addresses(2, 1)]);
    let proxy = proxy(&[&upstream], ", timeout: 1s");
    assert_eq!(ask(&proxy, "known.example").records.len(), 2);
    drop(upstream);
    let stale = wait::until("the answer to expire", || {
        Some(ask(&proxy, "known.example")).filter(|answer| answer.text.contains("Stale Answer"))
    });
    assert_eq!((stale.status.as_str(), stale.records.len(), stale.ttl), ("NOERROR", 2, Some(30)));
    assert!(proxy.metrics().sum(CACHE, &[("result", "stale")]) >= 1.0);
    let unknown = ask(&proxy, "unknown.example");
    assert_eq!(unknown.status, "SERVFAIL", "not NXDOMAIN: nobody knows");
    assert!(unknown.text.contains("EDE: 23"), "{}", unknown.text);
}

#[test]
fn lies_are_counted_and_never_believed() {
    let lies = |question: &Question| {
        let wrong = question.addresses(9, 60);
        let wrong_id = wrong.clone().changed(|bytes| bytes[0] ^= 0x55);
        let wrong_name = wrong.clone().changed(|bytes| bytes[13] ^= 1);
        let over_long = wrong.changed(|bytes| bytes.extend([0; 2000]));
        vec![wrong_id, wrong_name, over_long.changed(|bytes| bytes[1] ^= 1), question.addresses(1, 60)]
    };
    let liar = Resolver::start(lies);
    let proxy = proxy(&[&liar], "");
    for n in 0..20 {
        assert_eq!(ask(&proxy, &format!("n{n}.example")).records, ["10.1.0.0"]);
    }
    assert_eq!(failures(&proxy, &liar, "wrong-id"), 40.0);
    assert_eq!(failures(&proxy, &liar, "wrong-question"), 20.0);
    assert!(is_up(&proxy, liar.address), "somebody lies in its name");
}

#[test]
fn what_is_malformed_or_too_long_is_asked_elsewhere() {
    let broken = Resolver::start(|question| {
        let reply = question.addresses(2, 60);
        vec![match question.name.as_bytes()[0] % 3 {
            0 => reply.changed(|bytes| bytes.truncate(bytes.len() - 3)),
            1 => reply.changed(|bytes| bytes.resize(1400, 0)),
            _ => reply.changed(|bytes| bytes.extend(b"more")),
        }]
    });
    let good = answering(1);
    let proxy = proxy(&[&broken, &good], "");
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(ask(&proxy, name).records, ["10.1.0.0"], "{name}");
    }
    assert!(failures(&proxy, &broken, "malformed") >= 1.0);
}

#[test]
fn what_is_truncated_is_asked_over_tcp() {
    let text = |n: u8| [&[200][..], &[b'a' + n; 200]].concat();
    let upstream = Resolver::start(move |question| {
        let whole =
            (0..10).fold(question.reply(0), |reply, n| reply.answer(&question.name, TXT, 60, &text(n)));
        vec![if question.tcp { whole } else { question.reply(0).changed(|bytes| bytes[2] |= 2) }]
    });
    let proxy = proxy(&[&upstream], "");
    let answer = dig::ask(proxy.dns(), &["large.example", "TXT"]);
    assert_eq!(answer.records.len(), 10, "dig comes over TCP as well: {}", answer.text);
    assert!(answer.text.contains("Truncated, retrying in TCP mode"), "{}", answer.text);
    assert_eq!(failures(&proxy, &upstream, "truncated"), 1.0);
    let ways: Vec<bool> = upstream.all_heard().iter().map(|question| question.tcp).collect();
    assert_eq!(ways, [false, true]);
}

/// It answers when it is asked for the second time.
#[test]
fn a_slow_resolver_holds_up_nobody_else() {
    let waiting = outrigger_tests::shared::Shared::new(BTreeSet::new());
    let slow = Resolver::start(move |question| {
        let again =
            !question.name.starts_with("slow") || waiting.with(|names| !names.insert(question.name.clone()));
        if again { vec![question.addresses(3, 60)] } else { Vec::new() }
    });
    let proxy = proxy(&[&slow], "");
    let dns = proxy.dns();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| ask(&proxy, "slow.example"));
        for n in 0..20 {
            let started = Instant::now();
            assert_eq!(dig::ask(dns, &[&format!("n{n}.example"), "A"]).records.len(), 3);
            assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
        }
        assert_eq!(held.join().unwrap().records.len(), 3);
    });
    assert_eq!(failures(&proxy, &slow, "timeout"), 1.0);
}

#[test]
fn a_flood_of_unique_names_is_bounded_and_others_get_right_answers() {
    let upstream = Resolver::start(|question| match question.name.ends_with("flood.example") {
        true => Vec::new(),
        false => vec![question.addresses(1, 60)],
    });
    let proxy = proxy(&[&upstream], "");
    assert_eq!(ask(&proxy, "warm.other").records, ["10.1.0.0"]);
    let before_kib = proxy.resident_kib();
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..10_000_u32 {
        flood.send_to(&query(&format!("u{n}.flood.example")), proxy.dns()).unwrap();
        if n % 1_000 == 0 {
            let answer = ask(&proxy, &format!("good{n}.other"));
            assert_eq!(answer.records, ["10.1.0.0"], "{}", answer.text);
        }
    }
    let metrics = proxy.metrics();
    assert!(metrics.sum("outrigger_dns_forward_refused_total", &[("limit", "domain")]) > 1_000.0);
    assert!(metrics.sum("outrigger_dns_forward_in_flight", &[]) <= 256.0);
    let grown_kib = proxy.resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 16 * 1024, "{grown_kib} KiB");
    wait::until_true("the flood to be over", || {
        proxy.metrics().sum("outrigger_dns_forward_in_flight", &[]) == 0.0
    });
}

#[test]
fn the_cache_is_bounded_and_what_is_used_stays() {
    let upstream = answering(1);
    let proxy = proxy(&[&upstream], ", cache: {entries_max: 200, bytes_max: 64KiB}");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 2048];
    for n in 0..3_000 {
        for name in [format!("once{n}.example"), "used.example".to_owned()] {
            client.send_to(&query(&name), proxy.dns()).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length][7], 1, "one address");
        }
    }
    let metrics = proxy.metrics();
    assert!(metrics.sum("outrigger_dns_cache_entries", &[]) <= 200.0);
    assert!(metrics.sum("outrigger_dns_cache_bytes", &[]) <= 65_536.0);
    assert!(metrics.sum("outrigger_dns_cache_evictions_total", &[]) >= 2_800.0);
    assert_eq!(upstream.heard("used.example"), 1);
}

#[test]
fn domains_have_resolvers_of_their_own() {
    let (inner, others) = (answering(2), answering(1));
    let forward =
        format!("servers: '{}', domains: {{corp.example: 'tcp://{}'}}", others.address, inner.address);
    let proxy = forwarding(&forward).start();
    assert_eq!(ask(&proxy, "www.corp.example").records.len(), 2);
    assert_eq!(ask(&proxy, "www.example").records.len(), 1);
    assert!(inner.all_heard().iter().all(|question| question.tcp));
}

#[test]
fn a_changed_resolv_conf_is_taken_while_the_proxy_runs() {
    // Such a file has no ports, so the proxy is told of an address where nobody is, and then of none.
    let scene = forwarding("resolv_conf: resolv.conf, timeout: 1s");
    scene.replace("resolv.conf", b"nameserver 127.0.0.201\n");
    let proxy = scene.start();
    let nobody = |address: &str| {
        assert_eq!(ask(&proxy, &format!("x{}.example", address.replace('.', "-"))).status, "SERVFAIL");
        proxy.metrics().text.contains(&format!("{UP}{{upstream=\"{address}:53\"}}"))
    };
    assert!(nobody("127.0.0.201"));
    proxy.scene.replace("resolv.conf", b"nameserver 127.0.0.202\n");
    wait::until_true("the new list", || nobody("127.0.0.202"));
    let text = proxy.metrics().text;
    assert!(!text.contains("127.0.0.201"), "who has left is not counted any more");
}

#[test]
fn what_asks_for_signatures_or_more_gets_what_the_resolver_says() {
    let upstream = Resolver::start(|question| {
        let reply = question.addresses(1, 60);
        let signed = if question.dnssec { reply.signature(&question.name, A).opt(&[]) } else { reply };
        vec![signed]
    });
    let proxy = proxy(&[&upstream], "");
    assert_eq!(ask(&proxy, "a.example").records.len(), 1);
    let signed = dig::ask(proxy.dns(), &["a.example", "A", "+dnssec", "+cdflag"]);
    assert_eq!(signed.records.len(), 2, "{}", signed.text);
    assert!(signed.text.contains("RRSIG") && signed.flags.contains("cd"), "{}", signed.text);
    // The client's network goes along; its cookie does not.
    let subnet = dig::ask(proxy.dns(), &["b.example", "A", "+subnet=192.0.2.0/24", "+cookie"]);
    assert_eq!(subnet.records.len(), 1);
    let heard = upstream.all_heard();
    let last = &heard.last().unwrap().message;
    assert!(last.windows(7).any(|part| part == [0, 8, 0, 7, 0, 1, 24]), "{last:02x?}");
    assert!(!last.windows(3).any(|part| part == [0, 10, 0]), "{last:02x?}");
    // A type that nobody has heard of.
    assert_eq!(dig::ask(proxy.dns(), &["c.example", "TYPE65400"]).status, "NOERROR");
}

#[test]
fn a_chain_of_names_is_passed_on_in_order() {
    let upstream = Resolver::start(|question| {
        let chain: Reply = ["www.example", "cdn.example", "edge.example"]
            .windows(2)
            .fold(question.reply(0), |reply, two| reply.answer(two[0], CNAME, 60, &wire(two[1])));
        vec![chain.answer("edge.example", A, 60, &[10, 9, 9, 9])]
    });
    let proxy = proxy(&[&upstream], "");
    for _ in 0..2 {
        assert_eq!(ask(&proxy, "www.example").records, ["cdn.example.", "edge.example.", "10.9.9.9"]);
    }
    assert_eq!(upstream.all_heard().len(), 1);
}

/// A real unbound, and certificates that are right, for another name, and by somebody else.
#[test]
fn resolvers_over_tls_are_asked_if_they_can_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let identity = ours.issue("dns", &["dns.example"]);
    let unbound = Unbound::start(&identity, &["www.example. 60 A 10.5.0.1", "a.example. 60 A 10.5.0.2"]);
    let forward = |name: &str, authority: &Authority| {
        let (server, ca) = (unbound.address, authority.file.display());
        forwarding(&format!("servers: 'tls://{server}#{name}', tls: {{ca_file: '{ca}'}}, timeout: 2s"))
            .start()
    };
    let trusted = forward("dns.example", &ours);
    assert_eq!(ask(&trusted, "www.example").records, ["10.5.0.1"]);
    assert_eq!(ask(&trusted, "a.example").records, ["10.5.0.2"]);
    assert_eq!(ask(&trusted, "none.example").status, "NXDOMAIN");
    for proxy in [forward("other.example", &ours), forward("dns.example", &theirs)] {
        assert_eq!(
            ask(&proxy, "www.example").status,
            "SERVFAIL",
            "strict: no answer is better than a forged one"
        );
        assert!(proxy.metrics().sum(FAILURES, &[("reason", "tls")]) >= 1.0);
    }
}

/// Type A.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(wire(name));
    bytes.extend([0, 1, 0, 1]);
    bytes
}
