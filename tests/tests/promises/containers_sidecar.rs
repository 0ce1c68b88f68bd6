//! A sidecar that shares the network namespace of a real container: from an image built from scratch, without root, and
//! an unmodified client that knows nothing of it.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use outrigger_tests::container::Container;
use outrigger_tests::images::{IMAGE, SIDECAR};
use outrigger_tests::machine::{Machine, Podman, Status, plugins};
use outrigger_tests::netlab::Lab;
use outrigger_tests::program;
use outrigger_tests::wait;
use serde_json::{Value, json};

fn example(name: &str) -> PathBuf {
    program::root().join("examples/containers").join(name)
}

fn conflist(lab: &Lab) -> String {
    let mut list: Value =
        serde_json::from_str(&fs::read_to_string(example("mesh.conflist")).unwrap()).unwrap();
    // What podman 4.3 speaks.
    list["cniVersion"] = json!("0.4.0");
    list["plugins"][0]["state_dir"] = json!(lab.state().to_str().unwrap());
    list.to_string()
}

fn address(podman: &Podman<'_>, name: &str) -> IpAddr {
    let format = "{{(index .NetworkSettings.Networks \"mesh\").IPAddress}}";
    podman.ok(&["inspect", "--format", format, name]).parse().unwrap()
}

#[test]
fn a_captured_container_reaches_services_by_name_through_its_sidecar() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    podman.sidecar_image();
    plugins(&lab);
    machine.write("/etc/cni/net.d/mesh.conflist", &conflist(&lab));
    let run = |name: &str, more: &[&str]| {
        let words = ["run", "--detach", "--pull=never", "--network=mesh", "--name", name];
        podman.ok(&[&words[..], more, &[IMAGE]].concat());
    };
    run("shop", &[]);
    run("app", &["--dns=10.89.0.1"]);
    let folder = lab.dir.path().join("etc");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(example("outrigger.yaml"), folder.join("outrigger.yaml")).unwrap();
    let services = format!("services: {{shop: {{endpoints: ['{}:80']}}}}\n", address(&podman, "shop"));
    fs::write(folder.join("services.yaml"), services).unwrap();
    let get = |url: &str| podman.say(&["exec", "app", "/usr/bin/curl", "-sSf", "--max-time", "2", url]);
    let direct = format!("http://{}/cgi-bin/who", address(&podman, "shop"));
    assert!(!get(&direct).ok(), "without a sidecar, nothing leaves a captured container");
    let volume = format!("--volume={}:/etc/outrigger:ro", folder.display());
    let words = ["run", "--detach", "--pull=never", "--network=container:app", "--name=app-sidecar"];
    podman.ok(&[&words[..], &["--cap-drop=all", "--read-only", &volume, SIDECAR]].concat());
    let at_app = address(&podman, "app").to_string();
    let answer = wait::until("the shop to answer through the sidecar", || {
        Some(get("http://shop.mesh.internal/cgi-bin/who")).filter(program::Said::ok)
    });
    assert!(answer.out.contains(&at_app), "{}", answer.out);
    // The sidecar has seen it, with a policy: it is root nowhere.
    let metrics = get("http://127.0.0.1:15020/metrics").expect_ok("metrics").out;
    let counted =
        |line: &&str| line.starts_with("outrigger_requests_total{") && line.contains("service=\"shop\"");
    assert!(metrics.lines().any(|line| counted(&line)), "{metrics}");
    let sidecar = Status::of(&podman, "app-sidecar");
    assert_eq!((sidecar.uid.as_str(), sidecar.capabilities.as_str()), ("1337", "0000000000000000"));
    // The sidecar goes first, and what was captured finds nobody; then its container.
    podman.ok(&["rm", "--force", "--time=0", "app-sidecar"]);
    assert!(!get(&direct).ok());
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    lab.net(&["status"]).expect_ok("in order");
}

/// Both directions by way of sidecars, each in the namespace of a container that our plugin has put on the network.
#[test]
fn two_containers_with_a_sidecar_each_talk_by_them() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    podman.sidecar_image();
    plugins(&lab);
    let mut list: Value = serde_json::from_str(&conflist(&lab)).unwrap();
    list["plugins"][0]["capture"] = json!({});
    machine.write("/etc/cni/net.d/mesh.conflist", &list.to_string());
    for name in ["shop", "app"] {
        podman.ok(&["run", "--detach", "--pull=never", "--network=mesh", "--name", name, IMAGE]);
    }
    for name in ["shop", "app"] {
        let folder = lab.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let config = "capture: {}\ndns: {}\nregistry: {file: services.yaml}\ndefaults: {dns: {answer: virtual}}\n\
                      workers: 1\nstate_dir: none\npolicy_host: {cache_dir: none}\n";
        fs::write(folder.join("outrigger.yaml"), format!("node: {{service: {name}}}\n{config}")).unwrap();
        let endpoint = format!("'{}:80'", address(&podman, "shop"));
        let services = format!("services: {{shop: {{endpoints: [{endpoint}]}}}}\n");
        fs::write(folder.join("services.yaml"), services).unwrap();
        let (network, sidecar) = (format!("--network=container:{name}"), format!("--name={name}-sidecar"));
        let volume = format!("--volume={}:/etc/outrigger:ro", folder.display());
        let words = ["run", "--detach", "--pull=never", "--cap-drop=all", "--read-only"];
        podman.ok(&[&words[..], &[&network, &sidecar, &volume, SIDECAR]].concat());
    }
    let [shop, app] = ["shop", "app"].map(|name| Container { runtime: &podman, name });
    let url = "http://shop.mesh.internal/cgi-bin/who";
    app.until_answered(url);
    let (sent, came) = ([("direction", "outbound"), ("service", "shop")], [("direction", "inbound")]);
    let before = (app.counted(&sent), shop.counted(&came));
    // The workload sees its own address: its sidecar asks it.
    let said = app.curl(url).expect_ok(url).out;
    assert!(said.contains(&address(&podman, "shop").to_string()), "{said}");
    assert_eq!((app.counted(&sent), shop.counted(&came)), (before.0 + 1.0, before.1 + 1.0));
    podman.ok(&["rm", "--force", "--time=0", "app-sidecar", "shop-sidecar"]);
    podman.ok(&["rm", "--force", "--time=0", "--all"]);
    lab.net(&["status"]).expect_ok("in order");
}
