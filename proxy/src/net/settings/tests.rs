use super::*;

fn errors(text: &str) -> Vec<String> {
    let problems = parse(text, "network.yaml", Path::new("/etc/outrigger")).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn good(text: &str) -> Settings {
    parse(text, "network.yaml", Path::new("/etc/outrigger")).unwrap()
}

#[test]
fn little_need_be_said() {
    let settings = good(
        "networks:\n  web: {subnets: [10.77.0.0/24, 'fd77::/64']}\n\
         workloads:\n  shop: {namespace: {pid: 7}, network: web, publish: ['8080:80', '[fd00::1]:53/udp'], capture: {}}\n",
    );
    let network = &settings.networks["web"];
    assert_eq!((network.bridge.as_str(), network.mtu), ("or-web", None));
    assert!(network.masquerade && network.isolated);
    let gateways: Vec<String> = network.gateways().map(|gateway| gateway.to_string()).collect();
    assert_eq!(gateways, ["10.77.0.1/24", "fd77::1/64"]);
    let workload = &settings.workloads["shop"];
    assert_eq!(workload.namespace.path(), Path::new("/proc/7/ns/net"));
    let plug = workload.plug.as_ref().unwrap();
    assert_eq!(plug.interface, "eth0");
    let shown = |port: &Port| format!("{:?} {} {}:{}", port.address, port.protocol, port.host, port.workload);
    let ports: Vec<String> = plug.publish.iter().map(shown).collect();
    assert_eq!(ports, ["None tcp 8080:80", "Some(fd00::1) udp 53:53"]);
    let capture = workload.capture.as_ref().unwrap();
    assert_eq!((capture.outbound, capture.inbound, capture.dns), (Some(15001), Some(15006), Some(15053)));
    assert_eq!(capture.except_outbound.users, [1337]);
}

#[test]
fn a_relative_namespace_starts_at_the_file() {
    let settings =
        good("workloads:\n  a: {namespace: {path: ns/a}, capture: {sidecar: {mark: 5}, inbound: 0}}\n");
    let workload = &settings.workloads["a"];
    assert_eq!(workload.namespace.path(), Path::new("/etc/outrigger/ns/a"));
    let capture = workload.capture.as_ref().unwrap();
    assert_eq!((capture.inbound, capture.except_outbound.users.len()), (None, 0));
    assert_eq!(capture.except_outbound.marks, [5]);
}

#[test]
fn each_error_has_its_place() {
    let text = "\
networks:
  web: {subnets: [10.77.0.9/24]}
  other: {subnets: [10.78.0.0/31]}
  third: {subnets: [10.79.0.0/24, 10.80.0.0/24], mtu: 100}
  a-very-long-name: {subnets: ['fd78::/64']}
  fifth: {subnets: [10.79.0.128/25]}
  sixth: {}
workloads:
  a: {namespace: {pid: 1, fd: 3}, network: wob}
  b: {namespace: {pid: 1}}
  c: {namespace: {pid: 1}, network: third, addresses: [10.79.0.1], publish: ['8080:80', nothing]}
  d: {namespace: {pid: 1}, network: third, addresses: [10.79.0.4], publish: ['8080:81']}
  e: {namespace: {pid: 1}, network: third, addresses: [10.79.0.4], publish: ['[fd00::1]:81:81', '[::1]:82']}
  f: {namespace: {pid: 1}, capture: {outbound: 0, inbound: 0, dns: 0}, interface: x}
  g: {namespace: {pid: 1}, capture: {except_outbound: {ports: ['9-8'], ranges: [ten]}}}
";
    let found = errors(text);
    let expected = [
        "2:19: networks.web.subnets[0]: `10.77.0.9/24` is an address in a subnet; write 10.77.0.0/24",
        "3:21: networks.other.subnets[0]: no workload can have an address of 10.78.0.0/31; as in 10.77.0.0/24",
        "4:35: networks.third.subnets[1]: a network has one subnet of each family at most",
        "4:55: networks.third.mtu: 100 is out of range: 1280 to 65535",
        "5:21: networks.a-very-long-name: `or-a-very-long-name` cannot be the name of a bridge; give `bridge` with at \
         most 15 letters, digits, `-`, `_` and `.`",
        "6:20: networks.fifth.subnets: 10.79.0.128/25 overlaps 10.79.0.0/24 of network `third`",
        "7:10: networks.sixth.subnets: field `subnets` is missing; as in `[10.77.0.0/24, 'fd77::/64']`",
        "9:18: workloads.a.namespace: a namespace is one of `{pid: …}`, `{path: …}` and `{fd: …}`",
        "9:44: workloads.a.network: there is no network `wob`; did you mean `web`?",
        "10:6: workloads.b: nothing is to be done for it; give `network`, `capture` or both",
        "11:56: workloads.c.addresses[0]: 10.79.0.1 is the network's own",
        "11:89: workloads.c.publish[1]: `nothing` is not a port to publish; as in `8080:80`, `127.0.0.1:8080:80`, \
         `[fd00::1]:8080:80` or `5353:53/udp`",
        "12:78: workloads.d.publish[0]: port 8080 (tcp) is already published",
        "13:56: workloads.e.addresses[0]: 10.79.0.4 is also asked for by `d`",
        "13:78: workloads.e.publish[0]: network `third` has no subnet of that family",
        "13:97: workloads.e.publish[1]: network `third` has no subnet of that family",
        "13:97: workloads.e.publish[1]: IPv6 does not leave loopback: nothing can be published at ::1",
        "14:37: workloads.f.capture: nothing is captured: `outbound`, `inbound` and `dns` are all 0",
        "14:83: workloads.f.interface: `interface` needs `network`",
        "15:64: workloads.g.capture.except_outbound.ports[0]: `9-8` is not a port or a range, as in `8000-8099`",
        "15:81: workloads.g.capture.except_outbound.ranges[0]: `ten` is not an address range, as in `10.77.0.0/24` or \
         `fd77::/64`",
    ];
    let expected: Vec<String> = expected.iter().map(|line| format!("network.yaml:{line}")).collect();
    assert_eq!(found, expected, "{found:#?}");
}
