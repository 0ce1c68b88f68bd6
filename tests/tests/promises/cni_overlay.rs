//! Containers of a runtime on a network of many hosts, which `outrigger net run` keeps.

use std::fs;
use std::net::{IpAddr, TcpListener};

use outrigger_tests::backend::Backend;
use outrigger_tests::cni::{self, Call, with, with_ports};
use outrigger_tests::hosts::{Hosts, Node, PORT};
use outrigger_tests::netlab::{Lab, ask, ip, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::Running;
use outrigger_tests::program::{self, say};
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;
use serde_json::{Value, json};

const BOTH: &str = "ranges: [10.5.0.0/16, 'fd05::/48']";

/// A conflist's plugin that joins the file's network.
fn config(node: &Node) -> Value {
    let state = node.folder.join("state");
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "outrigger", "network": "mesh",
        "state_dir": state.to_str().unwrap()})
}

fn call(node: &Node, command: &str, container: &Host, config: &Value) -> Call {
    Call::on(&node.host, command, "c1", Some(container), config)
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

#[track_caller]
fn reached(from: &Host, to: &str, port: u16, seen: &str) {
    let address: IpAddr = to.parse().unwrap();
    assert_eq!(wait::until(to, || ask(from, address, port)), seen, "{to}");
}

#[test]
fn a_container_joins_the_network_of_many_hosts() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [mut one, mut two] = [(); 2].map(|()| hosts.node());
    let container = hosts.network.bare("c1");
    serve(&container, PORT);
    let config = config(&one);
    let add = |node: &Node| call(node, "ADD", &container, &config).make();
    add(&one).expect_error(7, "this host has no network `mesh`");
    hosts.start(&mut one, BOTH);
    hosts.start(&mut two, BOTH);
    Call::about_all_on(&one.host, "STATUS", &config).make().expect_ok("STATUS");
    let published = with_ports(&config, &[(8080, PORT)]);
    let result = call(&one, "ADD", &container, &published).make().expect_ok("ADD");
    let own = addresses(&result);
    assert_eq!(own.len(), 2, "{result}");
    assert!(own[0].starts_with("10.5.") && own[1].starts_with("fd05:"), "{result}");
    assert_eq!(result["interfaces"][0]["name"], "or-mesh", "{result}");
    assert_eq!(result["routes"].as_array().map(Vec::len), Some(2), "{result}");
    // The MTU is the tunnel's.
    assert_eq!(result["interfaces"][2]["mtu"], 1450, "{result}");

    // With its own address, on this host and on another one; and back.
    for (own, (here, there)) in own.iter().zip(one.addresses().into_iter().zip(two.addresses())) {
        reached(&container, &here, PORT, own);
        reached(&container, &there, PORT, own);
        reached(&two.workload, own, PORT, &there);
    }
    let host = one.host.address.to_string();
    reached(&two.host, &host, 8080, &two.host.address.to_string());

    // The file's process follows a new file, ends, and comes again: the runtime's container stays.
    let again = with(&published, "prevResult", result);
    call(&one, "CHECK", &container, &again).make().expect_ok("CHECK");
    let text = fs::read_to_string(one.folder.join("network.yaml")).unwrap();
    fs::write(one.folder.join("network.yaml"), format!("{text}\n# the same\n")).unwrap();
    one.kill();
    one.run_again();
    let status =
        wait::until("the network to be in order", || Some(one.status()).filter(|s| s["in_order"] == true));
    assert!(status.to_string().contains("pods/c1/eth0"), "{status}");
    call(&one, "CHECK", &container, &again).make().expect_ok("CHECK");
    reached(&container, &two.ipv4(), PORT, &own[0]);

    let deleted = call(&one, "DEL", &container, &config).make().expect_ok("DEL");
    assert_eq!(deleted, Value::Null);
    assert!(!ip(&container, &["link"]).contains("eth0"));
    assert!(!one.status().to_string().contains("pods/c1/eth0"));
    assert!(ask(&two.host, one.host.address, 8080).is_none());
}

/// A network of one host can be joined as well. What it is, its file says.
#[test]
fn a_container_follows_the_file_of_the_network_that_it_joined() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, container) = (lab.workload("a"), lab.workload("c1"));
    let path = a.path();
    let file = |more: &str| {
        format!(
            "networks:\n  web: {{subnets: [10.88.0.0/24]{more}}}\nworkloads:\n  a: {{namespace: {{path: {}}}, \
             network: web}}\n",
            path.display()
        )
    };
    lab.apply(&file(""));
    serve(&a, PORT);
    let config = cni::config(&lab, &json!({"network": "web"}));
    let add = Call::new(&lab, "ADD", "c1", Some(&container), &config);
    let own = addresses(&add.make().expect_ok("ADD")).remove(0);
    reached(&container, &lab.address("a", true).to_string(), PORT, &own);
    lab.apply(&file(", mtu: 1400"));
    assert!(ip(&container, &["link", "show", "eth0"]).contains("mtu 1400"));
    reached(&container, &lab.address("a", true).to_string(), PORT, &own);
    lab.net(&["status"]).expect_ok("in order");
    // A file without it leaves it to those who are on it.
    let none = lab.write("networks: {}\n");
    lab.net(&["apply", &none]).expect_ok("apply");
    assert!(ip(&container, &["address"]).contains(&own) && !ip(&a, &["link"]).contains("eth0"));
    Call::new(&lab, "DEL", "c1", Some(&container), &config).make().expect_ok("DEL");
    assert!(!ip(&container, &["link"]).contains("eth0"));
}

#[test]
fn without_a_lease_the_runtime_is_told_to_try_again() {
    let Some(mut hosts) = Hosts::new() else { return };
    let one = hosts.node();
    let container = hosts.network.bare("c1");
    let text = hosts.file(&one, BOTH).replace("interface: eth0", "interface: eth7");
    let file = one.folder.join("network.yaml");
    fs::write(&file, text).unwrap();
    let run = Running::start(&one.host, &file, &one.folder);
    wait::until_true("it to be said", || run.log().contains("there is no link eth7"));
    let config = config(&one);
    call(&one, "ADD", &container, &config).make().expect_error(11, "no subnet on this host yet");
    Call::about_all_on(&one.host, "STATUS", &config).make().expect_error(50, "no subnet on this host yet");
    assert!(!ip(&container, &["link"]).contains("eth0"));
    ip(&one.host, &["link", "set", "eth0", "down"]);
    ip(&one.host, &["link", "set", "eth0", "name", "eth7", "up"]);
    let _run = run.until_ready();
    let added = wait::until("the lease", || {
        Some(call(&one, "ADD", &container, &config).make()).filter(|reply| reply.code == Some(0))
    });
    assert!(addresses(&added.json)[0].starts_with("10.5."), "{added:?}");
}

/// Network, catalogue and names as one: the runtime gives the address, the sidecar beside the container registers it,
/// and the sidecar on another host finds it.
#[test]
fn a_sidecar_registers_the_address_that_the_container_got() {
    let Some(mut hosts) = Hosts::new() else { return };
    let [mut one, mut two] = [(); 2].map(|()| hosts.node());
    let container = hosts.network.bare("c1");
    let etcd = hosts.etcd.addresses()[0];
    let registry = |more: &str| format!("{{etcd: {{endpoints: 'http://{etcd}'}}{more}}}");
    let register = registry(", register: {address: ':8080', ttl: 3s}");
    let file = one.folder.join("outrigger.yaml");
    fs::write(&file, format!("outbound: 127.0.0.1:0\nnode: {{service: shop}}\nregistry: {register}\n"))
        .unwrap();
    let check = || say(container.command(program::outrigger().to_str().unwrap()).arg("check").arg(&file));
    let early = check();
    assert!(!early.ok() && early.err.contains("outrigger.yaml:3:"), "{early:?}");
    assert!(early.err.contains("no default route leads out of here"), "{early:?}");

    hosts.start(&mut one, BOTH);
    hosts.start(&mut two, BOTH);
    let result = call(&one, "ADD", &container, &config(&one)).make().expect_ok("ADD");
    let own = addresses(&result).remove(0);
    check().expect_ok("check");
    let listener = container.enter(|| TcpListener::bind((own.as_str(), 8080)).unwrap());
    let _workload = container.enter(|| Backend::on(listener, |exchange| exchange.reply("shop")));
    let scene = Scene::new().set("node", "{service: shop}");
    let _sidecar = container.enter(|| scene.registry(&register).start());
    let key = format!("/outrigger/services/shop/{own}-8080");
    let entry = wait::until("the entry", || hosts.etcd.entry(&key));
    assert_eq!(entry.value["address"], format!("{own}:8080"));
    let other = two.workload.enter(|| Scene::new().registry(&registry("")).start());
    let answer = || two.workload.enter(|| Some(other.get("shop", "/")).filter(|answer| answer.status == 200));
    assert_eq!(wait::until("an answer", answer).backend(), "shop");
}
