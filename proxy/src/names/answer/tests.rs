use std::collections::BTreeMap;
use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::super::name::on_wire;
use super::*;
use crate::config::ServiceNames;
use crate::snapshot::{Addresses, Digest, Endpoint, PolicyRef, Shelf};

const YAML: &str = "
registry: {file: s.yaml}
dns: {consul: {}, ttl: 7s, search: [mesh.internal, corp.example, mesh.internal]}
";

fn config() -> Config {
    crate::config::parse(YAML, "o.yaml", std::path::Path::new("")).unwrap()
}

/// An endpoint with labels.
type Given<'a> = (&'a str, &'a [(&'a str, &'a str)]);

fn pool(config: &Config, service: &str, names: ServiceNames, endpoints: &[Given<'_>]) -> Arc<Pool> {
    let endpoint = |(address, labels): &Given<'_>| {
        let parsed: SocketAddr = address.parse().unwrap();
        let zone = labels.iter().find(|(key, _)| *key == "zone").map_or("", |(_, zone)| zone);
        Arc::new(Endpoint {
            id: u64::from(parsed.port()),
            address: parsed,
            text: (*address).into(),
            weight: 3,
            zone: zone.into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            state: Arc::default(),
        })
    };
    let settings = crate::config::ServiceSettings { dns: names, ..config.defaults.clone() };
    Arc::new(Pool {
        name: service.into(),
        service: service.into(),
        balancer: PolicyRef::new(&settings.balancer, Digest::of(b""), 0, None),
        settings: Arc::new(settings),
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}

fn snapshot(config: Config, pools: Vec<Arc<Pool>>) -> Arc<Snapshot> {
    let ranges = config.dns.as_ref().unwrap().virtual_addresses;
    let mut snapshot = Snapshot::empty(Arc::new(config));
    snapshot.version = 9;
    let mut addresses = Addresses::new(Some(ranges));
    let services = pools.iter().map(|pool| Arc::clone(&pool.service)).zip(0..);
    snapshot.services = Arc::new(services.collect());
    pools.iter().zip(1..).for_each(|(pool, number)| addresses.assign(&pool.service, number));
    snapshot.pools = pools.into_iter().collect::<Shelf<_>>();
    snapshot.addresses = addresses;
    Arc::new(snapshot)
}

/// `web` with two endpoints, `old` with IPv6, `none` without any, `far` behind its virtual address, `any` with all
/// names below it.
fn answerer() -> Answerer {
    let config = config();
    let (usual, mut others) = (ServiceNames::default(), ServiceNames::default());
    others.answer = Answer::Virtual;
    let any = ServiceNames { wildcard: true, ..usual };
    let blue = [("version", "blue"), ("tag-v1.2", "")];
    let pools = vec![
        pool(&config, "web", usual, &[("10.0.0.1:81", &blue), ("10.0.0.2:82", &[]), ("10.0.0.1:83", &[])]),
        pool(&config, "old", usual, &[("[fd00::1]:80", &[])]),
        pool(&config, "none", usual, &[]),
        pool(&config, "far", others, &[("10.0.0.9:80", &[])]),
        pool(&config, "any", any, &[("10.0.0.7:80", &[])]),
    ];
    following(config, pools)
}

fn following(config: Config, pools: Vec<Arc<Pool>>) -> Answerer {
    let dns = config.dns.clone().unwrap();
    let empty = Arc::new(Snapshot::empty(Arc::new(config.clone())));
    let mut answerer = Answerer::new(empty, &dns, vec!["127.0.0.1".parse().unwrap()]);
    answerer.follow(snapshot(config, pools));
    answerer
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let mut spelt = on_wire(name).to_vec();
    // The case of letters is the client's.
    let upper = spelt.iter_mut().filter(|byte| **byte == b'e');
    upper.for_each(|byte| *byte = b'E');
    bytes.extend_from_slice(&spelt);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn asked(answerer: &mut Answerer, name: &str, kind: u16) -> (Outcome, Option<Message>) {
    let bytes = question(name, kind);
    let mut out = Vec::new();
    let outcome = answerer.answer(&Query::parse(&bytes).unwrap(), (512, 1), &mut out);
    (outcome, Message::from_vec(&out).ok())
}

/// Data of all answers, sorted; a code other than none stands alone, and `-` for no records.
fn ask(answerer: &mut Answerer, name: &str, kind: u16) -> String {
    let (outcome, message) = asked(answerer, name, kind);
    let Outcome::Answered(_) = outcome else { return format!("{outcome:?}") };
    let message = message.unwrap();
    assert!(message.metadata.authoritative, "{name}");
    assert_eq!(message.queries[0].name.to_string(), format!("{}.", name.replace('e', "E")));
    let negative = message.answers.is_empty();
    let soa = message.authorities.iter().filter(|record| record.record_type() == RecordType::SOA).count();
    assert_eq!((soa == 1, negative), (negative, negative), "{name}: {message}");
    if message.metadata.response_code == ResponseCode::NXDomain {
        return "no such name".to_owned();
    }
    let mut data: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    if data.is_empty() { "-".to_owned() } else { data.join(", ") }
}

#[test]
fn services_have_addresses_and_what_has_none_is_told_from_what_is_not() {
    let answerer = &mut answerer();
    for (name, kind, expected) in [
        ("web.mesh.internal", kind::A, "10.0.0.1, 10.0.0.2"),
        ("web.mesh.internal", kind::AAAA, "-"),
        ("old.mesh.internal", kind::A, "-"),
        ("old.mesh.internal", kind::AAAA, "fd00::1"),
        ("none.mesh.internal", kind::A, "-"),
        ("far.mesh.internal", kind::A, "240.0.0.4"),
        ("far.mesh.internal", kind::AAAA, "fd6f:7574:7269::4"),
        ("far.endpoints.mesh.internal", kind::A, "10.0.0.9"),
        ("web.virtual.mesh.internal", kind::A, "240.0.0.1"),
        ("0000000000000052.web.endpoints.mesh.internal", kind::A, "10.0.0.2"),
        ("a.b.any.mesh.internal", kind::A, "10.0.0.7"),
        ("_web._tcp.mesh.internal", kind::A, "-"),
        ("endpoints.mesh.internal", kind::A, "-"),
        ("mesh.internal", kind::A, "-"),
        ("mesh.internal", kind::NS, "ns.dns.mEsh.intErnal."),
        ("ns.dns.mesh.internal", kind::A, "127.0.0.1"),
        ("localhost", kind::A, "127.0.0.1"),
        ("a.localhost", kind::AAAA, "::1"),
        ("x.invalid", kind::A, "no such name"),
        ("example.com", kind::A, "Forward"),
    ] {
        assert_eq!(ask(answerer, name, kind), expected, "{name} {kind}");
    }
    // On the search list, a name that is not there sets out on the path.
    for name in ["no.mesh.internal", "a.web.mesh.internal", "0000000000000099.web.endpoints.mesh.internal"] {
        assert_eq!(ask(answerer, name, kind::A), "Search", "{name}");
    }
}

#[test]
fn ports_labels_and_ways_back_are_told() {
    let answerer = &mut answerer();
    let (_, message) = asked(answerer, "_http._tcp.web.mesh.internal", kind::SRV);
    let message = message.unwrap();
    let mut servers: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
    servers.sort();
    let target = |id: u64| format!("0 3 {id} {id:016x}.web.endpoints.mesh.internal.");
    assert_eq!(servers, [81, 82, 83].map(target));
    let mut addresses: Vec<String> = message.additionals.iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses.len(), 3, "{message}");
    assert!(addresses[1].starts_with("0000000000000052.web.endpoints.m"), "{addresses:?}");

    let texts = ask(answerer, "web.mesh.internal", kind::TXT);
    assert!(texts.contains("address=10.0.0.1:81weight=3version=bluetag-v1.2="), "{texts}");
    let any = ask(answerer, "web.mesh.internal", kind::ANY);
    assert!(any.contains("RFC8482"), "{any}");
    assert_eq!(ask(answerer, "4.0.0.240.in-addr.arpa", kind::PTR), "far.mesh.internal.");
    assert_eq!(ask(answerer, "9.9.9.250.in-addr.arpa", kind::PTR), "no such name");
    let back = ask(answerer, "2.0.0.10.in-addr.arpa", kind::PTR);
    assert_eq!(back, "0000000000000052.web.endpoints.mesh.internal.");
    assert_eq!(ask(answerer, "2.0.0.10.in-addr.arpa", kind::A), "-");
    assert_eq!(ask(answerer, "3.0.0.10.in-addr.arpa", kind::PTR), "Forward");
    let soa = ask(answerer, "mesh.internal", kind::SOA);
    assert!(soa.ends_with(" 9 3600 3600 3600 7"), "{soa}");
}

#[test]
fn consuls_names_want_an_endpoint_and_know_tags() {
    let answerer = &mut answerer();
    for (name, kind, expected) in [
        ("web.service.consul", kind::A, "10.0.0.1, 10.0.0.2"),
        ("blue.web.service.consul", kind::A, "10.0.0.1"),
        ("v1.2.web.service.consul", kind::A, "10.0.0.1"),
        ("red.web.service.consul", kind::A, "no such name"),
        ("_web._blue.service.consul", kind::SRV, "1 3 81 0a000001.addr.dc1.consul."),
        ("0a000001.addr.dc1.consul", kind::A, "10.0.0.1"),
        ("none.service.consul", kind::A, "no such name"),
        ("web.service.dc9.consul", kind::A, "no such name"),
    ] {
        assert_eq!(ask(answerer, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn each_endpoint_comes_first_in_turn_and_those_of_the_own_zone_before_others() {
    let mut config = config();
    let names = ServiceNames::default();
    let (a, b) = ([("zone", "a")], [("zone", "b")]);
    let given: [Given<'_>; 4] =
        [("10.0.0.1:1", &a), ("10.0.0.2:2", &b), ("10.0.0.3:3", &a), ("10.0.0.4:4", &b)];
    let pools = vec![pool(&config, "web", names, &given)];
    let firsts = |config: &Config| {
        let mut answerer = following(config.clone(), pools.clone());
        let first =
            |_| asked(&mut answerer, "web.mesh.internal", kind::A).1.unwrap().answers[0].data.to_string();
        (0..8).map(first).fold(BTreeMap::<String, u32>::new(), |mut counts, first| {
            *counts.entry(first).or_default() += 1;
            counts
        })
    };
    assert_eq!(firsts(&config).into_values().collect::<Vec<_>>(), [2, 2, 2, 2]);
    config.node.zone = "b".into();
    let zoned = firsts(&config);
    assert!(zoned.keys().eq(["10.0.0.2", "10.0.0.4"]), "{zoned:?}");
}

#[test]
fn ejected_endpoints_are_left_out_unless_all_are() {
    let config = config();
    let pools =
        vec![pool(&config, "web", ServiceNames::default(), &[("10.0.0.1:1", &[]), ("10.0.0.2:2", &[])])];
    let mut answerer = following(config, pools.clone());
    let eject = |index: usize| {
        pools[0].endpoints[index].state.ejected_until_ms.store(99, std::sync::atomic::Ordering::Relaxed);
    };
    eject(0);
    assert_eq!(ask(&mut answerer, "web.mesh.internal", kind::A), "10.0.0.2");
    eject(1);
    assert_eq!(ask(&mut answerer, "web.mesh.internal", kind::A), "10.0.0.1, 10.0.0.2");
}

#[test]
fn what_has_changed_has_another_way_back_and_the_rest_is_left_alone() {
    let config = config();
    let names = ServiceNames::default();
    let one = pool(&config, "one", names, &[("10.0.0.1:1", &[])]);
    let two = pool(&config, "two", names, &[("10.0.0.2:2", &[]), ("10.0.0.1:3", &[])]);
    let mut answerer = following(config.clone(), vec![one.clone(), two.clone()]);
    let back =
        |answerer: &mut Answerer, last: u8| ask(answerer, &format!("{last}.0.0.10.in-addr.arpa"), kind::PTR);
    assert_eq!(back(&mut answerer, 1).split(", ").count(), 2);
    let moved = pool(&config, "two", names, &[("10.0.0.3:2", &[])]);
    answerer.follow(snapshot(config.clone(), vec![one, moved]));
    assert_eq!(back(&mut answerer, 1), "0000000000000001.one.endpoints.mesh.internal.");
    assert_eq!(back(&mut answerer, 2), "Forward");
    // Pools change places when others go.
    answerer.follow(snapshot(config, vec![two]));
    assert_eq!(back(&mut answerer, 1), "0000000000000003.two.endpoints.mesh.internal.");
    assert_eq!(back(&mut answerer, 3), "Forward");
}

#[test]
fn a_search_list_is_walked_in_the_clients_place() {
    let mut answerer = answerer();
    // `web.mesh.internal` with the first suffix once more: what a client makes of it that wants five dots.
    let bytes = question("web.mesh.internal.mesh.internal", kind::A);
    let query = Query::parse(&bytes).unwrap();
    let mut out = Vec::new();
    assert_eq!(answerer.answer(&query, (512, 1), &mut out), Outcome::Search);
    let Step::Ask(1, name) = answerer.walk(&query, 0, (512, 1), &mut out) else {
        panic!("the second is not ours")
    };
    assert_eq!(name, on_wire("web.mesh.internal.corp.example"));
    assert!(matches!(answerer.walk(&query, 2, (512, 1), &mut out), Step::Answered), "the last is");
    let message = Message::from_vec(&out).unwrap();
    let answers: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!((answers.len(), answers[0].to_ascii_lowercase()), (3, "web.mesh.internal.".into()));

    let bytes = question("no.mesh.internal", kind::A);
    let query = Query::parse(&bytes).unwrap();
    assert!(
        matches!(answerer.walk(&query, 3, (512, 1), &mut out), Step::Ask(3, _)),
        "`no` alone is not ours"
    );
    assert!(matches!(answerer.walk(&query, 4, (512, 1), &mut out), Step::Answered));
    assert_eq!(out[3] & 0x0f, Code::NxDomain as u8);

    let theirs = {
        let about = alias::question_about(&query, &on_wire("no"));
        let query = Query::parse(&about).unwrap();
        let mut theirs = Vec::new();
        let mut reply = Reply::to(&query, 512, &mut theirs);
        reply.record(query.name(), 60, Data::A([192, 0, 2, 1].into()));
        reply.finish(Code::NoError);
        theirs
    };
    let reply = alias::reply_under_alias(&query, &theirs, 7).unwrap();
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.queries[0].name.to_string(), "no.mEsh.intErnal.");
    let answers: Vec<String> = message.answers.iter().map(ToString::to_string).collect();
    assert_eq!(answers, ["no.mEsh.intErnal. 7 IN CNAME no.", "no. 60 IN A 192.0.2.1"]);
}

#[test]
fn other_classes_transfers_and_signed_questions_are_refused() {
    let mut answerer = answerer();
    let mut out = Vec::new();
    let mut chaos = question("web.mesh.internal", kind::TXT);
    *chaos.last_mut().unwrap() = class::CH as u8;
    assert_eq!(answerer.answer(&Query::parse(&chaos).unwrap(), (512, 1), &mut out), Outcome::Refused);
    assert_eq!(asked(&mut answerer, "mesh.internal", kind::AXFR).0, Outcome::Refused);
    let mut signed = question("web.mesh.internal", kind::A);
    signed[11] = 1;
    signed.extend_from_slice(&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);
    assert_eq!(answerer.answer(&Query::parse(&signed).unwrap(), (512, 1), &mut out), Outcome::Refused);
}
