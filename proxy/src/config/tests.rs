use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

const MINIMAL: &str = "registry: {file: services.yaml}\n";

fn read(text: &str) -> Config {
    parse(text, "o.yaml", Path::new("/etc/outrigger")).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The errors of a file, as shown.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text, "o.yaml", Path::new("/etc/outrigger")).expect_err("an error");
    errors.iter().map(ToString::to_string).collect()
}

/// The errors of a file that is fine but for `rest`, which starts on line 2.
fn errors_with(rest: &str) -> Vec<String> {
    errors(&format!("{MINIMAL}{rest}"))
}

#[test]
fn fills_in_every_default() {
    let config = read(MINIMAL);
    assert_eq!(config.registry.source, RegistrySource::File(PathBuf::from("/etc/outrigger/services.yaml")));
    assert_eq!(config.outbound, ["127.0.0.1:15001".parse::<SocketAddr>().unwrap()]);
    assert_eq!(config.admin.listen, AdminListen::Tcp("127.0.0.1:15020".parse().unwrap()));
    assert_eq!(config.admin.token, None);
    assert_eq!(config.domain, "mesh.internal");
    assert!((1..=2).contains(&config.workers));
    assert_eq!(config.log, Log { format: LogFormat::Text, filter: "info".into(), access: false });
    assert_eq!(config.limits.head_bytes_max, 65_536);
    assert_eq!(config.limits.connections_max, 16_384);
    assert_eq!(config.policy_host.memory_bytes_max, 16 << 20);
    assert_eq!(config.policy_host.call_budget, Duration::from_millis(2));
    assert!(config.policy_host.direct_calls);
    assert_eq!(config.policy_host.quarantine_failures, 5);
    assert_eq!(config.defaults.balancer.policy, "p2c");
    assert_eq!(config.defaults.balancer.config, None);
    assert_eq!(config.defaults.retry, Retry { attempts: 2, statuses: vec![] });
    assert!(config.services.is_empty() && config.routes.is_empty() && config.policies.is_empty());
}

#[test]
fn captured_traffic_takes_the_usual_address() {
    let config = read(&format!("{MINIMAL}capture: {{}}\n"));
    assert!(config.outbound.is_empty(), "nowhere, unless it is said");
    let capture = config.capture.unwrap();
    let text = |listen: &Listen| listen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&capture.outbound), ["127.0.0.1:15001", "[::1]:15001"]);
    assert_eq!(text(&capture.inbound), ["0.0.0.0:15006", "[::]:15006"]);
    assert!(capture.outbound.is_default && capture.inbound.is_default);
    assert_eq!((capture.unknown, capture.detect), (Unknown::Pass, Duration::from_millis(200)));
    assert_eq!(capture.idle, Duration::from_secs(3600));
    let text_of_file = "capture: {outbound: [], inbound: 0.0.0.0:1, unknown: refuse, detect: 1s, idle: 5m, \
                        opaque_inbound: ['22', 8000-8099]}";
    let config = read(&format!("{MINIMAL}{text_of_file}\n"));
    assert_eq!(config.outbound, ["127.0.0.1:15001".parse::<SocketAddr>().unwrap()]);
    let capture = config.capture.unwrap();
    assert!(capture.outbound.addresses.is_empty() && !capture.inbound.is_default);
    assert_eq!((capture.unknown, capture.idle), (Unknown::Refuse, Duration::from_secs(300)));
    let opaque = [21, 22, 7999, 8000, 8099, 8100].map(|port| capture.opaque_inbound.hold(port));
    assert_eq!(opaque, [false, true, false, true, true, false]);
}

const FULL: &str = r#"
node: {service: web, zone: a}
workers: 3
outbound: ["127.0.0.1:15001", "[::1]:15001"]
admin:
  listen: unix:run/admin.sock
  token: s3cret
registry: {file: services.yaml}
domain: Shop.Internal
forwarded: both
log: {format: json, filter: "info,outrigger=debug", access: true}
limits: {connections_max: 10, head_bytes_max: 8KiB, headers_max: 64, pool_idle_max: 0, endpoint_connections_max: 5}
policy_host:
  cache_dir: none
  memory_bytes_max: 8MiB
  component_bytes_max: 1048576
  instances_max: 100
  call_budget: 500us
  update_budget: 1s
  direct_calls: false
  quarantine: {failures: 3, window: 1m}
policies:
  my-p2c: {file: ./my_p2c.wasm}
defaults:
  timeouts: {connect: 500ms}
  retry: {attempts: 3}
services:
  web:
    balancer: {policy: maglev, config: {table_size: 65537, nested: [1, 2.5, "x", null, true]}}
    hash_key: {header: X-User}
    timeouts: {request: 10s, idle: 1h}
    retry: {statuses: [503, 502, 503]}
    ejection: {consecutive_failures: 0, time: 2s, time_max: 30s, panic_threshold: 0}
  shop:
    balancer: my-p2c
    hash_key: source-address
routes:
  - name: api
    match: {hosts: [Web, "*.shop.internal"], path_prefix: /api/, methods: [get, POST]}
    service: web
    labels: {version: v1}
  - router:
      policy: canary
      config: {percent: 5}
    match: {path_prefix: /}
    backends: {zeta: {service: web, labels: {version: v1}}, alpha: web}
    hash_key: {cookie: id}
"#;

#[test]
fn reads_everything() {
    let config = read(FULL);
    assert_eq!(config.node, Node { service: "web".into(), zone: "a".into() });
    assert_eq!((config.workers, config.outbound.len()), (3, 2));
    assert_eq!(config.admin.listen, AdminListen::Unix("/etc/outrigger/run/admin.sock".into()));
    assert_eq!(config.admin.token, Some(Secret("s3cret".into())));
    assert_eq!(config.domain, "shop.internal");
    assert_eq!(config.forwarded, ForwardedFields::Both);
    assert_eq!(config.policy_host.cache_dir, None);
    assert_eq!(config.policy_host.component_bytes_max, 1 << 20);
    assert_eq!(config.policy_host.instances_max, 100);
    assert_eq!(config.policy_host.call_budget, Duration::from_micros(500));
    assert!(!config.policy_host.direct_calls);
    let file = PathBuf::from("/etc/outrigger/./my_p2c.wasm");
    assert_eq!(config.policies["my-p2c"].origin, PolicyOrigin::File(file));
    let web = &config.services["web"];
    let maglev = r#"{"table_size":65537,"nested":[1,2.5,"x",null,true]}"#;
    assert_eq!(web.balancer.config.as_deref(), Some(maglev));
    assert_eq!(web.hash_key, HashKey::Header("x-user".into()));
    assert_eq!(web.timeouts.connect, Duration::from_millis(500), "from defaults");
    assert_eq!(web.timeouts.idle, Duration::from_secs(3600));
    assert_eq!(web.retry, Retry { attempts: 3, statuses: vec![502, 503] });
    assert_eq!(web.ejection.panic_threshold, 0.0);
    assert_eq!(config.services["shop"].hash_key, HashKey::SourceAddress);
}

#[test]
fn reads_routes_in_order() {
    let config = read(FULL);
    let [api, canary] = &config.routes[..] else { panic!("two routes") };
    assert_eq!(api.name, "api");
    assert_eq!(api.matches.hosts, ["web", "*.shop.internal"]);
    assert_eq!(api.matches.path_prefix.as_deref(), Some("/api"));
    assert_eq!(api.matches.methods, ["GET", "POST"]);
    let RouteAction::Forward(backend) = &api.action else { panic!("forwards") };
    assert_eq!((backend.service.as_str(), backend.labels["version"].as_str()), ("web", "v1"));
    assert_eq!(canary.name, "route-1");
    assert_eq!(canary.matches.path_prefix, None, "fits every path");
    let RouteAction::Router { policy, backends, hash_key } = &canary.action else { panic!("asks a router") };
    assert_eq!(backends.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["zeta", "alpha"]);
    assert_eq!(*hash_key, HashKey::Cookie("id".into()));
    assert_eq!(policy.config.as_deref(), Some(r#"{"percent":5}"#));
    assert_eq!(policy.place.to_string(), "o.yaml:44:15");
}

#[test]
fn remembers_where_policies_are_named() {
    let config = read(FULL);
    let place = |place: &Place| (place.line, place.column);
    assert_eq!(place(&config.services["web"].balancer.place), (29, 40), "its configuration");
    assert_eq!(place(&config.services["shop"].balancer.place), (35, 15), "its name");
    assert_eq!(place(&config.policies["my-p2c"].place), (23, 18), "its file");
    assert_eq!(place(&config.routes[1].place), (42, 5));
}

#[test]
fn reports_every_error_at_its_place() {
    let text = "\
outbnd: 127.0.0.1:15001
workers: many
registry: {file: services.yaml}
services:
  web:
    balancr: p2c
    timeouts: {connect: 5, request: 0s}
    retry: {attempts: 11, statuses: [503, 200]}
  Shop: {}
routes:
  - service: web
    match: {hosts: ['*', web:80], methods: 'GET'}
  - {}
";
    assert_eq!(
        errors(text),
        [
            "o.yaml:1:1: outbnd: unknown field `outbnd`; did you mean `outbound`?",
            "o.yaml:2:10: workers: expected a whole number, found text",
            "o.yaml:6:5: services.web.balancr: unknown field `balancr`; did you mean `balancer`?",
            "o.yaml:7:25: services.web.timeouts.connect: expected a duration with its unit, such as `500ms`, `2s` or `1m`, found a number",
            "o.yaml:7:37: services.web.timeouts.request: must be longer than zero",
            "o.yaml:8:23: services.web.retry.attempts: 11 is out of range: 1 to 10",
            "o.yaml:8:43: services.web.retry.statuses[1]: 200 is out of range: 400 to 599",
            "o.yaml:9:3: services.Shop: `Shop` cannot be a name: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end",
            "o.yaml:12:21: routes[0].match.hosts[0]: `*` is every host; leave `hosts` out instead",
            "o.yaml:12:26: routes[0].match.hosts[1]: `web:80`: hosts are given without scheme and port",
            "o.yaml:12:44: routes[0].match.methods: expected a list, found text",
            "o.yaml:13:5: routes[1]: either `service` or `router` is needed",
        ]
    );
}

#[test]
fn needs_a_registry() {
    let message = "field `registry` is missing; as in `registry: {file: services.yaml}`";
    assert_eq!(errors(""), [format!("o.yaml:1:1: registry: {message}")]);
    assert_eq!(errors("# nothing\n"), [format!("o.yaml:1:1: registry: {message}")]);
    assert_eq!(errors_with("workers: 0"), ["o.yaml:2:10: workers: 0 is out of range: 1 to 256"]);
}

/// What is wrong about the error of this line, so that one run of a table shows every difference.
fn differs(line: &str, expected: &str) -> Option<String> {
    let errors = errors_with(line);
    (errors != [format!("o.yaml:{expected}")]).then(|| format!("{line} leads to {errors:?}"))
}

/// One line of a file (its second), and the one error it leads to.
#[test]
fn says_what_is_wrong_with_a_setting() {
    let name_rule = "1 to 63 lower-case letters, digits and hyphens, no hyphen at either end";
    let mut wrong = Vec::new();
    for (line, error) in [
        ("node: {service: Web}", format!("2:17: node.service: `Web` cannot be a name: {name_rule}")),
        ("workers: 257", "2:10: workers: 257 is out of range: 1 to 256".into()),
        ("admin: {listen: 'unix:'}", "2:17: admin.listen: an empty path".into()),
        ("admin: {token: ''}", "2:16: admin.token: the token is empty".into()),
        (
            "admin: {token: 'a b'}",
            "2:16: admin.token: the token may only hold printable ASCII characters, and no spaces".into(),
        ),
        ("admin: {token: a, token_file: /dev/null}", "2:16: admin.token: `token` and `token_file` exclude each other".into()),
        (
            "admin: {listen: 0.0.0.0:1}",
            "2:8: admin: a token is required, since 0.0.0.0:1 can be reached from other machines; give `token_file`".into(),
        ),
        ("registri: {}", "2:1: registri: unknown field `registri`; did you mean `registry`?".into()),
        ("domain: a..b", "2:9: domain: `a..b` is not a domain name".into()),
        ("forwarded: x-forward", "2:12: forwarded: unknown value `x-forward`; did you mean `x-forwarded`?".into()),
        ("log: {format: yaml}", "2:15: log.format: unknown value `yaml`; known here: `text`, `json`".into()),
        ("limits: {head_bytes_max: 10}", "2:26: limits.head_bytes_max: 10 is out of range: 1024 to 1048576".into()),
        ("limits: {headers_max: 0}", "2:23: limits.headers_max: 0 is out of range: 1 to 256".into()),
        (
            "policy_host: {memory_bytes_max: 16MB}",
            "2:33: policy_host.memory_bytes_max: `16MB` is not a size: a whole number and `B`, `KiB`, `MiB` or `GiB`, as in `64KiB`".into(),
        ),
        ("policy_host: {cache_dir: ''}", "2:26: policy_host.cache_dir: an empty path; `none` turns the cache off".into()),
        ("policy_host: {call_budget: 0ms}", "2:28: policy_host.call_budget: must be longer than zero".into()),
        ("policy_host: {quarantine: {window: 25h}}", "2:36: policy_host.quarantine.window: longer than a day (24h)".into()),
        ("policies: {p2c: {file: a.wasm}}", "2:12: policies.p2c: `p2c` is a built-in policy; choose another name".into()),
        ("policies: {My: {file: a.wasm}}", format!("2:12: policies.My: `My` cannot be a name: {name_rule}")),
        ("policies: {mine: {}}", "2:18: policies.mine.file: field `file` is missing".into()),
        ("policies: {mine: {file: ''}}", "2:25: policies.mine.file: an empty path".into()),
        ("policies: {mine: a.wasm}", "2:18: policies.mine: expected a mapping, found text".into()),
        ("defaults: {balancer: maglew}", "2:22: defaults.balancer: unknown balancer `maglew`; did you mean `maglev`?".into()),
        ("defaults: {balancer: canary}", "2:22: defaults.balancer: `canary` is a router; a balancer is needed here".into()),
        ("defaults: {balancer: {config: {}}}", "2:22: defaults.balancer.policy: field `policy` is missing".into()),
        (
            "defaults: {balancer: {policy: p2c, config: 5}}",
            "2:44: defaults.balancer.config: expected a mapping, found a number".into(),
        ),
        ("defaults: {hash_key: ip}", "2:22: defaults.hash_key: unknown value `ip`; known here: `none`, `source-address`, `path`, `header`, `cookie`".into()),
        ("defaults: {hash_key: header}", "2:22: defaults.hash_key: `header` needs a value, as in `{header: …}`".into()),
        ("defaults: {hash_key: {header: 'a b'}}", "2:31: defaults.hash_key.header: `a b` is not a header name".into()),
        ("defaults: {hash_key: {cookie: 'a;b'}}", "2:31: defaults.hash_key.cookie: `a;b` is not a cookie name".into()),
        (
            "defaults: {timeouts: {connect: 1sec}}",
            "2:32: defaults.timeouts.connect: `1sec` is not a duration: a whole number and `us`, `ms`, `s`, `m` or `h`, as in `500ms`".into(),
        ),
        ("defaults: {retry: {attempts: 0}}", "2:30: defaults.retry.attempts: 0 is out of range: 1 to 10".into()),
        ("defaults: {retry: {attempts: -1}}", "2:30: defaults.retry.attempts: expected a whole number from 0 to 4294967295, found -1".into()),
        ("defaults: {retry: {statuses: 503}}", "2:30: defaults.retry.statuses: expected a list, found a number".into()),
        ("defaults: {ejection: {panic_threshold: 1.5}}", "2:40: defaults.ejection.panic_threshold: 1.5 is out of range: 0 to 1".into()),
        ("defaults: {ejection: {time: 2m}}", "2:22: defaults.ejection: `time` (120s) is longer than `time_max` (60s)".into()),
        ("services: {a_b: {}}", format!("2:12: services.a_b: `a_b` cannot be a name: {name_rule}")),
    ] {
        wrong.extend(differs(line, &error));
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn says_what_is_wrong_with_a_listener() {
    let form = "an address is IP:port, as in `10.0.0.7:8080` or `[fd00::7]:8080`";
    let mut wrong = Vec::new();
    for (line, error) in [
        ("outbound: []", "2:11: outbound: an empty list; at least one address is needed".to_owned()),
        ("outbound: 15001", "2:11: outbound: expected text or a list of texts, found a number".into()),
        ("outbound: 0.0.0.0", format!("2:11: outbound: `0.0.0.0` has no port; {form}")),
        (
            "outbound: ['[::1]:99999']",
            format!("2:12: outbound[0]: port 99999 is out of range: 0 to 65535; {form}"),
        ),
        ("outbound: ['[::1]:9', '[::1]:9']", "2:23: outbound[1]: [::1]:9 is given twice".into()),
        ("outbound: 127.0.0.1:15020", "1:1: admin: 127.0.0.1:15020 is also given for `outbound`".into()),
        (
            "capture: {outbound: 127.0.0.1}",
            format!("2:21: capture.outbound: `127.0.0.1` has no port; {form}"),
        ),
        (
            "capture: {unknown: drop}",
            "2:20: capture.unknown: unknown value `drop`; known here: `pass`, `refuse`".into(),
        ),
        ("capture: {detect: 11s}", "2:19: capture.detect: longer than 10s".into()),
        (
            "capture: {opaque_inbound: ['22', 9-1]}",
            "2:34: capture.opaque_inbound[1]: `9-1` is not a port or a range, as in `8000-8099`".into(),
        ),
        (
            "capture: {outbound: [], inbound: []}",
            "2:10: capture: nothing is taken: both lists are empty; leave `capture` out".into(),
        ),
        (
            "capture: {inbound: 0.0.0.0:15001}",
            "2:20: capture.inbound: 0.0.0.0:15001 is also given for `capture.outbound`".into(),
        ),
        (
            "capture: {inbound: 0.0.0.0:15020}",
            "1:1: admin: 127.0.0.1:15020 is also given for `capture.inbound`".into(),
        ),
        (
            "dns: {listen: 127.0.0.1:15020}",
            "2:15: dns.listen: 127.0.0.1:15020 is also given for `admin`".into(),
        ),
    ] {
        wrong.extend(differs(line, &error));
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn says_what_is_wrong_with_a_route() {
    let name_rule = "1 to 63 lower-case letters, digits and hyphens, no hyphen at either end";
    let mut wrong = Vec::new();
    for (route, error) in [
        ("{service: web, router: canary, backends: {a: b}}", "2:10: routes[0]: `service` and `router` exclude each other".into()),
        ("{labels: {a: b}}", "2:10: routes[0]: either `service` or `router` is needed".to_owned()),
        ("{service: web, backends: {a: b}}", "2:25: routes[0].backends: `backends` goes with `router`, not `service`".into()),
        ("{service: web, hash_key: path}", "2:25: routes[0].hash_key: `hash_key` goes with `router`, not `service`".into()),
        ("{service: Web}", format!("2:20: routes[0].service: `Web` cannot be a name: {name_rule}")),
        ("{service: web, labels: {}}", "2:33: routes[0].labels: no labels; leave `labels` out to mean every endpoint".into()),
        (
            "{router: canary, labels: {a: b}, backends: {a: b}}",
            "2:27: routes[0].labels: `labels` goes with `service`; with `router`, each backend has its own".into(),
        ),
        ("{router: canary}", "2:10: routes[0].backends: a router needs at least one backend".into()),
        ("{router: canary, backends: {}}", "2:37: routes[0].backends: a router needs at least one backend".into()),
        ("{router: canary, backends: [a]}", "2:37: routes[0].backends: expected a mapping, found a list".into()),
        ("{router: canary, backends: {a: {}}}", "2:41: routes[0].backends.a.service: field `service` is missing".into()),
        ("{router: canary, backends: {A: b}}", format!("2:38: routes[0].backends.A: `A` cannot be a name: {name_rule}")),
        ("{router: p2c, backends: {a: b}}", "2:19: routes[0].router: `p2c` is a balancer; a router is needed here".into()),
        ("{router: canry, backends: {a: b}}", "2:19: routes[0].router: unknown router `canry`; did you mean `canary`?".into()),
        ("{service: web, name: a/b}", "2:31: routes[0].name: `a/b` cannot be a name: 1 to 100 letters, digits, hyphens, underscores and dots".into()),
        ("{service: web, match: {hosts: []}}", "2:40: routes[0].match.hosts: an empty list fits nothing; leave `hosts` out to mean any host".into()),
        ("{service: web, match: {hosts: [a.*.b]}}", "2:41: routes[0].match.hosts[0]: `a.*.b`: `*.` can only be the first label".into()),
        ("{service: web, match: {path_prefix: api}}", "2:46: routes[0].match.path_prefix: `api` does not start with a slash".into()),
        (
            "{service: web, match: {path_prefix: /a?b}}",
            "2:46: routes[0].match.path_prefix: `/a?b` is not a path: printable ASCII without spaces, `?` and `#`".into(),
        ),
        ("{service: web, match: {methods: ['G T']}}", "2:43: routes[0].match.methods[0]: `G T` is not a method".into()),
        ("{service: web, match: {method: [GET]}}", "2:33: routes[0].match.method: unknown field `method`; did you mean `methods`?".into()),
    ] {
        wrong.extend(differs(&format!("routes: [{route}]"), &error));
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(
        errors_with("routes:\n  - {name: a, service: web}\n  - {name: a, service: web}\n"),
        ["o.yaml:4:12: routes[1].name: `a` is also the name of the route on line 3"]
    );
}

#[test]
fn an_error_is_not_repeated_where_it_is_used() {
    let text = "policies: {mine: 5}\nservices: {web: {balancer: mine}}\nroutes: [{servic: web}]\n";
    assert_eq!(
        errors_with(text),
        [
            "o.yaml:2:18: policies.mine: expected a mapping, found a number",
            "o.yaml:4:11: routes[0].servic: unknown field `servic`; did you mean `service`?",
        ]
    );
    assert_eq!(
        errors_with("defaults: {timeouts: {connect: 0s}}\nservices: {a: {timeouts: {idle: 1s}}, b: {}}\n"),
        ["o.yaml:2:32: defaults.timeouts.connect: must be longer than zero"],
        "services inherit the value, not the error"
    );
    let after_a_refused_item = "routes: [5, {router: canry, backends: {a: b}}]";
    assert_eq!(
        errors_with(after_a_refused_item),
        [
            "o.yaml:2:10: routes[0]: expected a mapping, found a number",
            "o.yaml:2:22: routes[1].router: unknown router `canry`; did you mean `canary`?",
        ]
    );
}

#[test]
fn policies_of_your_own_serve_either_kind() {
    let text = "policies: {mine: {file: /x.wasm}}\nservices: {a: {balancer: mine}}\nroutes: [{router: mine, backends: {a: a}}]";
    let config = read(&format!("{MINIMAL}{text}"));
    assert_eq!(config.policies["mine"].origin, PolicyOrigin::File(PathBuf::from("/x.wasm")));
    assert_eq!(errors_with(&text.replace("balancer: mine", "balancer: mien")).len(), 1);
}

#[test]
fn reads_the_token() {
    let directory = tempfile::TempDir::new().unwrap();
    let token = directory.path().join("token");
    let text = format!("{MINIMAL}admin: {{listen: '0.0.0.0:15020', token_file: token}}\n");
    let load = |content: &str| {
        std::fs::write(&token, content).unwrap();
        parse(&text, "o.yaml", directory.path()).map_err(|errors| errors[0].message.clone())
    };
    assert_eq!(load("s3cret\n").unwrap().admin.token, Some(Secret("s3cret".into())));
    assert_eq!(load(" \n").unwrap_err(), "the token is empty");
    assert_eq!(
        load("a\nb").unwrap_err(),
        "the token may only hold printable ASCII characters, and no spaces"
    );
    assert_eq!(load(&"x".repeat(5000)).unwrap_err(), "the token is longer than 4096 bytes");
    std::fs::remove_file(&token).unwrap();
    let errors = parse(&text, "o.yaml", directory.path()).unwrap_err();
    assert_eq!(
        (errors[0].place.line, errors[0].place.column, errors[0].path.as_str()),
        (2, 46, "admin.token_file")
    );
    assert!(errors[0].message.starts_with("cannot read "), "{}", errors[0]);
    let mapped = "admin: {listen: '[::ffff:127.0.0.1]:1'}";
    assert_eq!(read(&format!("{MINIMAL}{mapped}")).admin.token, None, "loopback in another form");
}

#[test]
fn loads_files_and_says_why_not() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("o.yaml");
    let load_bytes = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        load(&file).map_err(|errors| errors[0].to_string().rsplit('/').next().unwrap_or_default().to_owned())
    };
    let config = load_bytes(MINIMAL.as_bytes()).unwrap();
    assert_eq!(config.registry.source, RegistrySource::File(directory.path().join("services.yaml")));
    assert_eq!(
        load_bytes(b"# caf\xc3\xa9\nnode: {zone: \xc3\xa9\xff}\n").unwrap_err(),
        "o.yaml:2:15: not UTF-8 from here on"
    );
    let padded = [b"#", " ".repeat(1 << 20).as_bytes()].concat();
    assert_eq!(load_bytes(&padded).unwrap_err(), "o.yaml: larger than 1048576 bytes");
    assert!(load(directory.path()).unwrap_err()[0].message.starts_with("cannot be read: "));
    assert!(load(Path::new("/nowhere/o.yaml")).unwrap_err()[0].message.contains("No such file"));
}

#[test]
fn has_a_schema_with_descriptions() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "Outrigger configuration");
    assert_eq!(schema["required"], serde_json::json!(["registry"]));
    let root = schema["properties"].as_object().unwrap();
    assert_eq!(root.keys().next().map(String::as_str), Some("node"), "in the order of the type");
    let definitions = schema["$defs"].as_object().unwrap();
    let objects = std::iter::once(&schema).chain(definitions.values()).filter(|of| of["type"] == "object");
    for object in objects {
        assert_eq!(object["additionalProperties"], false, "{object:#}");
        for (name, property) in object["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name} is not described");
        }
    }
}

/// Every field of the fullest example is in the schema, and every `$ref` leads somewhere.
#[test]
fn the_schema_knows_every_field() {
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                found.extend(map.get("$ref").and_then(|target| target.as_str()).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let schema = schema();
    let mut found = Vec::new();
    references(&schema, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for target in found {
        assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
    }
    for field in FULL.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())) {
        let name = field.split(':').next().unwrap();
        assert!(schema["properties"][name].is_object(), "{name}");
    }
}

#[test]
fn registries_over_the_network() {
    let text = "
node: {service: web, zone: a}
registry:
  etcd: {endpoints: ['http://10.0.0.1:2379', 'http://[fd00::1]:2379'], prefix: /mesh}
  services: [api, web]
  stale: {after: 1m, then: leave-out}
  register: {address: '10.0.0.7:80', version: v2, check: {kind: http, path: /healthz}}
state_dir: state
";
    let config = read(text);
    let registry = &config.registry;
    let RegistrySource::Etcd(etcd) = &registry.source else { panic!("etcd") };
    assert_eq!((etcd.servers[1].to_string(), &*etcd.prefix), ("[fd00::1]:2379".into(), "/mesh"));
    assert_eq!(registry.services.as_ref().map(std::collections::BTreeSet::len), Some(2));
    assert!(registry.stale.leave_out && registry.mass_removal.share == 0.5);
    let register = registry.register.as_ref().unwrap();
    assert_eq!((&*register.service, &*register.zone, &*register.id), ("web", "a", "10.0.0.7-80"));
    assert_eq!(register.labels["version"], "v2");
    assert_eq!(register.check.as_ref().unwrap().address, register.address);
    assert_eq!(config.state_dir, Some(PathBuf::from("/etc/outrigger/state")));
}

#[test]
fn reports_what_is_wrong_with_a_registry() {
    let text = "\
registry:
  file: services.yaml
  consul:
    endpoints: [http://127.0.0.1, 'ftp://10.0.0.1:8501']
    token_file: /no/such/file
  services: [Web]
  mass_removal: {share: 2}
  register:
    address: localhost:80
    ttl: 1s
    check: {kind: tcp, path: /}
";
    let found = errors(text).join("\n");
    for expected in [
        "2:3: registry: `file`, `etcd` and `consul` exclude each other",
        "4:17: registry.consul.endpoints[0]: `http://127.0.0.1` has no port",
        "4:35: registry.consul.endpoints[1]: `ftp://10.0.0.1:8501` is not a URL",
        "5:17: registry.consul.token_file: cannot read /no/such/file",
        "6:14: registry.services[0]: `Web` cannot be a name",
        "7:25: registry.mass_removal.share: 2 is out of range",
        "9:5: registry.register: no service is named",
        "9:14: registry.register.address: `localhost` is a host name",
        "10:10: registry.register.ttl: shorter than 3s",
        "11:30: registry.register.check.path: `path` does not go with this kind of check",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
    for (written, expected) in [(":0", "`:0` is not a port"), ("::1:80", "`::1:80` has no port")] {
        let etcd = "etcd: {endpoints: [http://127.0.0.1:1]}";
        let text = format!("registry: {{{etcd}, register: {{service: web, address: '{written}'}}}}");
        let found = errors(&text).join("\n");
        assert!(found.contains(expected), "{found}");
    }
    let none = errors("registry: {services: [web]}").join("\n");
    assert!(none.contains("field `file` is missing; or one of `etcd` and `consul`"), "{none}");
    let file =
        errors("registry: {file: s.yaml, register: {address: '10.0.0.1:80', service: web}}").join("\n");
    assert!(file.contains("nothing can be registered in a file"), "{file}");
}

#[test]
fn reports_what_is_wrong_with_tls_to_a_registry() {
    let endpoints = |urls: &str, tls: &str| {
        errors(&format!("registry:\n  etcd:\n    endpoints: [{urls}]\n    tls: {{{tls}}}\n")).join("\n")
    };
    let secure = "'https://10.0.0.1:2379'";
    for (tls, expected) in [
        (
            "ca_file: no.pem",
            "4:20: registry.etcd.tls.ca_file: /etc/outrigger/no.pem: cannot be read: No such file",
        ),
        (
            "ca_file: /dev/null",
            "4:20: registry.etcd.tls.ca_file: /dev/null: holds no certificate in PEM form",
        ),
        ("cert_file: a.crt", "4:22: registry.etcd.tls.cert_file: `cert_file` needs `key_file`"),
        ("key_file: a.key", "4:21: registry.etcd.tls.key_file: `key_file` needs `cert_file`"),
        ("server_name: 'a b'", "4:24: registry.etcd.tls.server_name: `a b` cannot be in a certificate"),
        ("ca: x", "4:11: registry.etcd.tls.ca: unknown field `ca`"),
    ] {
        let found = endpoints(secure, tls);
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
    let plain = endpoints("'http://10.0.0.1:2379'", "ca_file: no.pem");
    assert!(plain.contains("4:10: registry.etcd.tls: no endpoint begins with `https://`"), "{plain}");
    let mixed = endpoints("'https://10.0.0.1:2379', 'http://10.0.0.2:2379'", "ca_file: no.pem");
    assert!(mixed.contains("3:42: registry.etcd.endpoints[1]: `http` beside `https`"), "{mixed}");
}

#[test]
fn a_release_says_what_it_takes() {
    let directory = tempfile::TempDir::new().unwrap();
    let key = crate::release::SigningKey::generate().unwrap().0.public();
    std::fs::write(directory.path().join("ours.pub"), key.pem()).unwrap();
    let read = |rest: &str| {
        let text = format!("registry: {{etcd: {{endpoints: 'http://127.0.0.1:2379'}}}}\n{rest}");
        parse(&text, "o.yaml", directory.path()).map_err(|errors| errors[0].to_string())
    };
    let config =
        read("policies: {mine: {release: theirs, at_least: 3, keys: ours.pub}, other: {release: other}}");
    let config = config.unwrap();
    let release = |config: &Config, name: &str| match &config.policies[name].origin {
        PolicyOrigin::Release(release) => release.clone(),
        PolicyOrigin::File(file) => panic!("{}", file.display()),
    };
    let mine = release(&config, "mine");
    assert_eq!(
        (mine.name.as_str(), mine.trust.at_least, &*mine.trust.keys),
        ("theirs", 3, &[key.clone()][..])
    );
    assert!(release(&config, "other").trust.keys.is_empty());
    let config = read("policy_host: {trusted_keys: [ours.pub]}\npolicies: {mine: {release: mine}}").unwrap();
    assert_eq!(*release(&config, "mine").trust.keys, [key]);

    std::fs::write(directory.path().join("none.pub"), "junk").unwrap();
    for (wrong, message) in [
        ("policies: {mine: {release: mine, file: a.wasm}}", "`file` and `release` exclude each other"),
        ("policies: {mine: {release: Mine}}", "`Mine` cannot be a name"),
        ("policies: {mine: {release: mine, keys: []}}", "an empty list; leave it out"),
        ("policies: {mine: {release: mine, keys: none.pub}}", "none.pub: no PEM block `PUBLIC KEY` in it"),
        ("policy_host: {trusted_keys: gone.pub}", "gone.pub: No such file"),
    ] {
        let error = read(wrong).expect_err(wrong);
        assert!(error.contains(message), "{error}");
    }
    let stray = errors_with("policies: {mine: {file: a.wasm, at_least: 3}}");
    assert!(stray[0].contains("2:43: policies.mine.at_least: `at_least` goes with `release`"), "{stray:?}");
    let from_a_file = errors_with("policies: {mine: {release: mine}}");
    assert!(from_a_file[0].contains("2:28: policies.mine.release: releases are kept by"), "{from_a_file:?}");
}
