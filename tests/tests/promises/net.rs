//! One host's network, with real traffic between namespaces: reach, publish, keep apart, and leave no trace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use outrigger_tests::netlab::{
    Lab, NODE6, OUTSIDE6, ask, ask_udp, assert_same, ip, is_closed, serve, serve_udp,
};
use outrigger_tests::netns::Host;

const NETWORKS: &str = "networks:\n  web: {subnets: [10.88.0.0/24, 'fd88::/64']}\n";

/// A file with these workloads on the network `web`.
fn file(workloads: &[(&str, &Host, &str)]) -> String {
    let mut text = format!("{NETWORKS}workloads:\n");
    for (id, host, more) in workloads {
        let path = host.path();
        text += &format!("  {id}: {{namespace: {{path: {}}}, network: web{more}}}\n", path.display());
    }
    text
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn workloads_reach_each_other_and_the_outside() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    lab.apply(&file(&[("a", &a, ""), ("b", &b, "")]));
    serve(&b, 80);
    serve(&lab.outside, 81);
    for (is_ipv4, outside, node) in [
        (true, lab.outside.address.into(), lab.node.address.into()),
        (false, address(OUTSIDE6), address(NODE6)),
    ] {
        let (at_a, at_b) = (lab.address("a", is_ipv4), lab.address("b", is_ipv4));
        assert_eq!(ask(&a, at_b, 80), Some(at_a.to_string()), "untranslated, on one bridge");
        assert_eq!(ask(&a, outside, 81), Some(node.to_string()), "with the host's address, outside");
    }
    lab.undo();
}

#[test]
fn published_ports_are_open_from_everywhere() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b, c) = (lab.workload("a"), lab.workload("b"), lab.workload("c"));
    let text = file(&[("a", &a, ", publish: ['8080:80', '127.0.0.1:8081:80', '8082:80']"), ("b", &b, "")])
        .replace("workloads:", "  other: {subnets: [10.89.0.0/24, 'fd89::/64']}\nworkloads:");
    let c_path = c.path();
    lab.apply(&format!("{text}  c: {{namespace: {{path: {}}}, network: other}}\n", c_path.display()));
    serve(&a, 80);
    let node: [IpAddr; 2] = [lab.node.address.into(), address(NODE6)];
    for (is_ipv4, node) in [(true, node[0]), (false, node[1])] {
        let outside = if is_ipv4 { lab.outside.address.into() } else { address(OUTSIDE6) };
        assert_eq!(ask(&lab.outside, node, 8080), Some(outside.to_string()), "outside keeps its address");
        assert!(ask(&lab.node, node, 8080).is_some(), "the host, at its own address {node}");
        assert!(ask(&a, node, 8080).is_some(), "the workload itself, at {node}");
        assert!(ask(&b, node, 8080).is_some(), "its neighbour, at {node}");
        assert!(ask(&c, node, 8080).is_some(), "from another network, at {node}");
    }
    assert!(ask(&lab.node, Ipv4Addr::LOCALHOST, 8080).is_some(), "the host's loopback");
    // IPv6 does not leave loopback; so what the host itself serves there is served.
    serve(&lab.node, 8080);
    assert_eq!(ask(&lab.node, Ipv6Addr::LOCALHOST, 8080).as_deref(), Some("::1"));
    assert!(ask(&lab.node, Ipv4Addr::LOCALHOST, 8081).is_some(), "published there alone");
    assert!(is_closed(&lab.outside, node[0], 8081), "and nowhere else");
    assert!(ask(&lab.outside, node[0], 8082).is_some());
    lab.undo();
    assert!(is_closed(&lab.outside, node[0], 8082));
}

/// A bridge that routes 127.0.0.0/8, which published ports need, does not open the host's loopback.
#[test]
fn the_host_s_loopback_stays_its_own() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(&[("a", &a, ", publish: ['8080:80']")]));
    serve(&lab.node, 99);
    assert!(ask(&lab.node, Ipv4Addr::LOCALHOST, 99).is_some());
    ip(&a, &["link", "set", "lo", "down"]);
    ip(&a, &["address", "del", "127.0.0.1/8", "dev", "lo"]);
    a.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    ip(&a, &["route", "add", "127.0.0.0/8", "via", "10.88.0.1", "dev", "eth0"]);
    assert!(is_closed(&a, Ipv4Addr::LOCALHOST, 99));
    // It was the rule that stood in the way.
    let flush = lab.node.command("nft").args(["flush", "chain", "inet", "outrigger", "guard"]).status();
    assert!(flush.unwrap().success());
    assert!(ask(&a, Ipv4Addr::LOCALHOST, 99).is_some());
}

#[test]
fn published_udp_follows_its_workload() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let (first, second) =
        (file(&[("a", &a, ", publish: ['5300:53/udp']")]), file(&[("b", &b, ", publish: ['5300:53/udp']")]));
    lab.apply(&first);
    serve_udp(&a, (lab.address("a", true), 53).into());
    let node = SocketAddr::from((lab.node.address, 5300));
    let socket = lab.outside.enter(|| UdpSocket::bind((lab.outside.address, 0)).unwrap());
    assert_eq!(ask_udp(&socket, node), Some(lab.outside.address.to_string()));
    lab.apply(&second);
    serve_udp(&b, (lab.address("b", true), 53).into());
    // The same socket: its flow was decided when `a` had the port.
    assert_eq!(ask_udp(&socket, node), Some(lab.outside.address.to_string()));
}

#[test]
fn networks_are_apart_unless_they_say_otherwise() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts: Vec<Host> = ["a", "b", "c", "d"].iter().map(|name| lab.workload(name)).collect();
    let mut text = "networks:\n".to_owned();
    for (number, more) in [(1, ""), (2, ""), (3, ", isolated: false"), (4, ", isolated: false")] {
        text += &format!("  n{number}: {{subnets: [10.9{number}.0.0/24, 'fd9{number}::/64']{more}}}\n");
    }
    text += "workloads:\n";
    for (index, host) in hosts.iter().enumerate() {
        let number = index + 1;
        text +=
            &format!("  w{number}: {{namespace: {{path: {}}}, network: n{number}}}\n", host.path().display());
        serve(host, 80);
    }
    lab.apply(&text);
    for is_ipv4 in [true, false] {
        for (from, source) in hosts.iter().enumerate() {
            for to in (0..hosts.len()).filter(|to| *to != from) {
                let target = lab.address(&format!("w{}", to + 1), is_ipv4);
                if from >= 2 && to >= 2 {
                    let own = lab.address(&format!("w{}", from + 1), is_ipv4);
                    assert_eq!(ask(source, target, 80), Some(own.to_string()), "untranslated");
                } else {
                    assert!(is_closed(source, target, 80), "w{} to {target}", from + 1);
                }
            }
        }
    }
}

#[test]
fn undo_leaves_no_trace() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let hosts = [&lab.node, &a, &b];
    let before = hosts.map(|host| lab.dump(host));
    let capture = ", publish: ['8080:80'], capture: {}";
    lab.apply(&file(&[("a", &a, capture), ("b", &b, "")]));
    assert!(hosts.iter().zip(&before).all(|(host, before)| lab.dump(host) != *before));
    lab.undo();
    for (host, before) in hosts.iter().zip(&before) {
        assert_same(&lab.dump(host), before, "undone");
    }
    let status = lab.net(&["status"]).expect_ok("status");
    assert!(status.out.starts_with("in order: 0 networks, 0 workloads"), "{}", status.out);
}

#[test]
fn a_second_run_changes_nothing_and_drift_is_repaired() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let text = file(&[("a", &a, ", publish: ['8080:80'], capture: {}")]);
    let first = lab.apply(&text);
    assert!(!first["changes"].as_array().unwrap().is_empty());
    assert_eq!(lab.apply(&text)["changes"].as_array().unwrap().len(), 0);
    lab.net(&["status"]).expect_ok("in order");
    serve(&a, 80);
    let nft =
        |host: &Host, words: &[&str]| assert!(host.command("nft").args(words).status().unwrap().success());
    let at_a = lab.address("a", true).to_string();
    let drifts: [&dyn Fn(); 9] = [
        &|| nft(&lab.node, &["flush", "ruleset"]),
        &|| nft(&a, &["flush", "ruleset"]),
        &|| nft(&a, &["flush", "chain", "inet", "outrigger", "inbound"]),
        &|| {
            nft(
                &lab.node,
                &["insert", "rule", "inet", "outrigger", "published", "tcp", "dport", "8080", "accept"],
            )
        },
        &|| nft(&lab.node, &["flush", "map", "inet", "outrigger", "published4"]),
        &|| drop(ip(&a, &["address", "del", &format!("{at_a}/24"), "dev", "eth0"])),
        &|| drop(ip(&a, &["link", "del", "eth0"])),
        &|| drop(ip(&lab.node, &["link", "del", "or-web"])),
        &|| lab.node.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap()),
    ];
    for (index, drift) in drifts.iter().enumerate() {
        drift();
        let status = lab.net(&["status"]);
        assert_eq!(status.code, Some(1), "drift {index}: {status:?}");
        assert!(status.out.contains("the kernel differs"), "drift {index}: {}", status.out);
        lab.apply(&text);
        lab.net(&["status"]).expect_ok("repaired");
        let node = lab.node.address;
        // Captured inbound: nobody listens at 15006, so the published port is refused, not lost.
        assert!(is_closed(&lab.outside, node, 8080));
    }
    lab.apply(&file(&[("a", &a, ", publish: ['8080:80']")]));
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some());
}

#[test]
fn the_mtu_is_that_of_what_is_below() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    ip(&lab.node, &["link", "set", "eth0", "mtu", "1420"]);
    ip(&lab.node, &["route", "add", "default", "via", "10.77.0.2"]);
    lab.apply(&file(&[("a", &a, "")]));
    assert!(ip(&a, &["link", "show", "eth0"]).contains("mtu 1420"));
    assert!(ip(&lab.node, &["link", "show", "or-web"]).contains("mtu 1420"));
    ip(&lab.node, &["link", "set", "eth0", "mtu", "1400"]);
    assert_eq!(lab.net(&["status"]).code, Some(1));
    lab.apply(&file(&[("a", &a, "")]));
    assert!(ip(&a, &["link", "show", "eth0"]).contains("mtu 1400"));
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    ip(&lab.node, &["link", "add", "or-web", "type", "bridge"]);
    let before = lab.dump(&lab.node);
    let said = lab.net(&["apply", &lab.write(&file(&[("a", &a, "")]))]);
    assert!(!said.ok() && said.err.contains("a link or-web that is not ours"), "{said:?}");
    lab.undo();
    assert_same(&lab.dump(&lab.node), &before, "untouched");
}

#[test]
fn workloads_that_have_gone_are_collected() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let text = file(&[("a", &a, ""), ("b", &b, "")]).replace("10.88.0.0/24", "10.88.0.0/29");
    lab.apply(&text);
    let (was_a, was_b) = (lab.address("a", true), lab.address("b", true));
    a.remove();
    let said = lab.net(&["apply", &lab.write(&text)]);
    assert!(!said.ok() && said.err.contains("the namespace of workload `a`"), "{said:?}");
    let status = lab.net(&["status"]);
    assert!(!status.ok() && status.out.contains("namespace gone"), "{}", status.out);
    let said = lab.net(&["apply", &lab.write(&text), "--collect"]).expect_ok("collect");
    assert!(said.out.contains("a: its namespace is gone"), "{}", said.out);
    assert_eq!(lab.address("b", true), was_b);
    let status = lab.net(&["status"]).expect_ok("status");
    assert!(!status.out.contains(&was_a.to_string()), "{}", status.out);
}
