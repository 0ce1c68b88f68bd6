//! Our CNI plugin over time: containers that vanish, networks that change, several networks and plugins, other users.

use std::net::IpAddr;

use outrigger_tests::cni::{Call, PLUGINS, config, with, with_ports};
use outrigger_tests::netlab::{Lab, ask, assert_same, ip, is_closed, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::wait;
use serde_json::{Value, json};

/// Room for a gateway and five containers.
const SMALL: &str = "10.88.0.0/29";

fn small(lab: &Lab) -> Value {
    config(lab, &json!({"subnets": [SMALL]}))
}

fn address(result: &Value) -> IpAddr {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()
}

#[track_caller]
fn add(lab: &Lab, container: &str, host: &Host, config: &Value) -> Value {
    Call::new(lab, "ADD", container, Some(host), config).make().expect_ok("ADD")
}

fn workloads(lab: &Lab) -> Vec<String> {
    let status: Value = serde_json::from_str(&lab.net(&["status", "--json"]).out).unwrap();
    let ids = status["workloads"].as_array().unwrap().iter();
    ids.map(|workload| workload["id"].as_str().unwrap().to_owned()).collect()
}

/// The host has no end of a cable any more: the kernel takes it away some time after the namespace.
fn wait_until_unplugged(lab: &Lab, count: usize) {
    let cables =
        || ip(&lab.node, &["-brief", "link", "show", "type", "veth", "master", "or-web"]).lines().count();
    wait::until_true("the cables to go", || cables() == count);
}

#[test]
fn a_container_that_has_vanished_is_deleted_all_the_same() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = small(&lab);
    let published = with_ports(&config, &[(8080, 80)]);
    add(&lab, "a", &a, &published);
    a.remove();
    // With the path of a namespace that is gone, and without any.
    let gone = Call::new(&lab, "DEL", "a", Some(&a), &config);
    gone.make().expect_ok("DEL");
    gone.with("CNI_NETNS", "").make().expect_ok("DEL");
    assert!(workloads(&lab).is_empty());
    add(&lab, "b", &b, &published);
    lab.net(&["status"]).expect_ok("in order");
}

/// A runtime that sees a plugin die deletes what there may be.
#[test]
fn an_add_that_is_killed_at_any_step_is_deleted() {
    const STEPS_MAX: usize = 200;
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let config = with(&with_ports(&small(&lab), &[(8080, 80)]), "capture", json!({}));
    let before = lab.dump(&a);
    let mut killed = 0;
    for call in ["sendto", "rename"] {
        let trace = format!("trace={call}");
        let over = (1..STEPS_MAX).find(|nth| {
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let strace = ["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let is_over = Call::new(&lab, "ADD", "a", Some(&a), &config).make_by(&strace).code == Some(0);
            Call::new(&lab, "DEL", "a", Some(&a), &config).make().expect_ok("DEL");
            lab.net(&["status"]).expect_ok(&inject);
            assert!(workloads(&lab).is_empty(), "{inject}");
            assert_same(&lab.dump(&a), &before, &inject);
            is_over
        });
        killed += over.unwrap_or_else(|| panic!("{trace}: there is no end")) - 1;
    }
    assert!(killed > 20, "{killed} runs killed");
}

/// A configuration that nobody could add by any more is good enough to delete by.
#[test]
fn what_is_wrong_with_a_configuration_does_not_hold_up_a_delete() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let config = small(&lab);
    add(&lab, "a", &a, &config);
    let broken = with(&with(&config, "subnets", json!(7)), "what", json!({}));
    Call::new(&lab, "DEL", "a", Some(&a), &broken).make().expect_ok("DEL");
    assert!(workloads(&lab).is_empty());
}

#[test]
fn attachments_that_are_not_valid_any_more_are_collected() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts: Vec<Host> = ["a", "b", "c", "d"].iter().map(|name| lab.workload(name)).collect();
    let config = small(&lab);
    let other = with(&with(&config, "name", json!("other")), "subnets", json!(["10.89.0.0/24"]));
    for (name, host) in ["a", "b", "c"].iter().zip(&hosts) {
        add(&lab, name, host, &config);
    }
    add(&lab, "d", &hosts[3], &other);
    let valid = json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth1"}]);
    let collect = |name: &str, valid: &Value| {
        Call::about_all(&lab, "GC", &with(&config, name, valid.clone())).make().expect_ok("GC")
    };
    collect("cni.dev/valid-attachments", &valid);
    assert_eq!(workloads(&lab), ["other/d/eth0", "web/b/eth0"], "another network's are not its business");
    assert!(!ip(&hosts[0], &["link"]).contains("eth0") && ip(&hosts[1], &["link"]).contains("eth0"));
    collect("cni.dev/attachments", &json!([]));
    assert_eq!(workloads(&lab), ["other/d/eth0"]);
    lab.net(&["status"]).expect_ok("in order");
}

/// Killed containers of which no runtime ever tells, as containerd's `ctr`: they do not use up addresses or ports.
#[test]
fn what_killed_containers_held_is_free_when_it_is_needed() {
    let Some(mut lab) = Lab::new() else { return };
    let config = small(&lab);
    for number in 0..5 {
        let host = lab.workload(&format!("dead{number}"));
        let ports = [(8080 + number, 80)];
        add(&lab, &format!("dead{number}"), &host, &with_ports(&config, &ports));
        if number < 4 {
            host.remove();
        }
    }
    wait_until_unplugged(&lab, 1);
    assert_eq!(workloads(&lab).len(), 5);
    let a = lab.workload("a");
    add(&lab, "a", &a, &with_ports(&config, &[(8080, 80)]));
    assert_eq!(workloads(&lab), ["web/a/eth0", "web/dead4/eth0"], "who lives is not forgotten");
    // The same by hand.
    a.remove();
    wait_until_unplugged(&lab, 1);
    assert!(!lab.net(&["status"]).ok());
    let file = lab.write("networks: {}\n");
    lab.net(&["apply", &file, "--collect"]).expect_ok("collect");
    assert_eq!(workloads(&lab), ["web/dead4/eth0"]);
}

#[test]
fn a_status_says_whether_a_container_could_come() {
    let Some(mut lab) = Lab::new() else { return };
    let config = small(&lab);
    let status = |config: &Value| Call::about_all(&lab, "STATUS", config);
    assert_eq!(status(&config).make().expect_ok("STATUS"), Value::Null);
    status(&with(&config, "bridge", json!("eth0"))).make().expect_error(50, "a link eth0 that is not ours");
    status(&with(&config, "mtu", json!(1))).make().expect_error(7, "mtu: 1 is out of range");
    let nobody = ["setpriv", "--reuid=65534", "--clear-groups"];
    std::fs::create_dir_all(lab.state()).unwrap();
    status(&with(&config, "state_dir", json!("/tmp")))
        .make_by(&nobody)
        .expect_error(50, "CAP_NET_ADMIN is missing");
    let hosts: Vec<Host> = (0..5).map(|number| lab.workload(&format!("c{number}"))).collect();
    for (number, host) in hosts.iter().enumerate() {
        add(&lab, &format!("c{number}"), host, &config);
    }
    Call::about_all(&lab, "STATUS", &config).make().expect_error(50, "no address left in 10.88.0.0/29");
}

#[test]
fn a_changed_conflist_holds_when_its_containers_have_left() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = small(&lab);
    let changed = with(&with(&config, "subnets", json!(["10.88.0.0/24"])), "mtu", json!(1400));
    add(&lab, "a", &a, &config);
    let call = Call::new(&lab, "ADD", "b", Some(&b), &changed);
    call.make().expect_error(7, "otherwise in force, and has containers");
    // Nor may another network have its subnet.
    let twin = with(&config, "name", json!("twin"));
    Call::new(&lab, "ADD", "b", Some(&b), &twin)
        .make()
        .expect_error(7, "a part of the subnets of network `cni/web`");
    Call::new(&lab, "DEL", "a", Some(&a), &config).make().expect_ok("DEL");
    call.make().expect_ok("ADD");
    assert!(ip(&lab.node, &["link", "show", "or-web"]).contains("mtu 1400"));
    Call::new(&lab, "DEL", "b", Some(&b), &changed).make().expect_ok("DEL");
    add(&lab, "a", &a, &twin);
    assert!(!ip(&lab.node, &["-brief", "link"]).contains("or-web"), "it has given way");
    lab.net(&["status"]).expect_ok("in order");
}

#[test]
fn a_container_on_two_networks_has_one_default_route() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let first = config(&lab, &json!({"subnets": [SMALL, "fd88::/64"], "capture": {}}));
    let second = with(&with(&first, "name", json!("back")), "subnets", json!(["10.89.0.0/24", "fd89::/64"]));
    let plain = |config: &Value| {
        let mut config = config.clone();
        config.as_object_mut().unwrap().remove("capture");
        config
    };
    add(&lab, "a", &a, &first);
    let on_second = |config: &Value| Call::new(&lab, "ADD", "a", Some(&a), config).with("CNI_IFNAME", "eth1");
    on_second(&second).make().expect_error(7, "captured already, as `web/a/eth0`");
    let second = plain(&second);
    let result = on_second(&second).make().expect_ok("ADD");
    assert_eq!(result["routes"], json!([]));
    let routes = ip(&a, &["route", "show", "default"]);
    assert!(routes.lines().count() == 1 && routes.contains("via 10.88.0.1 dev eth0"), "{routes}");
    add(&lab, "b", &b, &second);
    serve(&b, 80);
    let at_b: IpAddr = ip(&b, &["-4", "-brief", "address", "show", "eth0"])
        .split_whitespace()
        .find_map(|word| word.split('/').next()?.parse().ok())
        .unwrap();
    // By a user whose traffic is not captured.
    let script = format!("exec 3<>/dev/tcp/{at_b}/80; cat <&3");
    let mut command = a.command("setpriv");
    command.args(["--reuid=1337", "--clear-groups", "timeout", "5", "bash", "-c", &script]);
    assert_eq!(outrigger_tests::program::say(&mut command).out, address(&result).to_string());
    lab.net(&["status"]).expect_ok("in order");
    // A whole file, and what runtimes have attached, get along.
    lab.apply("networks: {}\n");
    Call::new(&lab, "DEL", "a", Some(&a), &second).with("CNI_IFNAME", "eth1").make().expect_ok("DEL");
    assert!(ip(&a, &["route", "show", "default"]).contains("eth0"));
    assert_eq!(workloads(&lab), ["back/b/eth0", "web/a/eth0"]);
}

#[test]
fn files_and_runtimes_share_a_host() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = with_ports(&small(&lab), &[(8080, 80)]);
    let file = format!(
        "networks:\n  files: {{subnets: [10.90.0.0/24]}}\n\
         workloads:\n  b: {{namespace: {{path: {}}}, network: files, publish: ['8081:80']}}\n",
        b.path().display()
    );
    add(&lab, "a", &a, &config);
    lab.apply(&file);
    serve(&a, 80);
    serve(&b, 80);
    let node = lab.node.address;
    assert!(ask(&lab.outside, node, 8080).is_some() && ask(&lab.outside, node, 8081).is_some());
    assert_eq!(workloads(&lab), ["b", "web/a/eth0"]);
    let twice = lab.write(&file.replace("8081:80", "8080:80"));
    let said = lab.net(&["apply", &twice]);
    assert!(
        !said.ok() && said.err.contains("port 8080 (tcp) is published of both `b` and `web/a/eth0`"),
        "{said:?}"
    );
    let same = lab.write(&file.replace("10.90.0.0/24", SMALL));
    let said = lab.net(&["apply", &same]);
    assert!(!said.ok() && said.err.contains("a part of the subnets of network `cni/web`"), "{said:?}");
    Call::new(&lab, "DEL", "a", Some(&a), &config).make().expect_ok("DEL");
    assert!(is_closed(&lab.outside, node, 8080) && ask(&lab.outside, node, 8081).is_some());
    add(&lab, "a", &a, &config);
    lab.undo();
    assert!(workloads(&lab).is_empty() && !ip(&a, &["link"]).contains("eth0"));
}

/// Behind the `bridge` plugin: the network is that one's, capture and published ports are ours.
#[test]
fn behind_another_plugin_it_captures_and_publishes() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let addresses = lab.dir.path().join("addresses");
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "cni9", "isGateway": true,
        "ipMasq": false, "hairpinMode": true,
        "ipam": {"type": "host-local", "subnet": "10.91.0.0/24", "dataDir": addresses.to_str().unwrap(),
                 "routes": [{"dst": "0.0.0.0/0"}]},
    });
    assert!(std::path::Path::new(PLUGINS).join("bridge").exists(), "tests/run.sh installs it");
    let by_bridge = |command: &str, container: &str, host: &Host| {
        Call::new(&lab, command, container, Some(host), &bridge).of("bridge").make().expect_ok("bridge")
    };
    let before = (by_bridge("ADD", "a", &a), by_bridge("ADD", "b", &b));
    let ours = with(&config(&lab, &json!({"capture": {"inbound": 0}})), "cniVersion", json!("1.0.0"));
    let dns = json!({"nameservers": ["10.91.0.1"]});
    let published = with(&with_ports(&ours, &[(8080, 80)]), "dns", dns.clone());
    let config = with(&published, "prevResult", before.0.clone());
    let result = add(&lab, "a", &a, &config);
    let named = with(&before.0, "dns", dns);
    assert_eq!(result, named, "what was said before is passed on");
    serve(&a, 80);
    let (node, at_b) = (lab.node.address, address(&before.1));
    assert_eq!(ask(&lab.outside, node, 8080), Some(lab.outside.address.to_string()));
    assert!(ask(&lab.node, node, 8080).is_some(), "the host, at its own address");
    assert!(ask(&lab.node, [127, 0, 0, 1], 8080).is_some(), "the host's loopback");
    assert!(ask(&b, node, 8080).is_some(), "a neighbour");
    serve(&b, 81);
    let captured = || is_closed(&a, at_b, 81);
    assert!(captured(), "nobody listens where it is led");
    Call::new(&lab, "CHECK", "a", Some(&a), &config).make().expect_ok("CHECK");
    // Not captured, nothing published, and nothing to remember.
    let quiet = with(&with_ports(&ours, &[]), "prevResult", before.1.clone());
    let quiet = with(&quiet, "capture", Value::Null);
    assert_eq!(add(&lab, "b", &b, &quiet), before.1);
    assert_eq!(workloads(&lab), ["web/a/eth0"]);
    Call::new(&lab, "DEL", "a", Some(&a), &config).make().expect_ok("DEL");
    assert!(!captured() && is_closed(&lab.outside, node, 8080));
    by_bridge("DEL", "a", &a);
    by_bridge("DEL", "b", &b);
    lab.undo();
    ip(&lab.node, &["link", "del", "cni9"]);
}
