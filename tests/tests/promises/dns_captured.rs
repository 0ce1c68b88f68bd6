//! A captured workload: whatever resolver it believes it asks, by UDP or TCP, glibc's and musl's resolvers get right
//! answers from the sidecar. Part of the conformance suite; needs root, for a network of its own.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use outrigger_tests::netns::{Host, Network};
use outrigger_tests::program::{self, Said, say};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::resolver::{A, AAAA, CNAME, Resolver, wire};

/// What resolv.conf says in containers, on desktops, in clusters, and where there is IPv6 only.
const BELIEVED: [&str; 4] = ["127.0.0.11", "127.0.0.53", "10.96.0.10", "fd00:10::53"];

/// All that goes to port 53 comes to the sidecar.
const CAPTURE: &str = "\
table inet capture {
  chain output {
    type nat hook output priority -100; policy accept;
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
  }
}
";

/// The host's network goes last.
struct Workload {
    proxy: Proxy,
    upstream: Resolver,
    host: Host,
    _network: Network,
}

impl Workload {
    /// `None` without root. `servers`: asked before the scripted one.
    fn start(servers: &str) -> Option<Self> {
        let mut network = Network::new()?;
        let host = network.host("workload");
        // The addresses that resolv.conf names need to have a way, though nothing is there.
        let ways = "addr add fd77::1/64 dev eth0 nodad\nroute add default dev eth0\nroute add fd00:10::/64 dev eth0\n";
        host.tool("ip", &["-batch", "-"], ways);
        host.tool("nft", &["-f", "-"], CAPTURE);
        let (proxy, upstream) = host.enter(|| {
            let upstream = upstream();
            let forward = format!("{{servers: [{servers}'{}']}}", upstream.address);
            let dns = format!(
                "{{listen: ['127.0.0.1:15053', '[::1]:15053'], search: [mesh.internal], forward: {forward}}}"
            );
            let endpoints = ["'10.2.0.1:80'".to_owned(), "'[fd02::1]:80'".to_owned()];
            let scene = Scene::new().endpoints("web", &endpoints).set("dns", &dns);
            (scene.set("services", "{web: {dns: {wildcard: true}}}").start(), upstream)
        });
        Some(Self { proxy, upstream, host, _network: network })
    }

    fn believe(&self, resolver: &str, more: &str) {
        self.host.believe_resolvers(&format!("nameserver {resolver}\n{more}"));
    }

    /// glibc's own tool.
    fn getent(&self, database: &str, name: &str) -> Said {
        say(self.host.command("getent").args([database, name]))
    }

    /// `resolve.c` with one of the C libraries: addresses and the canonical name.
    fn resolve(&self, libc: Libc, name: &str, family: &str) -> (Vec<String>, String) {
        let said = say(self.host.command(libc.program()).args([name, family]));
        let of = |word: &str| {
            let lines = said.out.lines().filter_map(|line| line.strip_prefix(word));
            lines.map(|rest| rest.trim().to_owned()).collect::<Vec<_>>()
        };
        let mut addresses = of("address ");
        addresses.sort();
        (addresses, of("canonical ").concat())
    }
}

#[derive(Debug, Clone, Copy)]
enum Libc {
    Glibc,
    Musl,
}

const BOTH: [Libc; 2] = [Libc::Glibc, Libc::Musl];

impl Libc {
    fn program(self) -> &'static str {
        static PROGRAMS: OnceLock<[String; 2]> = OnceLock::new();
        let programs = PROGRAMS.get_or_init(|| [("gcc", "glibc"), ("musl-gcc", "musl")].map(build));
        &programs[self as usize]
    }
}

fn build((compiler, libc): (&str, &str)) -> String {
    let source = program::root().join("tests/dns/resolve.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("resolve-{libc}"));
    // musl's own libraries need not be where the loader looks.
    let mut command = Command::new(compiler);
    command.args(if libc == "musl" { &["-static"][..] } else { &[] });
    say(command.arg("-o").arg(&program).arg(source)).expect_ok(compiler);
    program.to_str().unwrap().to_owned()
}

/// `www.example` is two links away from its address; `large.example` has 100; nothing else exists.
fn upstream() -> Resolver {
    Resolver::start(|question| {
        let name = question.name.as_str();
        let whole = match (name, question.kind) {
            ("www.example", A | AAAA) => {
                let reply = question.reply(0).answer(name, CNAME, 60, &wire("cdn.example"));
                let reply = reply.answer("cdn.example", CNAME, 60, &wire("edge.example"));
                match question.kind {
                    A => reply.answer("edge.example", A, 60, &[10, 9, 9, 9]),
                    _ => reply.answer(
                        "edge.example",
                        AAAA,
                        60,
                        &[0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
                    ),
                }
            }
            ("large.example", A) => question.addresses(100, 60),
            ("large.example" | "www.example", _) => question.nothing(0),
            _ => question.nothing(3),
        };
        let fits = question.tcp || whole.bytes.len() <= 1232;
        vec![if fits { whole } else { question.reply(0).changed(|bytes| bytes[2] |= 2) }]
    })
}

#[test]
fn whatever_resolver_a_workload_believes_in_it_gets_right_answers() {
    let Some(workload) = Workload::start("") else { return };
    for resolver in BELIEVED {
        workload.believe(resolver, "");
        let own = workload.getent("ahosts", "web.mesh.internal").expect_ok("getent").out;
        assert!(own.contains("10.2.0.1") && own.contains("fd02::1"), "{resolver}: {own}");
        for libc in BOTH {
            let (addresses, _) = workload.resolve(libc, "web.mesh.internal", "");
            assert_eq!(addresses, ["10.2.0.1", "fd02::1"], "{resolver}, {libc:?}");
            let (addresses, canonical) = workload.resolve(libc, "www.example", "");
            assert_eq!(addresses, ["10.9.9.9", "fd09::9"], "{resolver}, {libc:?}");
            assert_eq!(canonical, "edge.example", "{resolver}, {libc:?}");
            assert_eq!(workload.resolve(libc, "www.example", "4").0, ["10.9.9.9"], "{resolver}, {libc:?}");
            assert_eq!(workload.resolve(libc, "none.example", "").0, [""; 0], "{resolver}, {libc:?}");
        }
        let words = ["+short", "+tcp", "www.example", "A"];
        let over_tcp = say(workload.host.command("dig").args(words)).expect_ok("dig").out;
        assert!(over_tcp.ends_with("10.9.9.9\n"), "{resolver}: {over_tcp}");
    }
}

#[test]
fn large_answers_reach_both_libraries() {
    let Some(workload) = Workload::start("") else { return };
    workload.believe("127.0.0.53", "");
    let (all, _) = workload.resolve(Libc::Glibc, "large.example", "4");
    assert_eq!(all.len(), 100, "over TCP");
    // musl before 1.2.4 knows no TCP: it takes the part that fits.
    let (some, _) = workload.resolve(Libc::Musl, "large.example", "4");
    assert!(some.len() > 10, "{some:?}");
}

#[test]
fn wildcards_and_canonical_names_are_taken_by_both_libraries() {
    let Some(workload) = Workload::start("") else { return };
    workload.believe("127.0.0.11", "");
    for libc in BOTH {
        let (addresses, canonical) = workload.resolve(libc, "any.web.mesh.internal", "");
        assert_eq!(addresses, ["10.2.0.1", "fd02::1"], "{libc:?}");
        assert_eq!(canonical, "any.web.mesh.internal", "{libc:?}");
        // A dot at the end makes a name whole.
        let (addresses, canonical) = workload.resolve(libc, "web.mesh.internal.", "");
        assert_eq!(addresses, ["10.2.0.1", "fd02::1"], "{libc:?}");
        assert_eq!(canonical.trim_end_matches('.'), "web.mesh.internal", "{libc:?}");
    }
}

/// With five dots wanted, each name is tried in the search domains first.
#[test]
fn search_domains_and_ndots_stay_local() {
    let Some(workload) = Workload::start("") else { return };
    workload.believe("10.96.0.10", "search mesh.internal\noptions ndots:5\n");
    for libc in BOTH {
        assert_eq!(workload.resolve(libc, "web", "").0, ["10.2.0.1", "fd02::1"], "{libc:?}");
        assert_eq!(workload.resolve(libc, "www.example", "").0, ["10.9.9.9", "fd09::9"], "{libc:?}");
    }
    assert!(workload.getent("ahosts", "web").expect_ok("getent").out.contains("10.2.0.1"));
    let asked = workload.upstream.all_heard();
    assert!(asked.iter().all(|question| !question.name.ends_with("mesh.internal")), "{asked:?}");
    assert!(workload.upstream.heard("www.example") <= 2, "once for each family");
}

/// The redirect catches our own questions, too: nobody has exempted them.
#[test]
fn a_redirect_that_catches_ourselves_is_noticed() {
    let Some(workload) = Workload::start("'10.96.0.10', ") else { return };
    workload.believe("10.96.0.10", "");
    for name in ["www.example", "large.example"] {
        assert!(!workload.resolve(Libc::Glibc, name, "4").0.is_empty(), "{name}");
    }
    let loops = workload.host.enter(|| {
        workload.proxy.metrics().sum("outrigger_dns_upstream_failures_total", &[("reason", "loop")])
    });
    assert_eq!(loops, 1.0);
    assert!(workload.proxy.log().contains("come back to us"), "{}", workload.proxy.log());
}
