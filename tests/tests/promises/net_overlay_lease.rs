//! The subnets of a network on several hosts: leased in etcd, kept whatever happens to it, given up when another host
//! has one, and shared with hosts of flannel's.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use outrigger_tests::hosts::{Hosts, Node, PORT, ping};
use outrigger_tests::netlab::{ask, ip, serve};
use outrigger_tests::netrun::{Running, has_table, tool};
use outrigger_tests::wait;
use serde_json::json;

/// Short, so that what nobody renews ends within the test.
const SHORT: &str = "ranges: [10.5.0.0/16, 'fd05::/48']\n      lease: 10s";
const PREFIX: &str = "/coreos.com/network/subnets";

fn two(hosts: &mut Hosts) -> [Node; 2] {
    let mut nodes = [(); 2].map(|()| hosts.node());
    nodes.iter_mut().for_each(|node| hosts.start(node, SHORT));
    reached(&nodes[0], &nodes[1]);
    nodes
}

fn reached(from: &Node, to: &Node) {
    for address in to.addresses() {
        let address: IpAddr = address.parse().unwrap();
        wait::until_true("the other workload", || ask(&from.workload, address, PORT).is_some());
    }
}

/// A connection between the workloads that goes on as long as its packets do.
struct Talk(TcpStream, TcpStream);

impl Talk {
    fn begin(from: &Node, to: &Node) -> Self {
        let address = to.ipv4();
        let listener = to.workload.enter(|| TcpListener::bind((address.as_str(), 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let stream = from.workload.enter(|| TcpStream::connect((address.as_str(), port)).unwrap());
        Self(stream, listener.accept().unwrap().0)
    }

    #[track_caller]
    fn goes_on(&mut self) {
        let mut byte = [0];
        self.0.write_all(b"!").unwrap();
        self.1.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        self.1.read_exact(&mut byte).unwrap();
    }
}

fn lost(node: &Node, outcome: &str) -> f64 {
    let labels = [("network", "mesh"), ("outcome", outcome)];
    node.run().metrics().sum("outrigger_net_overlay_lost_total", &labels)
}

#[test]
fn a_lease_that_is_lost_is_regained_and_nobody_notices() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [one, two] = two(&mut hosts);
    let (key, addresses) = (one.key(), one.addresses());
    let mut talk = Talk::begin(&one, &two);
    let (_, lease) = hosts.lease_of(&key).unwrap();
    hosts.etcd.revoke(&lease);
    wait::until_true("the subnet to be leased again", || {
        hosts.lease_of(&key).is_some_and(|(_, new)| new != lease) && lost(&one, "regained") == 1.0
    });
    talk.goes_on();
    reached(&two, &one);
    assert_eq!((one.addresses(), one.key()), (addresses, key));
}

#[test]
fn a_subnet_that_another_host_has_meanwhile_is_given_up() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [mut one, two] = two(&mut hosts);
    let (key, before) = (one.key(), one.addresses());
    one.kill();
    let (_, lease) = hosts.lease_of(&key).unwrap();
    hosts.etcd.revoke(&lease);
    let other = json!({
        "PublicIP": "10.77.0.200", "PublicIPv6": "::", "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:c8"},
    });
    hosts.etcd.put(&format!("{PREFIX}/{key}"), &other.to_string());
    one.run_again();
    let is_new = wait::at_most(std::time::Duration::from_secs(20), || {
        one.try_addresses().filter(|now| *now != before)
    });
    assert!(is_new.is_some(), "{}", one.run().log());
    assert_ne!(one.key(), key);
    reached(&one, &two);
    reached(&two, &one);
    let told = one.run().log();
    assert!(told.contains("another host has our subnets now"), "{told}");
    assert!(hosts.lease_of(&key).is_some_and(|(value, _)| value == other), "the other host's key is its own");
}

/// The subnets of who lives are renewed past their time; of who has died, they end, and the others learn it.
#[test]
fn leases_are_renewed_and_end_with_their_host() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [one, mut two] = two(&mut hosts);
    let (stays, gone) = (one.key(), two.key());
    let (_, lease) = hosts.lease_of(&stays).unwrap();
    let subnet = gone.split(['-', '&']).next().unwrap().to_owned();
    let routed = || ip(&one.host, &["route"]).contains(&subnet);
    assert!(routed(), "{subnet}");
    two.kill();
    // It came later, so an older lease that nobody renewed would have ended before.
    wait::until_true("the dead host's lease to end", || hosts.lease_of(&gone).is_none());
    wait::until_true("its route to go", || !routed());
    assert_eq!(hosts.lease_of(&stays).map(|(_, lease)| lease), Some(lease), "renewed, not leased anew");
    assert_eq!((lost(&one, "regained"), one.key()), (0.0, stays));
}

#[test]
fn without_etcd_all_stays_as_it_is() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [mut one, two] = two(&mut hosts);
    let mut talk = Talk::begin(&one, &two);
    hosts.etcd.kill(0);
    wait::until_true("the trouble to be told", || one.run().troubles().contains("network `mesh`: etcd"));
    reached(&one, &two);
    // A new process has nobody to ask; what the store remembers holds, and is put right.
    one.kill();
    one.run_again();
    tool(&one.host, &["ip", "link", "del", "or-vx.1"]);
    tool(&one.host, &["nft", "flush", "ruleset"]);
    wait::until_true("the table to come back", || has_table(&one.host));
    reached(&one, &two);
    talk.goes_on();
    hosts.etcd.start_again(0);
    wait::until_true("no trouble", || one.run().troubles().contains("\"troubles\":[]"));
    let key = one.key();
    wait::until_true("the subnet to be leased", || hosts.lease_of(&key).is_some());
    talk.goes_on();
}

#[test]
fn a_host_that_boots_again_has_the_subnet_it_had() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [mut one, two] = two(&mut hosts);
    let (key, before) = (one.key(), ip(&two.host, &["route"]));
    let (_, lease) = hosts.lease_of(&key).unwrap();
    one.kill();
    // The kernel forgets all, and so does what is in memory.
    ip(&one.host, &["link", "del", "or-mesh"]);
    ip(&one.host, &["link", "del", "or-vx.1"]);
    tool(&one.host, &["nft", "flush", "ruleset"]);
    std::fs::remove_dir_all(one.folder.join("state")).unwrap();
    one.run_again();
    one.until_leased();
    assert_eq!((one.key(), ip(&two.host, &["route"])), (key.clone(), before));
    assert!(hosts.lease_of(&key).is_some_and(|(_, new)| new != lease), "it is a new lease");
    reached(&one, &two);
    reached(&two, &one);
}

#[test]
fn hosts_that_come_at_once_have_subnets_of_their_own() {
    const HOSTS: usize = 16;
    let Some(mut hosts) = Hosts::new() else { return };
    // Room for one more, so that many want the same.
    let more = "ranges: [10.5.0.0/19]\n      subnet_length: 24";
    let mut nodes: Vec<Node> = (0..HOSTS).map(|_| hosts.node()).collect();
    for node in &nodes {
        std::fs::write(node.folder.join("network.yaml"), hosts.file(node, more)).unwrap();
    }
    std::thread::scope(|scope| {
        nodes.iter_mut().for_each(|node| {
            scope.spawn(|| node.run_again());
        });
    });
    nodes.iter().for_each(Node::until_leased);
    let subnets: BTreeSet<String> = nodes.iter().map(Node::key).collect();
    assert_eq!(subnets.len(), HOSTS, "{subnets:?}");
    let (first, last) = (&nodes[0], &nodes[HOSTS - 1]);
    reached(first, last);
    wait::until_true("all to be known", || {
        first.run().metrics().sum("outrigger_net_overlay_peers", &[]) == (HOSTS - 1) as f64
    });
}

/// A host that flannel has set up, as far as others see it: its key in etcd, its device, and what it knows of us.
#[test]
fn a_host_of_flannels_shares_the_network() {
    let Some(mut hosts) = Hosts::new() else { return };
    // As an operator of flannel's founds it; nothing in our file says anything of it.
    let plan = json!({"Network": "10.9.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 7}});
    hosts.etcd.put("/coreos.com/network/config", &plan.to_string());
    let flannel = hosts.network.host("flannel");
    let mac = "2e:11:22:33:44:55";
    let link = ["link", "add", "flannel.7", "address", mac, "mtu", "1450", "type", "vxlan", "id", "7"];
    let local = flannel.address.to_string();
    ip(&flannel, &[&link[..], &["local", &local, "dev", "eth0", "nolearning", "dstport", "8472"]].concat());
    ip(&flannel, &["address", "add", "10.9.66.0/32", "dev", "flannel.7"]);
    ip(&flannel, &["link", "set", "flannel.7", "up"]);
    serve(&flannel, PORT);
    let data = json!({"VNI": 7, "VtepMAC": mac});
    let value = json!({"PublicIP": local, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": data});
    hosts.etcd.put(&format!("{PREFIX}/10.9.66.0-24"), &value.to_string());
    let mut one = hosts.node();
    hosts.start(&mut one, "lease: 1h");
    // Flannel reads our key as its own, and makes of it what it makes of any host's.
    let key = one.key();
    let (value, lease) = hosts.lease_of(&key).unwrap();
    assert_eq!((&value["PublicIP"], &value["BackendType"]), (&json!(one.host.address), &json!("vxlan")));
    assert_ne!(lease, "0");
    let subnet = key.replace('-', "/");
    let (via, own) = (subnet.split('/').next().unwrap(), value["BackendData"]["VtepMAC"].as_str().unwrap());
    ip(&flannel, &["route", "add", &subnet, "via", via, "dev", "flannel.7", "onlink"]);
    ip(&flannel, &["neighbour", "add", via, "lladdr", own, "dev", "flannel.7", "nud", "permanent"]);
    let to = one.host.address.to_string();
    tool(&flannel, &["bridge", "fdb", "add", own, "dev", "flannel.7", "dst", &to, "self", "permanent"]);
    let there: IpAddr = "10.9.66.0".parse().unwrap();
    wait::until_true("flannel's host", || ask(&one.workload, there, PORT) == Some(one.ipv4()));
    assert!(
        ask(&flannel, one.ipv4().parse::<IpAddr>().unwrap(), PORT).is_some_and(|seen| seen == "10.9.66.0")
    );
    assert!(ping(&one.workload, "10.9.66.0", 1_422));
}

#[test]
fn what_cannot_be_believed_is_left_out_and_told() {
    let Some(mut hosts) = Hosts::new() else { return };
    let mut one = hosts.node();
    hosts.start(&mut one, SHORT);
    let host = |address: &str, kind: &str, mac: &str| {
        let data = json!({"VNI": 1, "VtepMAC": mac});
        json!({"PublicIP": address, "BackendType": kind, "BackendData": data}).to_string()
    };
    let good = "02:00:00:00:00:01";
    for (subnet, value) in [
        // Not a subnet that a host may have.
        ("10.99.0.0-24&fd05:0:0:99::-64", host("10.77.0.90", "vxlan", good)),
        // Our own address, another backend, a group's hardware address, and not JSON.
        ("10.5.91.0-24&fd05:0:0:91::-64", host(&one.host.address.to_string(), "vxlan", good)),
        ("10.5.92.0-24&fd05:0:0:92::-64", host("10.77.0.92", "host-gw", good)),
        ("10.5.93.0-24&fd05:0:0:93::-64", host("10.77.0.93", "vxlan", "01:00:5e:00:00:01")),
        ("10.5.94.0-24&fd05:0:0:94::-64", "{".to_owned()),
        // A way to it would lead into itself.
        ("10.5.95.0-24&fd05:0:0:95::-64", host("10.5.95.1", "vxlan", good)),
    ] {
        hosts.etcd.put(&format!("{PREFIX}/{subnet}"), &value);
    }
    hosts.etcd.put(&format!("{PREFIX}/10.5.96.0-24&fd05:0:0:96::-64"), &host("10.77.0.96", "vxlan", good));
    wait::until_true("the good one", || ip(&one.host, &["route"]).contains("10.5.96.0/24"));
    wait::until_true("the others to be counted", || {
        one.run().metrics().sum("outrigger_net_overlay_hosts_left_out", &[]) == 6.0
    });
    let routes = ip(&one.host, &["route"]);
    assert_eq!(routes.lines().filter(|route| route.contains("or-vx.1")).count(), 1, "{routes}");

    // A plan that another network here is in the way of, and one that is none: the last good one goes on.
    let addresses = one.addresses();
    let text =
        hosts.file(&one, SHORT).replace("workloads:\n", "  db: {subnets: [10.66.7.0/24]}\nworkloads:\n");
    std::fs::write(one.folder.join("network.yaml"), text).unwrap();
    wait::until_true("the other network", || ip(&one.host, &["address"]).contains("10.66.7.1/24"));
    let config = "/coreos.com/network/config";
    hosts.etcd.put(config, r#"{"Network": "10.66.0.0/16", "Backend": {"Type": "vxlan"}}"#);
    wait::until_true("the overlap to be told", || {
        one.run().troubles().contains("10.66.0.0/16 overlaps 10.66.7.0/24 of network `db`")
    });
    assert_eq!(one.addresses(), addresses);
    hosts.etcd.put(config, r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}"#);
    wait::until_true("the plan to be refused", || one.run().troubles().contains("only `vxlan` is spoken"));
    assert_eq!(one.addresses(), addresses);
    assert!(ip(&one.host, &["route"]).contains("10.5.96.0/24"));
}

#[test]
fn the_file_is_checked_with_the_place_of_each_mistake() {
    let Some(mut hosts) = Hosts::new() else { return };
    let node = hosts.node();
    let file: PathBuf = node.folder.join("network.yaml");
    for (more, wanted) in [
        ("ranges: [10.5.0.0/29]", ":6:16: networks.mesh.overlay.ranges[0]: "),
        ("ranges: ['fd05::/48']", "a range of IPv4 is needed"),
        ("vni: 7", "`vni` needs `ranges`"),
        ("lease: 1s", "networks.mesh.overlay.lease: at least 10s"),
    ] {
        std::fs::write(&file, hosts.file(&node, more)).unwrap();
        let said = node.net(&["plan", file.to_str().unwrap()]);
        assert!(!said.ok() && said.err.contains(wanted), "{more}: {}", said.err);
    }
    // Nobody who does not stay can keep a lease.
    std::fs::write(&file, hosts.file(&node, SHORT)).unwrap();
    let said = node.net(&["apply", file.to_str().unwrap()]);
    assert!(!said.ok() && said.err.contains("`outrigger net run` leases it"), "{}", said.err);
}

/// Until then, it is said what is missing.
#[test]
fn the_link_to_the_other_hosts_may_come_later() {
    let Some(mut hosts) = Hosts::new() else { return };
    let early = hosts.node();
    let text = hosts.file(&early, SHORT).replace("interface: eth0", "interface: eth7");
    let file = early.folder.join("network.yaml");
    std::fs::write(&file, text).unwrap();
    let run = Running::start(&early.host, &file, &early.folder);
    wait::until_true("it to be said", || run.log().contains("there is no link eth7"));
    ip(&early.host, &["link", "set", "eth0", "down"]);
    ip(&early.host, &["link", "set", "eth0", "name", "eth7", "up"]);
    let _run = run.until_ready();
    early.until_leased();
}
