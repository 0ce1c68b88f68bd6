//! Pods: several containers in one namespace with one sidecar, by hand and by the example for Kubernetes.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use outrigger_tests::container::Container;
use outrigger_tests::images::{IMAGE, SIDECAR};
use outrigger_tests::machine::{Machine, Podman, Status, ask_web, plugins};
use outrigger_tests::metrics::Metrics;
use outrigger_tests::netlab::Lab;
use outrigger_tests::program::{self, tool};
use outrigger_tests::wait;
use serde_json::{Value, json};

/// The network that the manifest's endpoints are on.
const SUBNET: &str = "10.96.80.0/24";
const WEB: [(&str, &str); 2] = [("web-1", "10.96.80.11"), ("web-2", "10.96.80.12")];

const URL: &str = "http://web.mesh.internal/";
const IN: [(&str, &str); 1] = [("direction", "inbound")];
const OUT: [(&str, &str); 1] = [("direction", "outbound")];

fn example(name: &str) -> PathBuf {
    program::root().join("examples").join(name)
}

/// A network that captures nothing, and two web servers that say who they are.
fn start_web(lab: &Lab, machine: &Machine, podman: &Podman<'_>) {
    podman.image();
    podman.sidecar_image();
    plugins(lab);
    let plugin = json!({"type": "outrigger", "subnets": [SUBNET], "state_dir": lab.state().to_str().unwrap(),
                        "capabilities": {"portMappings": true, "ips": true}});
    let network = json!({"cniVersion": "0.4.0", "name": "kube", "plugins": [plugin]});
    machine.write("/etc/cni/net.d/kube.conflist", &network.to_string());
    for (name, address) in WEB {
        let serve = format!("echo {name} > /www/index.html; exec httpd -f -p 80 -h /www");
        let words = ["run", "--detach", "--pull=never", "--network=kube", "--ip", address, "--name", name];
        podman.ok(&[&words[..], &[IMAGE, "sh", "-c", &serve]].concat());
    }
}

fn workloads(lab: &Lab) -> usize {
    let status: Value = serde_json::from_str(&lab.net(&["status", "--json"]).out).unwrap();
    status["workloads"].as_array().unwrap().len()
}

#[test]
fn containers_of_a_pod_share_a_sidecar() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    start_web(&lab, &machine, &podman);
    let folder = lab.dir.path().join("etc");
    fs::create_dir_all(&folder).unwrap();
    for name in ["network.yaml", "outrigger.yaml"] {
        fs::copy(example("compose/config").join(name), folder.join(name)).unwrap();
    }
    fs::write(folder.join("services.yaml"), "services: {web: {endpoints: ['10.96.80.11:80']}}\n").unwrap();
    podman.ok(&["pod", "create", "--name=pod", "--network=kube", "--publish=8080:80"]);
    let volume = format!("--volume={}:/etc/outrigger:ro", folder.display());
    let create = |name: &str, more: &[&str]| {
        podman
            .ok(&[&["create", "--pull=never", "--pod=pod", "--name", name, "--cap-drop=all"], more].concat());
    };
    let apply = ["net", "apply", "/etc/outrigger/network.yaml", "--state", "/dev/shm/outrigger"];
    let privileged =
        ["--init-ctr=always", "--read-only", "--user=0", "--cap-add=NET_ADMIN", &volume, SIDECAR];
    create("capture", &[&privileged[..], &apply].concat());
    create("sidecar", &["--read-only", &volume, SIDECAR]);
    create("server", &["--cap-add=NET_BIND_SERVICE", IMAGE]);
    create("client", &["--user=1000", IMAGE, "sleep", "1000"]);
    create("exempt", &["--user=1337", IMAGE, "sleep", "1000"]);
    podman.ok(&["pod", "start", "pod"]);
    let [client, server, exempt] =
        ["client", "server", "exempt"].map(|name| Container { runtime: &podman, name });

    // Among themselves, past the sidecar.
    wait::until_true("the neighbour to answer", || client.curl("http://127.0.0.1/").code != Some(7));
    let who = client.curl("http://localhost/cgi-bin/who").expect_ok("a neighbour");
    assert!(who.out.contains("127.0.0.1") || who.out.contains("::1"), "{who:?}");
    // What any of them sends, by way of it.
    client.until_answered(URL);
    server.until_answered(URL);
    let (inbound, outbound) = (client.counted(&IN), client.counted(&OUT));
    assert!((inbound, outbound) == (0.0, 2.0), "{inbound}, {outbound}");
    // Whoever is the sidecar's user goes past it, and is told no names.
    assert!(!exempt.curl(URL).ok());
    assert_eq!(exempt.curl("http://10.96.80.11/").expect_ok("directly").out, "web-1\n");
    assert_eq!(client.counted(&OUT), 2.0);
    // What comes from outside, by way of it: the server sees its own address.
    let seen = ask_web(&lab.outside, lab.node.address, 8080).expect("the published port");
    assert!(seen.parse::<IpAddr>().is_ok() && seen.starts_with("10.96.80."), "{seen}");
    assert_eq!(client.counted(&IN), 1.0);

    // Without the sidecar, nothing goes out or comes in.
    podman.ok(&["stop", "--time=0", "sidecar"]);
    assert_eq!(client.curl("http://10.96.80.11/").code, Some(7));
    assert!(ask_web(&lab.outside, lab.node.address, 8080).is_none());
    // Started again, the pod has a new namespace: captured again, until it is undone.
    podman.ok(&["pod", "stop", "--time=0", "pod"]);
    podman.ok(&["pod", "start", "pod"]);
    client.until_answered(URL);
    podman.ok(&["stop", "--time=0", "sidecar"]);
    assert!(!client.curl("http://10.96.80.11/").ok());
    let words = ["run", "--rm", "--pull=never", "--pod=pod", "--read-only", "--user=0", "--cap-drop=all"];
    let undo = ["--cap-add=NET_ADMIN", SIDECAR, "net", "undo", "--state", "/dev/shm/outrigger"];
    let undone = podman.ok(&[&words[..], &undo].concat());
    assert!(undone.contains("remove table outrigger"), "{undone}");
    client.curl("http://10.96.80.11/").expect_ok("directly");
    podman.ok(&["pod", "rm", "--force", "--time=0", "pod"]);
    assert_eq!(workloads(&lab), WEB.len());
    lab.net(&["status"]).expect_ok("in order");
}

#[test]
fn the_manifest_puts_a_deployment_behind_a_sidecar() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    start_web(&lab, &machine, &podman);
    let script = example("kubernetes/podman.sh");
    let adapted = tool(script.to_str().unwrap(), &[], lab.dir.path()).expect_ok("podman.sh").out;
    let stock = "docker.io/library/busybox:1";
    assert!(adapted.contains(stock));
    let file = lab.dir.path().join("shop.yaml");
    fs::write(&file, adapted.replace(stock, IMAGE)).unwrap();
    let file = file.to_str().unwrap();
    podman.ok(&["kube", "play", "--network=kube", file]);
    let shop = Container { runtime: &podman, name: "shop-pod-0-shop" };
    shop.until_answered(URL);
    let answers = (0..8).map(|_| shop.curl(URL).expect_ok("web").out);
    assert_eq!(answers.filter(|said| said == "web-1\n").count(), 6, "by weight");

    // As a kubelet and Prometheus ask.
    let infra = podman.ok(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "shop-pod-0"]);
    let format = "{{(index .NetworkSettings.Networks \"kube\").IPAddress}}";
    let address = podman.ok(&["inspect", "--format", format, &infra]);
    let get =
        |path: &str| machine.run("curl", &["-sSf", "--max-time", "2", &format!("http://{address}{path}")]);
    let manifest = fs::read_to_string(example("kubernetes/shop.yaml")).unwrap();
    let probes = manifest.lines().filter_map(|line| line.trim().strip_prefix("httpGet: {path: "));
    let probes: Vec<&str> = probes.filter_map(|probe| probe.strip_suffix(", port: 15020}")).collect();
    assert_eq!(probes, ["/ready", "/live"]);
    for path in probes {
        get(&format!(":15020{path}")).expect_ok(path);
    }
    assert_eq!(get("/").expect_ok("the workload").out, "shop\n");
    let metrics = Metrics::parse(&get(":15020/metrics").expect_ok("metrics").out);
    assert_eq!(metrics.sum("outrigger_requests_total", &IN), 1.0);
    let sidecar = Status::of(&podman, "shop-pod-0-sidecar");
    assert_eq!((sidecar.uid.as_str(), sidecar.capabilities.as_str()), ("1337", "0000000000000000"));

    // Started again it has a new namespace, and is captured again.
    podman.ok(&["pod", "stop", "--time=0", "shop-pod-0"]);
    podman.ok(&["pod", "start", "shop-pod-0"]);
    shop.until_answered(URL);
    podman.ok(&["pod", "stop", "--time=0", "shop-pod-0"]);
    podman.ok(&["kube", "down", file]);
    assert_eq!(workloads(&lab), WEB.len());
    lab.net(&["status"]).expect_ok("in order");
}
