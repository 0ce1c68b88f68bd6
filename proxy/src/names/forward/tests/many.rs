//! Many questions: the same ones, floods of different ones, and those that are passed on as they are.

use super::*;

#[test]
fn the_same_question_is_asked_once() {
    run(async {
        let upstream = silent().await;
        let asked = Rc::clone(&upstream.asked);
        let bench = Bench::asking(&[&upstream]);
        let joined: Vec<_> = (0..20)
            .map(|n| {
                let forwarder = Rc::clone(&bench.forwarder);
                let name = if n % 2 == 0 { "Same.example" } else { "same.EXAMPLE" };
                spawn_local(forwarder.resolve(query(name, 1).into(), CLIENT, Transport::Udp))
            })
            .collect();
        asked.notified().await;
        assert_eq!(bench.metrics.dns_forward_in_flight.get(), 20);
        assert_eq!(bench.metrics.dns_forward_merged.get(), 19);
        assert_eq!(upstream.heard(), 1);
        joined.iter().for_each(tokio::task::JoinHandle::abort);
        for task in joined {
            assert!(task.await.is_err());
        }
        assert_eq!(bench.metrics.dns_forward_in_flight.get(), 0, "whoever goes is no longer counted");
    });
}

#[test]
fn a_flood_of_unique_names_leaves_room_for_others() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| {
            let name = Query::parse(&asked.message).unwrap().name().to_vec();
            let is_flood = name.windows(6).any(|part| part == b"\x05flood");
            if is_flood { Vec::new() } else { vec![Act::Say(reply(&asked.message, 1, 60))] }
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        let flood: Vec<_> = (0..1_000)
            .map(|n| {
                let forwarder = Rc::clone(&bench.forwarder);
                let message = query(&format!("{n}.flood.example"), 1);
                spawn_local(forwarder.resolve(message.into(), CLIENT, Transport::Udp))
            })
            .collect();
        upstream.asked.notified().await;
        let refused = bench.metrics.dns_forward_refused.with_label_values(&["domain"]);
        assert_eq!(refused.get(), 1_000 - 256);
        assert_eq!(bench.metrics.dns_forward_in_flight.get(), 256);
        assert_eq!(bench.ask("good.other").await.addresses(), 1);
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn what_asks_for_more_is_passed_on_as_it_is() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let upstream = Scripted::start(move |asked: &Asked| {
            log.borrow_mut().push(asked.message.clone());
            let mut bytes = reply(&asked.message, 1, 60);
            // An option that nobody here knows, with DO as it was asked.
            bytes[11] = 1;
            bytes[2] |= 4;
            bytes.extend([0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 6, 0xfd, 0xe9, 0, 2, 7, 7]);
            vec![Act::Say(bytes)]
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        let mut message = query("A.example", 99);
        message.truncate(message.len() - 11);
        message.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 6, 0xfd, 0xe8, 0, 2, 1, 2]);
        message[3] |= 0x10;
        let answer = bench.send(message.clone()).await;
        assert_eq!(seen.borrow()[0][2..], message[2..], "all but the id");
        let mut expected = reply(&message, 1, 60);
        expected[11] = 1;
        expected[2] |= 4;
        expected.extend([0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 6, 0xfd, 0xe9, 0, 2, 7, 7]);
        assert_eq!(answer.bytes, expected);
        assert_eq!(bench.send(message).await.source, Source::Upstream, "not kept");
        assert_eq!(bench.metrics.dns_cache_entries.get(), 0);
    });
}

#[test]
fn dnssec_is_asked_for_where_the_client_does_and_kept_apart() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| {
            let query = Query::parse(&asked.message).unwrap();
            let count = 1 + u8::from(query.dnssec_ok()) + 2 * u8::from(query.checking_disabled());
            vec![Act::Say(reply(&asked.message, count, 60))]
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        for (dnssec_ok, checking_disabled) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)] {
            let mut message = query("a.example", 1);
            let flags_at = message.len() - 4;
            message[flags_at] = dnssec_ok << 7;
            message[3] = checking_disabled << 4;
            let answer = bench.send(message).await;
            let expected = 1 + u16::from(dnssec_ok) + 2 * u16::from(checking_disabled);
            assert_eq!(answer.addresses(), expected);
            assert_eq!(answer.bytes[3] & 0x10, checking_disabled << 4);
        }
        assert_eq!(upstream.heard(), 4);
    });
}

#[test]
fn a_storm_of_names_that_do_not_exist_stays_here() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| {
            let mut bytes = code(&asked.message, 3);
            bytes[9] = 1;
            bytes.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 1, 0, 0, 24, 0xc0, 12, 0xc0, 12]);
            bytes.extend([0; 16]);
            bytes.extend(60_u32.to_be_bytes());
            vec![Act::Say(bytes)]
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        let expanded = ["api.ns.svc.cluster.local", "api.svc.cluster.local", "api.cluster.local"];
        for _ in 0..10 {
            for name in expanded {
                let answer = bench.ask(name).await;
                assert_eq!((answer.facts.code, answer.facts.counts[1]), (3, 1));
                assert!(answer.facts.ttl.is_some_and(|ttl| ttl <= 60));
            }
        }
        assert_eq!(upstream.heard(), 3);
    });
}
