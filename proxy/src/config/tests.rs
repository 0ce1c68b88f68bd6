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
    assert_eq!(config.registry, RegistrySource::File(PathBuf::from("/etc/outrigger/services.yaml")));
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
    assert_eq!(config.policy_host.quarantine_failures, 5);
    assert_eq!(config.defaults.balancer.policy, "p2c");
    assert_eq!(config.defaults.balancer.config, "{}");
    assert_eq!(config.defaults.retry, Retry { attempts: 2, statuses: vec![] });
    assert!(config.services.is_empty() && config.routes.is_empty() && config.policies.is_empty());
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
  call_budget: 500us
  update_budget: 1s
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
    assert_eq!(config.policy_host.call_budget, Duration::from_micros(500));
    assert_eq!(config.policies["my-p2c"].file, PathBuf::from("/etc/outrigger/./my_p2c.wasm"));
    let web = &config.services["web"];
    let maglev = r#"{"table_size":65537,"nested":[1,2.5,"x",null,true]}"#;
    assert_eq!(web.balancer.config, maglev);
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
    assert_eq!(policy.config, r#"{"percent":5}"#);
    assert_eq!(policy.place.to_string(), "o.yaml:42:15");
}

#[test]
fn remembers_where_policies_are_named() {
    let config = read(FULL);
    let place = |place: &Place| (place.line, place.column);
    assert_eq!(place(&config.services["web"].balancer.place), (27, 40), "its configuration");
    assert_eq!(place(&config.services["shop"].balancer.place), (33, 15), "its name");
    assert_eq!(place(&config.policies["my-p2c"].place), (21, 18), "its file");
    assert_eq!(place(&config.routes[1].place), (40, 5));
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
