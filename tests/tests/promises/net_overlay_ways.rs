//! What may lie below an overlay and beside it: hosts that know each other by IPv6 alone, hardware that is not trusted with
//! checksums, an etcd that asks who we are.

use std::fs;
use std::net::IpAddr;

use outrigger_tests::hosts::{Hosts, Node, PORT, ping};
use outrigger_tests::netlab::{ask, ip};
use outrigger_tests::netrun::tool;
use outrigger_tests::wait;

const BOTH: &str = "ranges: [10.5.0.0/16, 'fd05::/48']";
const TUNNEL: &str = "or-vx.1";
/// Headers of an echo in each family.
const ECHO: [u32; 2] = [28, 48];

/// Starts both with this file, but for some of its words.
fn start(hosts: &Hosts, nodes: &mut [Node; 2], more: &str, (words, others): (&str, &str)) {
    for node in nodes {
        let text = hosts.file(node, more).replace(words, others);
        assert!(text.contains(others), "{text}");
        fs::write(node.folder.join("network.yaml"), text).unwrap();
        node.run_again();
        node.until_leased();
    }
}

/// By both families, and with packets that are just small enough.
fn reach(from: &Node, to: &Node, mtu: u32) {
    for ((own, address), echo) in from.addresses().iter().zip(to.addresses()).zip(ECHO) {
        let reached = || ask(&from.workload, address.parse::<IpAddr>().unwrap(), PORT);
        assert_eq!(&wait::until(&address, reached), own);
        assert!(
            ping(&from.workload, &address, mtu - echo) && !ping(&from.workload, &address, mtu - echo + 1)
        );
    }
}

#[test]
fn hosts_that_have_ipv6_alone_share_a_network() {
    let Some(mut hosts) = Hosts::new() else { return };
    let mut nodes = [(); 2].map(|()| hosts.node());
    let [one, two] = &nodes;
    let there = two.host.path();
    let there = there.file_name().unwrap().to_str().unwrap();
    ip(&one.host, &["link", "add", "six0", "type", "veth", "peer", "name", "six0", "netns", there]);
    for (node, address) in [(one, "fd78::1/64"), (two, "fd78::2/64")] {
        ip(&node.host, &["address", "add", address, "dev", "six0", "nodad"]);
        ip(&node.host, &["link", "set", "six0", "up"]);
    }
    start(&hosts, &mut nodes, BOTH, ("interface: eth0", "interface: six0"));
    let [one, two] = &nodes;
    // What VXLAN over IPv6 adds.
    reach(one, two, 1500 - 70);
    reach(two, one, 1500 - 70);
    let entries = tool(&one.host, &["bridge", "fdb"]).out;
    assert!(entries.contains("dst fd78::2") && !entries.contains("dst 10.77."), "{entries}");
}

#[test]
fn checksums_are_calculated_before_where_hardware_is_not_trusted() {
    let Some(mut hosts) = Hosts::new() else { return };
    let mut nodes = [(); 2].map(|()| hosts.node());
    let more = format!("{BOTH}\n      checksum_offload: false");
    start(&hosts, &mut nodes, &more, ("interface: eth0", "interface: eth0"));
    let [one, two] = &nodes;
    reach(one, two, 1500 - 50);
    assert!(features(one).contains("tx-checksum-ip-generic: off"), "{}", features(one));
    // Somebody turns it on again.
    tool(&one.host, &["ethtool", "-K", TUNNEL, "tx-checksum-ip-generic", "on"]);
    wait::until_true("it to be off again", || features(one).contains("tx-checksum-ip-generic: off"));
    reach(two, one, 1500 - 50);
    tool(&one.host, &["ip", "link", "del", TUNNEL]);
    reach(two, one, 1500 - 50);
    assert!(features(one).contains("tx-checksum-ip-generic: off"), "{}", features(one));
}

fn features(node: &Node) -> String {
    tool(&node.host, &["ethtool", "-k", TUNNEL]).out
}

#[test]
fn an_etcd_with_a_password_is_told_it() {
    let Some(mut hosts) = Hosts::new() else { return };
    let mut nodes = [(); 2].map(|()| hosts.node());
    hosts.etcd.require_password("secret-word");
    nodes.iter().for_each(|node| fs::write(node.folder.join("password"), "secret-word\n").unwrap());
    let known = "timeout: 1s, user: root, password_file: password";
    start(&hosts, &mut nodes, BOTH, ("timeout: 1s", known));
    let [one, two] = &mut nodes;
    reach(one, two, 1500 - 50);
    one.stop();
    one.net(&["undo"]).expect_ok("undo");
    let other = two.addresses()[0].clone();
    wait::until_true("the other host to know", || {
        two.status()["overlays"]["mesh"]["peers"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(two.addresses()[0], other);
}
