//! Our CNI plugin, called as runtimes call it: what it makes, what it says, and that nothing stays behind.

use std::net::IpAddr;

use outrigger_tests::cni::{Call, config, with, with_ports};
use outrigger_tests::netlab::{Lab, OUTSIDE6, ask, assert_same, ip, is_closed, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::tool;
use outrigger_tests::program::say;
use serde_json::{Value, json};

const V4: &str = "10.88.0.0/24";
const V6: &str = "fd88::/64";

fn both(lab: &Lab) -> Value {
    config(lab, &json!({"subnets": [V4, V6]}))
}

/// Its addresses, as the result has them.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

#[track_caller]
fn add(lab: &Lab, container: &str, host: &Host, config: &Value) -> Value {
    Call::new(lab, "ADD", container, Some(host), config).make().expect_ok("ADD")
}

#[track_caller]
fn delete(lab: &Lab, container: &str, config: &Value) {
    let said = Call::new(lab, "DEL", container, None, config).make().expect_ok("DEL");
    assert_eq!(said, Value::Null);
}

#[test]
fn a_container_comes_and_goes() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let hosts = [&lab.node, &a, &b];
    let before = hosts.map(|host| lab.dump(host));
    let config = both(&lab);
    let (at_a, at_b) = (addresses(&add(&lab, "a", &a, &config)), addresses(&add(&lab, "b", &b, &config)));
    serve(&b, 80);
    serve(&lab.outside, 81);
    for (index, (outside, node)) in [
        (lab.outside.address.into(), lab.node.address.to_string()),
        (OUTSIDE6.parse().unwrap(), "fd99::1".into()),
    ]
    .into_iter()
    .enumerate()
    {
        let outside: IpAddr = outside;
        assert_eq!(ask(&a, at_b[index], 80), Some(at_a[index].to_string()), "untranslated, on one bridge");
        assert_eq!(ask(&a, outside, 81), Some(node), "with the host's address, outside");
    }
    for (container, host) in [("a", &a), ("b", &b)] {
        Call::new(&lab, "DEL", container, Some(host), &config).make().expect_ok("DEL");
        delete(&lab, container, &config);
    }
    assert_same(&lab.dump(&a), &before[1], "nothing is left in the container");
    lab.undo();
    assert_same(&lab.dump(&lab.node), &before[0], "nor on the host");
}

#[test]
fn each_version_has_its_own_form_of_result() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let dns = json!({"nameservers": ["10.88.0.1"], "search": ["mesh.internal"]});
    let latest = with(&with(&both(&lab), "dns", dns.clone()), "mtu", json!(1400));
    let path = a.path();
    let mut last = 1;
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = with(&latest, "cniVersion", json!(version));
        let result = add(&lab, "a", &a, &config);
        last += 1;
        let mut interfaces = result["interfaces"].as_array().unwrap().clone();
        let cable = interfaces[1]["name"].as_str().unwrap().to_owned();
        assert!(ip(&lab.node, &["-brief", "link", "show", &cable]).contains(&cable));
        let mac = format!("02:4f:0a:58:00:{last:02x}");
        let mut expected = json!([
            {"name": "or-web", "mac": "02:4f:0a:58:00:01"},
            {"name": cable},
            {"name": "eth0", "mac": mac, "sandbox": path.to_str().unwrap()},
        ]);
        if version == "1.1.0" {
            expected.as_array_mut().unwrap().iter_mut().for_each(|interface| interface["mtu"] = json!(1400));
        }
        assert_eq!(Value::Array(std::mem::take(&mut interfaces)), expected, "{version}");
        assert!(ip(&a, &["link", "show", "eth0"]).contains(&mac), "{version}");
        let old = |family: &str| if version < "1.0.0" { json!(family) } else { Value::Null };
        for (ip, (address, gateway, family)) in result["ips"].as_array().unwrap().iter().zip([
            (format!("10.88.0.{last}/24"), "10.88.0.1", "4"),
            (format!("fd88::{last:x}/64"), "fd88::1", "6"),
        ]) {
            assert_eq!(ip["address"], address, "{version}");
            assert_eq!((&ip["gateway"], &ip["interface"]), (&json!(gateway), &json!(2)), "{version}");
            assert_eq!(ip["version"], old(family), "{version}");
        }
        let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}, {"dst": "::/0", "gw": "fd88::1"}]);
        assert_eq!((&result["routes"], &result["dns"]), (&routes, &dns));
        assert_eq!(result["cniVersion"], version);
        if version >= "0.4.0" {
            let again = with(&config, "prevResult", result);
            assert_eq!(
                Call::new(&lab, "CHECK", "a", Some(&a), &again).make().expect_ok(version),
                Value::Null
            );
        }
        delete(&lab, "a", &config);
    }
}

/// A conflist says `"type": "outrigger"`, so the program is executed by that name and without a word.
#[test]
fn it_is_a_plugin_by_its_name_and_says_what_it_knows() {
    let Some(lab) = Lab::new() else { return };
    let plugin = outrigger_tests::machine::plugins(&lab).join("outrigger");
    for (asked, told) in [(json!({"cniVersion": "0.4.0"}), "0.4.0"), (json!({}), "1.1.0")] {
        // As podman asks before anything else.
        let call =
            Call::about_all(&lab, "VERSION", &asked).with("CNI_NETNS", "dummy").with("CNI_IFNAME", "dummy");
        let said = call.by(&plugin).make().expect_ok("VERSION");
        assert_eq!(said["cniVersion"], told);
        assert_eq!(said["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
    let config = both(&lab);
    Call::about_all(&lab, "STATUS", &config).by(&plugin).make().expect_ok("STATUS");
    let verb = say(lab.node.command(outrigger_tests::program::outrigger().to_str().unwrap()).arg("cni"));
    assert!(!verb.ok() && verb.out.contains(r#""code":4"#) && verb.out.contains("outrigger net"), "{verb:?}");
}

#[test]
fn what_cannot_be_done_is_said_with_the_specification_s_codes() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let before = lab.dump(&lab.node);
    let config = both(&lab);
    let of = |config: &Value| Call::new(&lab, "ADD", "a", Some(&a), config);
    let good = of(&config);
    good.clone().with("CNI_COMMAND", "UPDATE").make().expect_error(4, "CNI_COMMAND: there is no `UPDATE`");
    good.clone()
        .without("CNI_NETNS")
        .without("CNI_IFNAME")
        .make()
        .expect_error(4, "missing: CNI_NETNS, CNI_IFNAME");
    good.clone().with("CNI_CONTAINERID", "../a").make().expect_error(4, "CNI_CONTAINERID");
    good.clone().with("CNI_NETNS", "/run/netns/no-such").make().expect_error(3, "/run/netns/no-such");
    good.clone().with("CNI_NETNS", "/proc/self/status").make().expect_error(3, "it is not a namespace");
    let own = good.clone().with("CNI_NETNS", "/proc/self/ns/net").with("CNI_IFNAME", "eth7");
    own.make().expect_error(4, "this host's own");
    good.clone().with("CNI_ARGS", "POLICY=a").make().expect_error(4, "nothing is known of `POLICY`");
    good.clone().with("CNI_ARGS", "IP=10.88.0.1").make().expect_error(7, "10.88.0.1 is the network's own");
    of(&json!([1])).make().expect_error(6, "standard input");
    of(&with(&config, "cniVersion", json!("0.2.0"))).make().expect_error(1, "this plugin knows 0.3.0");
    of(&with(&config, "name", json!("a/b"))).make().expect_error(7, "cannot be the name of a network");
    of(&with(&config, "subnet", json!(V4))).make().expect_error(2, "did you mean `subnets`?");
    of(&with(&config, "ipam", json!({"type": "dhcp"}))).make().expect_error(2, "`ipam`");
    of(&with(&config, "capture", json!({"dns": true}))).make().expect_error(7, "capture.dns");
    // One that is not ours has the bridge's name.
    of(&with(&config, "bridge", json!("eth0"))).make().expect_error(101, "a link eth0 that is not ours");
    let check = Call::new(&lab, "CHECK", "a", Some(&a), &config);
    check.make().expect_error(7, "`prevResult` is missing");
    let check = Call::new(&lab, "CHECK", "a", Some(&a), &with(&config, "prevResult", json!({"ips": []})));
    check.make().expect_error(3, "nothing is known of an attachment `web/a/eth0`");
    Call::about_all(&lab, "GC", &config).make().expect_error(7, "`cni.dev/valid-attachments` is missing");
    assert_same(&lab.dump(&lab.node), &before, "nothing was made");
    assert!(!ip(&a, &["link"]).contains("eth0"));
}

#[test]
fn ports_are_published_and_belong_to_one_container() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = both(&lab);
    let published = with_ports(&config, &[(8080, 80)]);
    add(&lab, "a", &a, &published);
    serve(&a, 80);
    let node: IpAddr = lab.node.address.into();
    let outside = lab.outside.address.to_string();
    for address in [node, outrigger_tests::netlab::NODE6.parse().unwrap()] {
        assert!(ask(&lab.outside, address, 8080).is_some(), "{address}");
    }
    assert!(ask(&lab.node, [127, 0, 0, 1], 8080).is_some(), "the host's loopback");
    let second = Call::new(&lab, "ADD", "b", Some(&b), &published);
    second.make().expect_error(101, "port 8080 (tcp) is published of both `web/a/eth0` and `web/b/eth0`");
    add(&lab, "b", &b, &with_ports(&config, &[(8081, 80)]));
    serve(&b, 80);
    assert_eq!(ask(&lab.outside, node, 8081), Some(outside.clone()));
    delete(&lab, "a", &config);
    assert!(is_closed(&lab.outside, node, 8080));
    assert_eq!(ask(&lab.outside, node, 8081), Some(outside), "the others stay as they are");
    second.make().expect_error(101, "an interface eth0 already");
}

/// Rules that stay cost nobody anything, and nothing of theirs is counted anew. A table that somebody has changed is not
/// built upon.
#[test]
fn another_port_leaves_the_rules_in_place() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = config(&lab, &json!({"subnets": [V4]}));
    add(&lab, "a", &a, &with_ports(&config, &[(8080, 80)]));
    let rules = || {
        let text = tool(&lab.node, &["nft", "-a", "list", "table", "inet", "outrigger"]).out;
        text.lines().filter(|line| line.contains("# handle")).map(str::to_owned).collect::<Vec<_>>()
    };
    let entries = || tool(&lab.node, &["nft", "list", "map", "inet", "outrigger", "published4"]).out;
    let before = rules();
    let second = with_ports(&config, &[(8081, 80)]);
    add(&lab, "b", &b, &second);
    assert!(entries().contains("tcp . 8080") && entries().contains("tcp . 8081"), "{}", entries());
    assert_eq!(rules(), before);
    delete(&lab, "b", &config);
    assert!(entries().contains("tcp . 8080") && !entries().contains("tcp . 8081"), "{}", entries());
    assert_eq!(rules(), before);
    lab.node.tool("nft", &["add", "rule", "inet", "outrigger", "published", "counter"], "");
    add(&lab, "b", &b, &second);
    assert!(
        entries().contains("tcp . 8081") && rules().iter().all(|rule| !rule.contains("counter")),
        "{:?}",
        rules()
    );
    let outside = lab.outside.address.to_string();
    serve(&b, 80);
    assert_eq!(ask(&lab.outside, lab.node.address, 8081), Some(outside));
}

#[test]
fn addresses_can_be_asked_for_in_each_of_the_ways() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let config = both(&lab);
    let by_capability = with(&config, "runtimeConfig", json!({"ips": ["10.88.0.9/24", "fd88::9"]}));
    let result = add(&lab, "a", &a, &by_capability);
    assert_eq!(addresses(&result), ["10.88.0.9", "fd88::9"].map(|a| a.parse::<IpAddr>().unwrap()));
    let by_arguments = Call::new(&lab, "ADD", "b", Some(&b), &config);
    let taken = by_arguments.clone().with("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=b;IP=10.88.0.9");
    taken.make().expect_error(101, "belongs to workload `web/a/eth0`");
    let result = by_arguments.with("CNI_ARGS", "IP=10.88.0.10").make().expect_ok("ADD");
    assert_eq!(addresses(&result)[0].to_string(), "10.88.0.10");
}

/// CHECK compares with the kernel, and with what the runtime remembers.
#[test]
fn a_check_finds_what_has_changed() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, other) = (lab.workload("a"), lab.workload("other"));
    let config = with(&both(&lab), "capture", json!({}));
    let published = with_ports(&config, &[(8080, 80)]);
    let result = add(&lab, "a", &a, &published);
    let again = with(&published, "prevResult", result.clone());
    let call = Call::new(&lab, "CHECK", "a", Some(&a), &again);
    call.make().expect_ok("CHECK");
    Call::new(&lab, "CHECK", "a", Some(&other), &again).make().expect_error(102, "another namespace");
    let mut wrong = again.clone();
    wrong["prevResult"]["ips"][0]["address"] = json!("10.88.0.77/24");
    Call::new(&lab, "CHECK", "a", Some(&a), &wrong).make().expect_error(102, "does not have the address");
    let flush =
        |host: &Host| assert!(host.command("nft").args(["flush", "ruleset"]).status().unwrap().success());
    let drifts: [(&dyn Fn(), &str); 5] = [
        (&|| flush(&lab.node), "host: add table"),
        (&|| flush(&a), "web/a/eth0: add table"),
        (&|| drop(ip(&a, &["route", "del", "default"])), "add route to 0.0.0.0/0"),
        (&|| drop(ip(&a, &["address", "flush", "dev", "eth0"])), "add address"),
        (&|| drop(ip(&a, &["link", "del", "eth0"])), "add cable"),
    ];
    for (drift, said) in drifts {
        drift();
        call.make().expect_error(102, said);
        // The way back for an operator: what the store has, made again.
        lab.apply("networks: {}\n");
        call.make().expect_ok("repaired");
    }
}

#[test]
fn twenty_at_once_get_an_address_each() {
    let Some(mut lab) = Lab::new() else { return };
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let hosts: Vec<Host> = names.iter().map(|name| lab.workload(name)).collect();
    let config = both(&lab);
    let all = |command: &str| -> Vec<Value> {
        std::thread::scope(|scope| {
            let one = |(name, host): (&String, &Host)| Call::new(&lab, command, name, Some(host), &config);
            let calls = names.iter().zip(&hosts).map(one);
            let threads: Vec<_> =
                calls.map(|call| scope.spawn(move || call.make().expect_ok(command))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let results = all("ADD");
    let mut given: Vec<IpAddr> = results.iter().flat_map(addresses).collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 40, "{given:?}");
    for (result, host) in results.iter().zip(&hosts) {
        let has = ip(host, &["address", "show", "dev", "eth0"]);
        assert!(addresses(result).iter().all(|address| has.contains(&format!("{address}/"))), "{has}");
    }
    lab.net(&["status"]).expect_ok("in order");
    all("DEL");
    let status = lab.net(&["status"]).expect_ok("status").out;
    assert!(status.contains("0 workloads"), "{status}");
}
