use std::path::Path;

use crate::config::{Answer, Config, parse};

fn read(dns: &str) -> Config {
    parse(&format!("registry: {{file: s.yaml}}\n{dns}\n"), "o.yaml", Path::new("")).unwrap()
}

fn errors(dns: &str) -> String {
    let errors = parse(&format!("registry: {{file: s.yaml}}\n{dns}\n"), "o.yaml", Path::new("")).unwrap_err();
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn names_are_offered_when_asked_for() {
    assert_eq!(read("").dns, None);
    let dns = read("dns: {}").dns.unwrap();
    assert_eq!(dns.listen, ["127.0.0.1:15053".parse().unwrap(), "[::1]:15053".parse().unwrap()]);
    assert!(dns.listen_default && dns.consul.is_none() && dns.search.is_empty());
    assert_eq!((dns.ttl_s, dns.limits.connections_max, dns.limits.queries_per_second), (5, 256, None));
    let dns = read("dns: {ttl: 0s, consul: {}, search: [Corp.Example.], limits: {queries_per_second: 9}}");
    let dns = dns.dns.unwrap();
    let consul = dns.consul.unwrap();
    assert_eq!((&*consul.domain, &*consul.datacenter, &*consul.tag_label), ("consul", "dc1", "version"));
    assert_eq!((dns.ttl_s, &*dns.search[0], dns.limits.queries_per_second), (0, "corp.example", Some(9)));
    let config = read(
        "defaults: {dns: {answer: virtual}}\nservices: {a: {dns: {wildcard: true}}, b: {dns: {answer: endpoints}}}",
    );
    let of = |service: &str| config.services[service].dns;
    assert_eq!((of("a").answer, of("a").wildcard), (Answer::Virtual, true));
    assert_eq!((of("b").answer, of("b").wildcard), (Answer::Endpoints, false));
}

#[test]
fn what_is_wrong_about_names_is_said() {
    for (dns, expected) in [
        ("dns: {listen: []}", "2:15: dns.listen: an empty list"),
        ("dns: {listen: 0.0.0.0:53}", "2:15: dns.listen: 0.0.0.0 stands for every address of the host"),
        ("dns: {listen: ['127.0.0.1:53', '127.0.0.1:53']}", "dns.listen[1]: 127.0.0.1:53 is given twice"),
        ("dns: {ttl: 2h}", "2:12: dns.ttl: longer than an hour (1h)"),
        ("dns: {ttl: 1500ms}", "2:12: dns.ttl: DNS counts whole seconds"),
        ("dns: {consul: {domain: internal}}", "`internal` and `domain` (mesh.internal) overlap"),
        ("dns: {consul: {datacenter: a.b}}", "2:28: dns.consul.datacenter: `a.b` cannot be a name"),
        ("dns: {search: [a..b]}", "2:16: dns.search[0]: `a..b` is not a domain name"),
        ("dns: {virtual_addresses: {ipv4: 240.0.0.0}}", "`240.0.0.0` is not a range"),
        ("dns: {virtual_addresses: {ipv4: 240.0.0.0/24}}", "24 is out of range: 4 to 20"),
        ("dns: {virtual_addresses: {ipv4: 240.1.0.0/8}}", "240.1.0.0 is not the first address of its range"),
        (
            "dns: {virtual_addresses: {ipv6: 10.0.0.0/8}}",
            "dns.virtual_addresses.ipv6: an address of the other family",
        ),
        ("dns: {limits: {in_flight_max: 0}}", "dns.limits.in_flight_max: 0 is out of range: 1 to 1024"),
    ] {
        let found = errors(dns);
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
}
