use std::net::Ipv4Addr;

use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::config::{DnsCache, Resolver, ResolverVia, Resolvers};
use crate::names::facts::Facts;
use upstream_script::{Act, Asked, Scripted};

mod fuzz;
mod liars;
mod many;
mod streams;
mod upstream_script;

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);

/// On one thread, as in the program.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test)
}

fn config(upstreams: &[&Scripted]) -> Forward {
    Forward {
        domains: [].into(),
        others: Resolvers::Listed(upstreams.iter().map(|upstream| upstream.over(ResolverVia::Udp)).collect()),
        timeout: Duration::from_secs(4),
        random_case: false,
        tls: None,
        cache: DnsCache {
            entries_max: 100,
            bytes_max: 1 << 20,
            ttl_min: Duration::ZERO,
            ttl_max: Duration::from_secs(3600),
            negative_ttl_max: Duration::from_secs(900),
            stale: Duration::from_secs(3600),
            prefetch: true,
        },
    }
}

/// A forwarder and what it counts.
struct Bench {
    forwarder: Rc<Forwarder>,
    metrics: Metrics,
}

impl Bench {
    fn new(config: &Forward) -> Self {
        let metrics = Metrics::new().unwrap();
        Self { forwarder: Forwarder::new(config, Vec::new(), &metrics), metrics }
    }

    fn asking(upstreams: &[&Scripted]) -> Self {
        Self::new(&config(upstreams))
    }

    async fn ask(&self, name: &str) -> Answer {
        self.send(query(name, 1)).await
    }

    async fn send(&self, message: Vec<u8>) -> Answer {
        let forwarder = Rc::clone(&self.forwarder);
        let mut out = Vec::new();
        let parsed = Query::parse(&message).unwrap();
        let at_once = forwarder.cached(&parsed, Transport::Udp, now_ms(), &mut out);
        let (bytes, source) = match at_once {
            Some(source) => (out, source),
            None => self.forwarder.clone().resolve(message.clone().into(), CLIENT, Transport::Udp).await,
        };
        assert_eq!(bytes[..2], message[..2], "the client's id");
        let question = parsed.question();
        assert_eq!(bytes[12..][..question.len()], *question, "the client's spelling");
        Answer { facts: Facts::read(&bytes).unwrap(), bytes, source }
    }

    fn failures(&self, reason: &str) -> u64 {
        let text = self.metrics.encode(std::iter::empty()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("outrigger_dns_upstream_failures_total{"));
        let lines = lines.filter(|line| line.contains(&format!("reason=\"{reason}\"")));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

struct Answer {
    bytes: Vec<u8>,
    facts: Facts,
    source: Source,
}

impl Answer {
    fn addresses(&self) -> u16 {
        assert_eq!(self.facts.code, 0, "{:?}", self.source);
        self.facts.counts[0]
    }
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0x5a, 0xa5, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, kind, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The reply to a question, with so many addresses.
fn reply(asked: &[u8], addresses: u8, ttl: u32) -> Vec<u8> {
    let question = Query::parse(asked).unwrap().question().to_vec();
    let mut bytes = vec![asked[0], asked[1], 0x81, 0x80, 0, 1, 0, addresses, 0, 0, 0, 0];
    bytes.extend(question);
    for n in 0..addresses {
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, 4, 10, 0, 0, n]);
    }
    bytes
}

fn code(asked: &[u8], code: u8) -> Vec<u8> {
    let mut bytes = reply(asked, 0, 0);
    bytes[3] |= code;
    bytes
}

/// Answers everything with this many addresses.
async fn answering(addresses: u8) -> Scripted {
    Scripted::start(move |asked: &Asked| vec![Act::Say(reply(&asked.message, addresses, 60))]).await
}

async fn silent() -> Scripted {
    Scripted::start(|_: &Asked| Vec::new()).await
}

#[test]
fn an_answer_is_relayed_and_then_kept() {
    run(async {
        let upstream = answering(3).await;
        let bench = Bench::asking(&[&upstream]);
        let first = bench.ask("Www.Example.COM").await;
        assert_eq!((first.addresses(), first.source), (3, Source::Upstream));
        let second = bench.ask("wWW.example.com").await;
        assert_eq!((second.addresses(), second.source), (3, Source::Cache));
        assert_eq!(upstream.heard(), 1);
        assert_eq!(bench.metrics.dns_cache_entries.get(), 1);
        assert_eq!(bench.metrics.dns_forward_in_flight.get(), 0);
    });
}

#[test]
fn an_upstream_that_fails_is_followed_by_the_next() {
    run(async {
        let failing = [2, 5]
            .map(|wrong| Scripted::start(move |asked: &Asked| vec![Act::Say(code(&asked.message, wrong))]));
        let [failing, refusing] = failing;
        let (failing, refusing, good) = (failing.await, refusing.await, answering(1).await);
        let bench = Bench::asking(&[&failing, &refusing, &good]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!((failing.heard(), refusing.heard(), good.heard()), (1, 1, 1));
        assert_eq!((bench.failures("server-failure"), bench.failures("refused-to-answer")), (1, 1));
        // If all fail, what they said is passed on, and remembered for a moment.
        let bench = Bench::asking(&[&failing]);
        let answer = bench.ask("a.example").await;
        assert_eq!((answer.facts.code, answer.source), (2, Source::Failed));
        let again = bench.ask("a.example").await;
        assert_eq!((again.facts.code, again.source, failing.heard()), (2, Source::Cache, 2));
    });
}

#[test]
fn nobody_there_is_found_out_at_once_and_later_that_somebody_is() {
    run(async {
        let (gone, good) = (Scripted::nobody().await, answering(1).await);
        let bench = Bench::asking(&[&gone, &good]);
        for n in 0..4 {
            assert_eq!(bench.ask(&format!("a{n}.example")).await.addresses(), 1);
        }
        assert!(bench.failures("refused") >= 1);
        // Alone, and dead after three failures, it is still asked; then it comes back and is noticed by the probe.
        let bench = Bench::asking(&[&gone]);
        for n in 0..3 {
            assert_eq!(bench.ask(&format!("b{n}.example")).await.source, Source::Failed);
        }
        let up = || bench.metrics.dns_upstream_up.with_label_values(&[&gone.address.to_string()]).get();
        assert_eq!(up(), 0);
        let back =
            Scripted::start_at(gone.address, |asked: &Asked| vec![Act::Say(reply(&asked.message, 1, 60))])
                .await;
        while up() == 0 {
            back.asked.notified().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.ask("c.example").await.addresses(), 1);
    });
}

#[test]
fn a_slow_upstream_still_answers_after_another_was_asked() {
    run(async {
        let second = silent().await;
        let heard = Rc::clone(&second.asked);
        // It answers when the other one has been asked as well.
        let slow =
            Scripted::start_when(heard, |asked: &Asked| vec![Act::Say(reply(&asked.message, 2, 60))]).await;
        let bench = Bench::asking(&[&slow, &second]);
        assert_eq!(bench.ask("a.example").await.addresses(), 2);
        assert_eq!(second.heard(), 1);
        assert_eq!(bench.failures("timeout"), 1);
    });
}

#[test]
fn silence_ends_in_an_answer_that_says_so() {
    run(async {
        let upstream = silent().await;
        let mut config = config(&[&upstream]);
        config.timeout = Duration::from_millis(700);
        let bench = Bench::new(&config);
        let answer = bench.ask("a.example").await;
        assert_eq!((answer.facts.code, answer.source), (2, Source::Failed));
        let options = &answer.bytes[answer.facts.options.unwrap()];
        assert_eq!(options[..6], [0, 15, 0, 19 + 2, 0, 23], "network error, and why");
        assert!(upstream.heard() >= 2, "a datagram may be lost");
        assert!(bench.failures("timeout") >= 2);
        let again = bench.ask("a.example").await;
        assert_eq!(again.source, Source::Cache, "remembered for a moment");
    });
}

#[test]
fn the_longest_domain_decides_who_is_asked() {
    run(async {
        let (inner, outer, others) = (answering(1).await, answering(2).await, answering(3).await);
        let mut config = config(&[&others]);
        for (domain, upstream) in [("corp.example", &outer), ("eu.corp.example", &inner)] {
            config.domains.insert(domain.to_owned(), vec![upstream.over(ResolverVia::Udp)]);
        }
        let bench = Bench::new(&config);
        for (name, addresses) in [
            ("www.EU.corp.example", 1),
            ("eu.corp.example", 1),
            ("corp.example", 2),
            ("xeu.corp.example", 2),
            ("example", 3),
            ("notcorp.example", 3),
        ] {
            assert_eq!(bench.ask(name).await.addresses(), addresses, "{name}");
        }
    });
}

#[test]
fn a_new_list_of_resolvers_is_taken_and_we_are_not_in_it() {
    run(async {
        let listens = "127.0.0.1:53".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n").unwrap();
        let mut config = config(&[]);
        config.others = Resolvers::System(path.clone());
        let metrics = Metrics::new().unwrap();
        let servers = Servers::new(&config, vec![listens], &metrics);
        let names = |now_ms| {
            let group = servers.of(b"\x01a\0", now_ms);
            group.iter().map(|upstream| upstream.resolver.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["10.0.0.1:53"]);
        let known = Rc::clone(&servers.of(b"\0", 2)[0]);
        known.succeeded(Duration::from_millis(5));
        std::fs::write(&path, "nameserver 10.0.0.2\nnameserver 10.0.0.1\n").unwrap();
        assert_eq!(names(500), ["10.0.0.1:53"], "looked at a moment ago");
        assert_eq!(names(2_000), ["10.0.0.2:53", "10.0.0.1:53"]);
        assert!(servers.of(b"\0", 2_000)[1].seconds() > 0.0, "what is known about it is kept");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(names(4_000).len(), 2);
    });
}

#[test]
fn what_is_stale_is_given_when_nobody_answers() {
    run(async {
        let upstream = silent().await;
        let mut config = config(&[&upstream]);
        config.timeout = Duration::from_millis(200);
        let bench = Bench::new(&config);
        let message = query("a.example", 1);
        let bytes = reply(&message, 2, 1);
        let kept = Rc::new(Kept::new(&bytes, &Facts::read(&bytes).unwrap(), &bench.forwarder.ttls));
        let key = Query::parse(&message).unwrap().key();
        bench.forwarder.keep(&key, &kept);
        let kept_at = now_ms();
        while now_ms() < kept_at + 1_001 {
            tokio::task::yield_now().await;
        }
        let stale = bench.ask("a.example").await;
        assert_eq!((stale.addresses(), stale.source, stale.facts.ttl), (2, Source::Stale, Some(30)));
        let asked = upstream.heard();
        let again = bench.ask("a.example").await;
        assert_eq!((again.source, upstream.heard()), (Source::Stale, asked), "nobody is asked for a while");
    });
}
