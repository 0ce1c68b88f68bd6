//! Upstreams over TCP: what is too large for UDP, many questions on one connection, and connections that end badly.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::tls;

fn over_tcp(upstream: &Scripted) -> Bench {
    let mut config = config(&[]);
    config.others = Resolvers::Listed(vec![upstream.over(ResolverVia::Tcp)]);
    Bench::new(&config)
}

#[test]
fn what_is_truncated_comes_over_tcp() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| match asked.via {
            Transport::Udp => {
                let mut cut = reply(&asked.message, 0, 0);
                cut[2] |= 2;
                vec![Act::Say(cut)]
            }
            Transport::Tcp => vec![Act::Say(reply(&asked.message, 200, 60))],
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        let answer = bench.ask("a.example").await;
        // More than this client's transport takes: it gets what fits, and is told to ask over TCP.
        assert!(answer.bytes.len() <= 1232 && answer.facts.truncated);
        assert_eq!(answer.addresses(), 74);
        assert_eq!(bench.failures("truncated"), 1);
        let resolved =
            Rc::clone(&bench.forwarder).resolve(query("a.example", 1).into(), CLIENT, Transport::Tcp).await;
        assert_eq!(Facts::read(&resolved.0).unwrap().counts[0], 200);
        assert_eq!(resolved.1, Source::Cache);
    });
}

/// Three questions on one connection, answered last first.
#[test]
fn one_connection_carries_many_questions_in_any_order() {
    run(async {
        let waiting = RefCell::new(Vec::new());
        let upstream = Scripted::start(move |asked: &Asked| {
            waiting.borrow_mut().push(reply(&asked.message, asked.number as u8, 60));
            let is_last = waiting.borrow().len() == 3;
            let said = if is_last { waiting.take() } else { Vec::new() };
            said.into_iter().rev().map(Act::Say).collect()
        })
        .await;
        let bench = over_tcp(&upstream);
        let (a, b, c) = tokio::join!(bench.ask("a.example"), bench.ask("b.example"), bench.ask("c.example"));
        assert_eq!([a, b, c].map(|answer| answer.addresses()), [1, 2, 3]);
        assert_eq!(upstream.connections.get(), 1);
    });
}

#[test]
fn a_connection_that_ends_between_questions_is_made_anew() {
    run(async {
        let upstream =
            Scripted::start(|asked: &Asked| vec![Act::Say(reply(&asked.message, 1, 60)), Act::Close]).await;
        let bench = over_tcp(&upstream);
        for name in ["a.example", "b.example", "c.example"] {
            assert_eq!(bench.ask(name).await.addresses(), 1);
        }
        assert_eq!(upstream.connections.get(), 3);
    });
}

#[test]
fn a_connection_that_ends_without_an_answer_is_a_failure() {
    run(async {
        let closing = Scripted::start(|_: &Asked| vec![Act::Close]).await;
        let good = answering(2).await;
        let mut config = config(&[]);
        config.others =
            Resolvers::Listed([&closing, &good].map(|upstream| upstream.over(ResolverVia::Tcp)).to_vec());
        let bench = Bench::new(&config);
        assert_eq!(bench.ask("a.example").await.addresses(), 2);
        assert_eq!(bench.failures("closed"), 1);
    });
}

#[test]
fn a_length_that_is_no_message_ends_the_connection() {
    for garbage in [&[0, 0][..], &[0, 5, 1, 2, 3, 4, 5], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        run(async {
            let bad = Scripted::start(move |_: &Asked| vec![Act::Raw(garbage.to_vec()), Act::Close]).await;
            let good = answering(2).await;
            let mut config = config(&[]);
            config.others =
                Resolvers::Listed([&bad, &good].map(|upstream| upstream.over(ResolverVia::Tcp)).to_vec());
            let bench = Bench::new(&config);
            assert_eq!(bench.ask("a.example").await.addresses(), 2);
            assert_eq!(bench.failures("malformed") + bench.failures("closed"), 1);
        });
    }
}

/// Half a message, and then the other half, a byte at a time and two messages at once.
#[test]
fn messages_are_put_together() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| {
            let bytes = reply(&asked.message, 1, 60);
            let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
            framed.iter().map(|byte| Act::Raw(vec![*byte])).collect()
        })
        .await;
        assert_eq!(over_tcp(&upstream).ask("a.example").await.addresses(), 1);
    });
}

/// Somebody who speaks no TLS, and somebody whom nobody vouches for, are asked nothing.
#[test]
fn whom_we_cannot_trust_we_do_not_ask() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["somebody.example".to_owned()]).unwrap();
        std::fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let settings = tls::ClientSettings {
            ca_file: Some(ca_file),
            identity: None,
            server_name: None,
            protocol: "dot",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // The other side may close as soon as it has seen enough.
                let _ = stream.write_all(&[0x42; 64]).await;
            }
        });
        let mut config = config(&[]);
        let via = ResolverVia::Tls { server_name: "somebody.example".to_owned() };
        config.others = Resolvers::Listed(vec![Resolver { address, via }]);
        config.tls = Some(tls::Client::load(settings).unwrap());
        config.timeout = Duration::from_secs(1);
        let bench = Bench::new(&config);
        assert_eq!(bench.ask("a.example").await.source, Source::Failed);
        assert!(bench.failures("tls") >= 1);
    });
}
