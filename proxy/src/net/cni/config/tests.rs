use super::*;
use crate::net::cni::request::{self, Environment};

fn request(command: &str, fields: &str) -> Request {
    let text = |text: &str| Some(text.to_owned());
    let environment = Environment {
        command: text(command),
        container: text("c1"),
        namespace: text("/run/netns/c1"),
        interface: text("eth0"),
        arguments: None,
    };
    let config = format!(r#"{{"cniVersion": "1.1.0", "name": "web", "type": "outrigger", {fields}}}"#);
    let command = request::command(&environment).unwrap();
    request::read(command, &environment, config.as_bytes()).unwrap()
}

fn good(fields: &str) -> Config {
    resolve(&request("ADD", fields)).unwrap()
}

const BRIDGED: &str = r#""prevResult": {"interfaces": [{"name": "cni0"}, {"name": "veth1"},
    {"name": "eth0", "sandbox": "/run/netns/c1"}], "ips": [{"address": "10.1.0.5/16", "interface": 2},
    {"address": "fd01::5/64", "interface": 2}, {"address": "10.9.0.1/24", "interface": 0}]}"#;

#[test]
fn alone_it_needs_subnets_and_little_more() {
    let config = good(r#""subnets": ["10.88.0.0/24", "fd88::/64"], "ipam": {}, "cni.dev/x": 1"#);
    let Kind::Alone { network, addresses, publish } = config.kind else { panic!("alone") };
    assert_eq!((network.key.as_str(), network.is_own), ("cni/web", true));
    let network = network.network;
    assert_eq!((network.bridge.as_str(), network.masquerade, network.isolated), ("or-web", true, true));
    assert!(addresses.is_empty() && publish.is_empty() && config.capture.is_none());
    assert_eq!((config.state.as_path(), config.dns.to_string().as_str()), (Path::new(STATE), "{}"));
    let config = good(
        r#""subnets": ["10.88.0.0/24"], "bridge": "b0", "mtu": 1400, "masquerade": false, "isolated": false,
        "capture": {"outbound": 0}, "dns": {"nameservers": ["10.88.0.1"]}, "state_dir": "/run/x",
        "capabilities": {"portMappings": true, "ips": true}, "runtimeConfig": {"ips": ["10.88.0.9/24", "10.88.0.9"],
        "portMappings": [{"hostPort": 8080, "containerPort": 80}, {"hostPort": 53, "containerPort": 53,
        "protocol": "UDP", "hostIP": "127.0.0.1"}, {"hostPort": 81, "containerPort": 81, "hostIP": "0.0.0.0"}]}"#,
    );
    let Kind::Alone { network, addresses, publish } = config.kind else { panic!("alone") };
    assert_eq!((network.network.bridge.as_str(), network.network.mtu), ("b0", Some(1400)));
    assert_eq!(addresses, ["10.88.0.9".parse::<IpAddr>().unwrap()]);
    let shown = |port: &Port| format!("{:?} {} {}:{}", port.address, port.protocol, port.host, port.workload);
    let ports: Vec<String> = publish.iter().map(shown).collect();
    assert_eq!(ports, ["None tcp 8080:80", "Some(127.0.0.1) udp 53:53", "None tcp 81:81"]);
    assert_eq!(config.capture.unwrap().outbound, None);
    assert_eq!(config.dns.to_string(), r#"{"nameservers":["10.88.0.1"]}"#);
}

#[test]
fn behind_another_plugin_it_captures_and_publishes() {
    let config = good(&format!(r#""capture": {{}}, {BRIDGED}"#));
    assert!(matches!(config.kind, Kind::Chained { door: None, .. }) && config.capture.is_some());
    let ports = r#""capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings":
        [{"hostPort": 8080, "containerPort": 80}]}"#;
    let Kind::Chained { door: Some(door), previous } = good(&format!("{ports}, {BRIDGED}")).kind else {
        panic!("chained")
    };
    assert_eq!(door.link.as_deref(), Some("cni0"));
    let addresses: Vec<String> = door.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((addresses, door.publish.len()), (vec!["10.1.0.5/16".to_owned(), "fd01::5/64".into()], 1));
    assert_eq!(previous["interfaces"][0]["name"], "cni0");
    // No port of this container's, but of others'.
    let none = good(&format!(r#""capabilities": {{"portMappings": true}}, {BRIDGED}"#));
    assert!(matches!(none.kind, Kind::Chained { door: None, .. }));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let subnets = r#""subnets": ["10.88.0.0/24"]"#;
    let port = |port: &str| format!(r#"{subnets}, "runtimeConfig": {{"portMappings": [{{{port}}}]}}"#);
    let cases = [
        (r#""mtu": 1500"#.to_owned(), 7, "field `subnets` is missing"),
        (
            r#""subnets": ["10.88.0.1/24"]"#.into(),
            7,
            "`10.88.0.1/24` is an address in a subnet; write 10.88.0.0/24",
        ),
        (
            format!(r#"{subnets}, "subnet": "x""#),
            2,
            r#"unknown field `subnet` ("x"); did you mean `subnets`?"#,
        ),
        (format!(r#"{subnets}, "capture": {{"dnss": 1}}"#), 2, "capture.dnss: unknown field `dnss` (1)"),
        (format!(r#"{subnets}, "bridge": 1"#), 7, "bridge: expected text, found a number"),
        (format!(r#"{subnets}, "mtu": 3"#), 7, "mtu: 3 is out of range"),
        (format!(r#"{subnets}, "state_dir": "x""#), 7, "state_dir"),
        (format!(r#"{subnets}, "ipam": {{"type": "host-local"}}"#), 2, r#"`ipam`: {"type":"host-local"}"#),
        (format!(r#"{subnets}, "ipMasq": true"#), 2, "`ipMasq`: true"),
        (format!(r#"{subnets}, "runtimeConfig": {{"mac": "02::1"}}"#), 2, r#"`runtimeConfig.mac`: "02::1""#),
        (
            format!(r#"{subnets}, "runtimeConfig": {{"ips": ["10.88.0.1"]}}"#),
            7,
            "10.88.0.1 is the network's own",
        ),
        (
            format!(r#"{subnets}, "runtimeConfig": {{"ips": ["10.99.0.9"]}}"#),
            7,
            "in none of the network's subnets",
        ),
        (format!(r#"{subnets}, "runtimeConfig": {{"portMappings": 1}}"#), 7, "`runtimeConfig.portMappings`"),
        (port(r#""hostPort": 0, "containerPort": 80"#), 7, "* 0 to 80 (tcp): `hostPort` is 1 to 65535"),
        (port(r#""hostPort": 80, "containerPort": 99999"#), 7, "`containerPort` is 1 to 65535"),
        (port(r#""hostPort": 1, "containerPort": 1, "protocol": "sctp""#), 7, "(sctp): only TCP and UDP"),
        (port(r#""hostPort": 1, "containerPort": 1, "hostIP": "::1""#), 7, "no address of that family"),
        (port(r#""hostPort": 1, "containerPort": 1, "hostIP": "x""#), 7, "`hostIP` is not an IP address"),
        (format!(r#"{subnets}, {BRIDGED}"#), 2, "`subnets`: [\"10.88.0.0/24\"]"),
        (format!(r#"{subnets}, "network": "mesh""#), 7, "`subnets` beside `network`"),
        (r#""network": "mesh", "state_dir": "/nowhere""#.into(), 7, "this host has no network `mesh`"),
        (r#""network": "cni/web", "state_dir": "/nowhere""#.into(), 7, "this host has no network `cni/web`"),
        (format!(r#""network": "mesh", {BRIDGED}"#), 2, "`network`: \"mesh\""),
        (BRIDGED.into(), 7, "nothing is to be done behind another plugin"),
        (
            format!(r#""capture": {{}}, "runtimeConfig": {{"ips": ["10.1.0.9"]}}, {BRIDGED}"#),
            7,
            "another plugin gives",
        ),
    ];
    for (fields, code, message) in cases {
        let refusal = resolve(&request("ADD", &fields)).unwrap_err();
        assert!(refusal.code == code && refusal.message.contains(message), "{message}: {refusal:?}");
    }
    let two = resolve(&request("ADD", r#""subnets": ["x"], "mtu": 1"#)).unwrap_err();
    assert_eq!(two.details.unwrap(), "mtu: 1 is out of range: 1280 to 65535");
}

#[test]
fn what_it_made_itself_comes_back_when_it_checks() {
    let fields = format!(r#""subnets": ["10.88.0.0/24"], {BRIDGED}"#);
    assert!(matches!(resolve(&request("CHECK", &fields)).unwrap().kind, Kind::Alone { .. }));
    let status = resolve(&request("STATUS", r#""capture": {}"#)).unwrap();
    assert!(matches!(status.kind, Kind::Chained { .. }));
}
