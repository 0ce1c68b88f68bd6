use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData};

use super::*;

/// Of `WwW.Example`, type A, with these bytes behind the question and these counts.
fn question(additional: &[u8], counts: [u16; 4]) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 0x01, 0x10];
    counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_be_bytes()));
    bytes.extend_from_slice(b"\x03WwW\x07Example\0\0\x01\0\x01");
    bytes.extend_from_slice(additional);
    bytes
}

fn opt(udp_bytes: u16, version: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    let [high, low] = udp_bytes.to_be_bytes();
    let mut bytes = vec![0, 0, 41, high, low, 0, version, flags, 0, 0, options.len() as u8];
    bytes.extend_from_slice(options);
    bytes
}

fn plain() -> Vec<u8> {
    question(&[], [1, 0, 0, 0])
}

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[test]
fn a_question_is_seen_as_it_is() {
    let bytes = question(&opt(4096, 0, 0x80, &[0, 10, 0, 2, 7, 8]), [1, 0, 0, 1]);
    let query = Query::parse(&bytes).unwrap();
    assert_eq!((query.id(), query.kind, query.class), (0xabcd, kind::A, class::IN));
    assert_eq!(query.name(), b"\x03WwW\x07Example\0");
    assert!(query.recursion_desired() && query.checking_disabled() && query.dnssec_ok() && !query.signed);
    let edns = query.edns.unwrap();
    assert_eq!(edns.each_option().collect::<Vec<_>>(), [(10, &[7, 8][..])]);
    let limits = [Transport::Udp, Transport::Tcp].map(|via| query.reply_bytes_max(via));
    assert_eq!(limits, [1232, 65_535]);
    assert_eq!(query.key().as_bytes(), b"\x03www\x07example\0\0\x01\0\x01\x03");
    assert_eq!(query.key().name(), b"\x03www\x07example\0");

    let bytes = plain();
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(query.reply_bytes_max(Transport::Udp), 512);
    assert_eq!(query.key().as_bytes().last(), Some(&2));
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let form = Err(Malformed::Refuse(Code::FormErr));
    let outcome = |bytes: &[u8]| Query::parse(bytes).map(|_| ());
    assert_eq!(outcome(&plain()[..11]), Err(Malformed::Ignore));
    let mut reply = plain();
    reply[2] |= 0x80;
    assert_eq!(outcome(&reply), Err(Malformed::Ignore));
    for (opcode, code) in [(2, Code::NotImp), (4, Code::Refused), (5, Code::Refused), (6, Code::NotImp)] {
        let mut bytes = plain();
        bytes[2] |= opcode << 3;
        assert_eq!(outcome(&bytes), Err(Malformed::Refuse(code)), "opcode {opcode}");
    }
    for counts in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 9]] {
        assert_eq!(outcome(&question(&[], counts)), form, "{counts:?}");
    }
    for cut in 12..plain().len() {
        assert_eq!(outcome(&plain()[..cut]), form, "cut at {cut}");
    }
    let mut longer = plain();
    longer.push(0);
    assert_eq!(outcome(&longer), form, "something behind the question");
    let mut pointer = plain();
    pointer[12] = 0xc0;
    assert_eq!(outcome(&pointer), form, "a pointer");
    let mut long = plain()[..12].to_vec();
    (0..5).for_each(|_| long.extend_from_slice(&[&[60], &[b'a'; 60][..]].concat()));
    long.extend_from_slice(&[0, 0, 1, 0, 1]);
    assert_eq!(outcome(&long), form, "a name of 306 bytes");

    let edns = |record: &[u8], count| outcome(&question(record, [1, 0, 0, count]));
    let good = opt(1232, 0, 0, &[]);
    assert_eq!(edns(&good, 1), Ok(()));
    assert_eq!(edns(&[&good[..], &good].concat(), 2), form, "two OPT records");
    assert_eq!(edns(&opt(1232, 0, 0, &[0, 10, 0, 9, 1]), 1), form, "an option beyond the end");
    assert_eq!(edns(&opt(1232, 0, 0, &[0, 10]), 1), form, "half an option");
    assert_eq!(edns(&opt(1232, 1, 0, &[]), 1), Err(Malformed::Refuse(Code::BadVers)));
    assert_eq!(edns(&[&[0xc0, 12][..], &good[1..]].concat(), 1), form, "OPT has no name");
}

/// What others' software reads in our replies.
fn read(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

#[test]
fn replies_are_read_by_others_and_names_are_compressed() {
    let bytes = question(&opt(1232, 0, 0x80, &[]), [1, 0, 0, 1]);
    let query = Query::parse(&bytes).unwrap();
    let mut out = vec![1, 2, 3];
    let mut reply = Reply::to(&query, 1232, &mut out);
    reply.authoritative();
    let (host, zone) = (name("host.www.example"), name("example"));
    assert!(reply.record(&name("www.example"), 5, Data::Cname(&host)));
    assert!(reply.record(&host, 5, Data::A([10, 0, 0, 1].into())));
    assert!(reply.record(&host, 5, Data::Srv { priority: 1, weight: 2, port: 3, target: &host }));
    reply.section(Section::Authority);
    let soa = Soa {
        server: &name("ns.dns.example"),
        mailbox: &name("mail.example"),
        serial: 7,
        refresh_s: 1,
        retry_s: 2,
        expire_s: 3,
        negative_s: 4,
    };
    assert!(reply.record(&zone, 5, Data::Soa(soa)));
    reply.section(Section::Additional);
    assert!(reply.record(&name("ns.dns.example"), 5, Data::Aaaa("fd00::1".parse().unwrap())));
    reply.finish(Code::NoError);

    let message = read(&out);
    assert_eq!(message.queries[0].name.to_string(), "WwW.Example.");
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert!(message.metadata.checking_disabled && !message.metadata.truncation);
    let of = |name: &str| Name::from_ascii(name).unwrap();
    let [cname, a, srv] = &message.answers[..] else { panic!("{message}") };
    assert!(matches!(&cname.data, RData::CNAME(to) if to.0 == of("host.www.example.")), "{cname}");
    assert_eq!((&a.name, a.ttl, a.data.to_string()), (&of("host.www.example."), 5, "10.0.0.1".into()));
    assert_eq!(srv.data.to_string(), "1 2 3 host.www.example.");
    // Pointers lead to the question's spelling.
    assert_eq!(message.authorities[0].data.to_string(), "ns.dns.Example. mail.Example. 7 1 2 3 4");
    assert_eq!(message.additionals[0].name, of("ns.dns.example."));
    assert!(message.edns.unwrap().flags().dnssec_ok);
    let spelt = out.windows(7).filter(|window| window.eq_ignore_ascii_case(b"example")).count();
    assert_eq!(spelt, 2, "once in the question, once where SRV forbids a pointer");
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    for (udp_bytes, with_edns) in [(512, false), (600, true)] {
        let extra = opt(udp_bytes, 0, 0, &[]);
        let bytes = if with_edns { question(&extra, [1, 0, 0, 1]) } else { plain() };
        let query = Query::parse(&bytes).unwrap();
        let bytes_max = query.reply_bytes_max(Transport::Udp);
        let mut out = Vec::new();
        let mut reply = Reply::to(&query, bytes_max, &mut out);
        let fitting = (0..100).filter(|n| reply.record(query.name(), 0, Data::A([10, 0, 0, *n].into())));
        let fitting = fitting.count();
        reply.section(Section::Additional);
        assert!(!reply.record(query.name(), 0, Data::A([10, 0, 0, 1].into())), "nothing after what was cut");
        reply.finish(Code::NoError);
        assert!((bytes_max - 15..=bytes_max).contains(&out.len()), "{} of {bytes_max}", out.len());
        let message = read(&out);
        assert!(message.metadata.truncation);
        assert_eq!((message.answers.len(), message.edns.is_some()), (fitting, with_edns));

        cut(&mut out, &query, 100);
        let message = read(&out);
        assert!(message.metadata.truncation && message.answers.is_empty());
        assert_eq!(message.edns.is_some(), with_edns);
    }
}

#[test]
fn refusals_say_what_they_refuse() {
    let mut out = Vec::new();
    let mut notify = plain();
    notify[2] |= 4 << 3;
    refusal(&notify, Code::Refused, &mut out);
    let message = read(&out);
    assert_eq!(message.metadata.op_code, hickory_proto::op::OpCode::Notify);
    assert_eq!((message.metadata.response_code, message.queries.len()), (ResponseCode::Refused, 1));
    refusal(&plain()[..20], Code::FormErr, &mut out);
    assert_eq!(out, [0xab, 0xcd, 0x81, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
    refusal(&plain(), Code::BadVers, &mut out);
    let message = read(&out);
    assert_eq!(message.edns.as_ref().unwrap().rcode_high(), 1);
    assert_eq!(u16::from(message.metadata.response_code), 16);
}

/// Bytes in which each is as likely as any other, and questions with a few bytes changed: neither may panic.
#[test]
fn no_bytes_upset_the_reader() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let good = question(&opt(1232, 0, 0, &[0, 10, 0, 2, 7, 8]), [1, 0, 0, 1]);
    let mut out = Vec::new();
    for round in 0..20_000 {
        let mut bytes = good.clone();
        if round % 4 == 0 {
            bytes = (0..random() % 80).map(|_| random() as u8).collect();
        }
        for _ in 0..random() % 4 {
            if let Some(length @ 1..) = Some(bytes.len()) {
                bytes[random() % length] = random() as u8;
            }
        }
        match Query::parse(&bytes) {
            Ok(query) => {
                let _ = query.key();
                Reply::to(&query, 512, &mut out).finish(Code::NoError);
            }
            Err(Malformed::Refuse(code)) => refusal(&bytes, code, &mut out),
            Err(Malformed::Ignore) => continue,
        }
        assert!(out.len() >= HEADER_BYTES && out[2] & 0x80 != 0);
    }
}
