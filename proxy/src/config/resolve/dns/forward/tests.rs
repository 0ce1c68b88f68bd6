use std::path::{Path, PathBuf};

use crate::config::{Config, Forward, Resolvers, parse};

fn load(text: &str) -> Result<Config, String> {
    parse(text, "o.yaml", Path::new("/etc/outrigger"))
        .map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect())
}

fn forward(text: &str) -> Forward {
    let text = format!("registry: {{file: s.yaml}}\ndns: {{forward: {{{text}}}}}\n");
    load(&text).unwrap().dns.unwrap().forward
}

#[test]
fn reads_where_other_names_go() {
    let default = forward("");
    assert_eq!(default.others, Resolvers::System(PathBuf::from("/etc/resolv.conf")));
    assert_eq!((default.timeout.as_secs(), default.cache.entries_max), (4, 10_000));
    let Resolvers::Listed(servers) =
        forward("servers: [10.0.0.2, 'tcp://[fd00::2]', 'udp://10.0.0.3:5353', '[fd00::3]:54']").others
    else {
        panic!("listed")
    };
    let texts: Vec<_> = servers.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.2:53", "tcp://[fd00::2]:53", "10.0.0.3:5353", "[fd00::3]:54"]);
    let domains = forward("domains: {Corp.Example.: 10.0.0.2}").domains;
    assert_eq!(domains.keys().collect::<Vec<_>>(), ["corp.example"]);
}

#[test]
fn reports_what_is_wrong_with_where_other_names_go() {
    let text = "\
registry: {file: s.yaml}
dns:
  forward:
    servers: [dns.example, 'https://10.0.0.2', 0.0.0.0, 10.0.0.2, '10.0.0.2:53', 'tls://10.0.0.2#a b']
    resolv_conf: resolv.conf
    domains: {a..b: 10.0.0.2, c.example: []}
    timeout: 1m
    cache: {bytes_max: 1KiB, ttl_min: 2m, ttl_max: 1m, stale: 200h, negative_ttl_max: 1500ms}
";
    let found = load(text).unwrap_err();
    for expected in [
        "4:15: dns.forward.servers[0]: `dns.example` is not a resolver's address; as in 10.0.0.2",
        "4:28: dns.forward.servers[1]: `https` is not a way to ask a resolver",
        "4:82: dns.forward.servers[5]: `a b` cannot be in a certificate",
        "dns.forward.servers[2]: nobody can be asked at 0.0.0.0:53",
        "dns.forward.servers[4]: 10.0.0.2:53 is given twice",
        "5:18: dns.forward.resolv_conf: `servers` and `resolv_conf` exclude each other",
        "`a..b` is not a domain name",
        "dns.forward.domains.c.example: an empty list",
        "7:14: dns.forward.timeout: longer than 30s",
        "8:24: dns.forward.cache.bytes_max: 1024 is out of range",
        "dns.forward.cache.ttl_min: longer than `ttl_max`",
        "dns.forward.cache.stale: longer than a week",
        "dns.forward.cache.negative_ttl_max: DNS counts whole seconds",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
}
