//! Upstreams, and others, that say what is not so.

use super::*;

/// Says these before the truth.
async fn lying(lies: impl Fn(&[u8]) -> Vec<Act> + 'static) -> Scripted {
    Scripted::start(move |asked: &Asked| {
        let mut acts = lies(&asked.message);
        acts.push(Act::Say(reply(&asked.message, 1, 60)));
        acts
    })
    .await
}

fn changed(asked: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = reply(asked, 9, 60);
    change(&mut bytes);
    bytes
}

#[test]
fn a_wrong_id_is_counted_and_the_wait_goes_on() {
    run(async {
        let upstream = lying(|asked| vec![Act::Say(changed(asked, |bytes| bytes[0] ^= 1))]).await;
        let bench = Bench::asking(&[&upstream]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!((bench.failures("wrong-id"), upstream.heard()), (1, 1));
    });
}

#[test]
fn a_wrong_question_is_counted_and_the_wait_goes_on() {
    run(async {
        let upstream = lying(|asked| {
            let other_name = changed(asked, |bytes| bytes[13] ^= 1);
            let other_type = changed(asked, |bytes| bytes[24] ^= 1);
            vec![Act::Say(other_name), Act::Say(other_type)]
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!((bench.failures("wrong-question"), upstream.heard()), (2, 1));
    });
}

#[test]
fn nobody_else_is_listened_to() {
    run(async {
        let upstream = lying(|asked| vec![Act::SayFromElsewhere(changed(asked, |_| {}))]).await;
        let bench = Bench::asking(&[&upstream]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!(upstream.heard(), 1);
    });
}

#[test]
fn letters_have_to_come_back_as_they_were_sent() {
    run(async {
        let upstream =
            lying(|asked| vec![Act::Say(changed(asked, |bytes| bytes[12..].make_ascii_lowercase()))]).await;
        let mut config = config(&[&upstream]);
        config.random_case = true;
        let bench = Bench::new(&config);
        assert_eq!(bench.ask("abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz").await.addresses(), 1);
        assert_eq!(bench.failures("wrong-question"), 1);
    });
}

/// Whoever sprays guesses does not get to the right one.
#[test]
fn many_lies_turn_us_to_tcp() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| match asked.via {
            Transport::Udp => (1..20)
                .map(|n| Act::Say(changed(&asked.message, |bytes| bytes[1] ^= n)))
                .chain([Act::Say(reply(&asked.message, 9, 60))])
                .collect(),
            Transport::Tcp => vec![Act::Say(reply(&asked.message, 1, 60))],
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!((bench.failures("wrong-id"), upstream.connections.get()), (8, 1));
    });
}

#[test]
fn what_is_malformed_is_not_passed_on() {
    let pointer_loop = |bytes: &mut Vec<u8>| {
        bytes[7] = 1;
        bytes.truncate(12 + 15);
        let at = bytes.len() as u8;
        bytes.extend([0xc0, at, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    };
    let short = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
    let trailing = |bytes: &mut Vec<u8>| bytes.push(0);
    let over_long = |bytes: &mut Vec<u8>| bytes.resize(1233, 0);
    let lies: [fn(&mut Vec<u8>); 4] = [pointer_loop, short, trailing, over_long];
    for lie in lies {
        run(async {
            let bad =
                Scripted::start(move |asked: &Asked| vec![Act::Say(changed(&asked.message, lie))]).await;
            let good = answering(2).await;
            let bench = Bench::asking(&[&bad, &good]);
            assert_eq!(bench.ask("a.example").await.addresses(), 2);
            assert_eq!((bench.failures("malformed"), bad.heard()), (1, 1));
        });
    }
}

#[test]
fn a_server_that_cannot_read_edns_is_asked_without() {
    run(async {
        let upstream = Scripted::start(|asked: &Asked| {
            let has_edns = Query::parse(&asked.message).unwrap().edns.is_some();
            let header = [&asked.message[..2], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
            vec![Act::Say(if has_edns { header } else { reply(&asked.message, 1, 60) })]
        })
        .await;
        let bench = Bench::asking(&[&upstream]);
        assert_eq!(bench.ask("a.example").await.addresses(), 1);
        assert_eq!(upstream.heard(), 2);
        assert_eq!(bench.ask("b.example").await.addresses(), 1);
        assert_eq!(upstream.heard(), 3, "it is known now");
    });
}

/// A redirect that catches our own questions brings them back to us.
#[test]
fn ourselves_are_not_asked_again() {
    run(async {
        let good = answering(1).await;
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let ourselves = Resolver { address: socket.local_addr().unwrap(), via: ResolverVia::Udp };
        let mut config = config(&[]);
        config.others = Resolvers::Listed(vec![ourselves, good.over(ResolverVia::Udp)]);
        let bench = Bench::new(&config);
        let forwarder = Rc::clone(&bench.forwarder);
        let server = spawn_local(async move {
            let mut buffer = vec![0; 2048];
            let mut came = 0;
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                came += 1;
                assert_eq!(came, 1, "asked again");
                let resolving = Rc::clone(&forwarder).resolve(buffer[..length].into(), from, Transport::Udp);
                socket.send_to(&resolving.await.0, from).await.unwrap();
            }
        });
        for name in ["a.example", "b.example", "c.example"] {
            assert_eq!(bench.ask(name).await.addresses(), 1);
        }
        assert_eq!(bench.failures("loop"), 1);
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
    });
}
