//! Real containers by podman on our CNI plugin: from images built from scratch, on a machine that no packet leaves.

use std::net::IpAddr;

use outrigger_tests::images::IMAGE;
use outrigger_tests::machine::{Machine, Podman, ask_web};
use outrigger_tests::netlab::{Lab, NODE6};
use outrigger_tests::wait;
use serde_json::{Value, json};

/// As podman's administrators write them: one file for each network.
fn conflist(lab: &Lab, name: &str, plugins: &Value) -> String {
    let mut plugins = plugins.clone();
    for plugin in plugins.as_array_mut().unwrap().iter_mut().filter(|plugin| plugin["type"] == "outrigger") {
        plugin["state_dir"] = json!(lab.state().to_str().unwrap());
    }
    json!({"cniVersion": "0.4.0", "name": name, "plugins": plugins}).to_string()
}

/// The example, with the lab's store.
fn example(lab: &Lab) -> String {
    let path = outrigger_tests::program::root().join("examples/containers/web.conflist");
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    conflist(lab, file["name"].as_str().unwrap(), &file["plugins"])
}

fn id(podman: &Podman<'_>, name: &str) -> String {
    podman.ok(&["inspect", "--format", "{{.Id}}", name])
}

fn address(podman: &Podman<'_>, name: &str, network: &str) -> IpAddr {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    podman.ok(&["inspect", "--format", &format, name]).parse().unwrap()
}

/// Waits until the container's web server answers who asks.
fn until_it_answers(from: &outrigger_tests::netns::Host, address: impl Into<IpAddr>, port: u16) -> String {
    let address = address.into();
    wait::until("the container to answer", || ask_web(from, address, port).filter(|said| !said.is_empty()))
}

fn workloads(lab: &Lab) -> Vec<String> {
    let status: Value = serde_json::from_str(&lab.net(&["status", "--json"]).out).unwrap();
    let ids = status["workloads"].as_array().unwrap().iter();
    ids.map(|workload| workload["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn podman_s_containers_are_reached_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.dump(&lab.node);
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    machine.write("/etc/cni/net.d/web.conflist", &example(&lab));
    let run = |name: &str, more: &[&str]| {
        let words = ["run", "--detach", "--pull=never", "--network=web", "--name", name];
        podman.ok(&[&words[..], more, &[IMAGE]].concat());
    };
    run("a", &["--publish=8080:80"]);
    run("b", &["--ip=10.88.0.77", "--publish=127.0.0.1:8081:80"]);
    let outside = lab.outside.address.to_string();
    assert_eq!(until_it_answers(&lab.outside, lab.node.address, 8080), outside);
    assert_eq!(until_it_answers(&lab.outside, NODE6.parse::<IpAddr>().unwrap(), 8080), "fd99::2");
    assert!(until_it_answers(&lab.node, [127, 0, 0, 1], 8081).starts_with("10.88."));
    assert!(ask_web(&lab.outside, lab.node.address, 8081).is_none(), "published on loopback alone");
    let (at_a, at_b) = (address(&podman, "a", "web"), address(&podman, "b", "web"));
    assert_eq!(at_b.to_string(), "10.88.0.77");
    let url = format!("http://{at_b}/cgi-bin/who");
    assert!(podman.ok(&["exec", "a", "/bin/wget", "-q", "-O", "-", &url]).contains(&at_a.to_string()));
    let (a, b) = (id(&podman, "a"), id(&podman, "b"));
    let mut both = [format!("web/{a}/eth0"), format!("web/{b}/eth0")];
    both.sort();
    assert_eq!(workloads(&lab), both);
    podman.ok(&["stop", "--time=0", "a"]);
    assert!(ask_web(&lab.outside, lab.node.address, 8080).is_none());
    podman.ok(&["start", "a"]);
    assert_eq!(until_it_answers(&lab.outside, lab.node.address, 8080), outside);
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    assert!(workloads(&lab).is_empty());
    lab.undo();
    drop(podman);
    drop(machine);
    outrigger_tests::netlab::assert_same(&lab.dump(&lab.node), &before, "podman's containers are gone");
}

#[test]
fn a_container_is_on_two_networks_and_on_others_plugins() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    let plugin = |subnet: &str, bridge: &str| json!([{"type": "outrigger", "subnets": [subnet], "bridge": bridge, "capabilities": {"portMappings": true}}]);
    machine.write(
        "/etc/cni/net.d/front.conflist",
        &conflist(&lab, "front", &plugin("10.88.0.0/24", "or-front")),
    );
    machine
        .write("/etc/cni/net.d/back.conflist", &conflist(&lab, "back", &plugin("10.89.0.0/24", "or-back")));
    let ranges = json!({"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": lab.dir.path().join("addresses").to_str().unwrap()});
    let chained = json!([
        {"type": "bridge", "bridge": "cni9", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": ranges},
        {"type": "outrigger", "capture": {"outbound": 0, "dns": 0, "inbound": 15006},
         "capabilities": {"portMappings": true}},
    ]);
    machine.write("/etc/cni/net.d/chained.conflist", &conflist(&lab, "chained", &chained));
    let run = |name: &str, network: &str, more: &[&str]| {
        let network = format!("--network={network}");
        let words = ["run", "--detach", "--pull=never", &network, "--name", name];
        podman.ok(&[&words[..], more].concat());
    };
    run("a", "front,back", &["--publish=8080:80", IMAGE]);
    run("b", "back", &[IMAGE]);
    assert!(!until_it_answers(&lab.outside, lab.node.address, 8080).is_empty());
    let url = format!("http://{}/cgi-bin/who", address(&podman, "b", "back"));
    wait::until_true("the neighbour to answer", || {
        podman.say(&["exec", "a", "/bin/wget", "-q", "-O", "-", &url]).out.contains("10.89.0.")
    });
    // Its inbound traffic goes to where the sidecar would be; there is the web server itself.
    let listening = ["/bin/httpd", "-f", "-p", "15006", "-h", "/www"];
    run("c", "chained", &[&["--publish=8081:80", IMAGE][..], &listening].concat());
    assert_eq!(until_it_answers(&lab.outside, lab.node.address, 8081), lab.outside.address.to_string());
    assert_eq!(workloads(&lab).len(), 4);
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    assert!(workloads(&lab).is_empty());
}

/// A container whose keeper is killed with it: its runtime tells nobody, until somebody cleans up.
#[test]
fn what_a_killed_container_leaves_is_collected() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    machine.write("/etc/cni/net.d/web.conflist", &example(&lab));
    let words = ["run", "--detach", "--pull=never", "--network=web"];
    podman.ok(&[&words[..], &["--name=a", "--publish=8080:80", IMAGE]].concat());
    podman.ok(&[&words[..], &["--name=b", IMAGE]].concat());
    assert!(!until_it_answers(&lab.outside, lab.node.address, 8080).is_empty());
    let (dead, alive) = (id(&podman, "a"), id(&podman, "b"));
    // The keeper first, so that it cannot report.
    for field in ["{{.State.ConmonPid}}", "{{.State.Pid}}"] {
        let process = podman.ok(&["inspect", "--format", field, "a"]);
        machine.run("kill", &["-9", &process]).expect_ok("kill");
    }
    assert_eq!(workloads(&lab).len(), 2);
    // As a runtime says it that keeps the list.
    let file: Value = serde_json::from_str(&example(&lab)).unwrap();
    let mut config = file["plugins"][0].clone();
    config["cniVersion"] = json!("1.1.0");
    config["name"] = file["name"].clone();
    config["cni.dev/valid-attachments"] = json!([{"containerID": alive, "ifname": "eth0"}]);
    outrigger_tests::cni::Call::about_all(&lab, "GC", &config).make().expect_ok("GC");
    assert_eq!(workloads(&lab), [format!("web/{alive}/eth0")]);
    assert!(!lab.dump(&lab.node).contains(&dead));
    // And podman finds that its own clean-up is done; that one is not running it learns by trying.
    podman.say(&["rm", "--force", "--time=0", "a"]);
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    assert!(workloads(&lab).is_empty());
}
