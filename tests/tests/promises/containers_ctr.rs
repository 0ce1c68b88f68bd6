//! Real containers by containerd's `ctr run --cni` on our plugin. `ctr` passes on no ports, and tells nothing of
//! containers that were killed.

use std::net::IpAddr;
use std::process::{Child, Stdio};

use outrigger_tests::cni::Call;
use outrigger_tests::images::IMAGE;
use outrigger_tests::machine::{Machine, Podman, ask_web, plugins, remove_cgroups};
use outrigger_tests::netlab::Lab;
use outrigger_tests::program::{Said, say};
use outrigger_tests::wait;
use serde_json::{Value, json};

/// containerd's kind of namespace: a part of ids, and of cgroups' names.
const NAMESPACE: &str = "outrigger-test";
const SOCKET: &str = "/run/containerd-test/socket";

/// containerd on a machine, with folders of its own.
struct Containerd<'a> {
    machine: &'a Machine,
    server: Child,
}

impl<'a> Containerd<'a> {
    fn new(machine: &'a Machine, lab: &Lab) -> Self {
        let folder = lab.dir.path().join("containerd");
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"/run/containerd-test\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{SOCKET}\"\n[ttrpc]\naddress = \"{SOCKET}.ttrpc\"\n",
            folder.display()
        );
        machine.write("/run/containerd.toml", &config);
        let mut command = machine.command("containerd");
        command.args(["--config", "/run/containerd.toml"]).stdout(Stdio::null()).stderr(Stdio::null());
        let missing = |error| panic!("containerd: {error}; tests/run.sh installs it");
        let containerd = Self { machine, server: command.spawn().unwrap_or_else(missing) };
        wait::until_true("containerd to serve", || containerd.say(&["version"]).ok());
        containerd
    }

    fn say(&self, arguments: &[&str]) -> Said {
        say(self
            .machine
            .command("ctr")
            .args(["--address", SOCKET, "--namespace", NAMESPACE, "--connect-timeout", "1s"])
            .args(arguments))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.say(arguments).expect_ok(&format!("ctr {arguments:?}")).out
    }

    fn run(&self, name: &str) {
        self.ok(&["run", "--detach", "--cni", IMAGE, name]);
    }

    /// What `ctr tasks kill` does not do: tell the network.
    fn kill(&self, name: &str) {
        self.ok(&["tasks", "kill", "--signal=KILL", name]);
        wait::until_true("the task to end", || self.ok(&["tasks", "ls"]).contains("STOPPED"));
        // It reports how the task ended by its own exit code.
        self.say(&["tasks", "rm", name]);
        self.ok(&["containers", "rm", name]);
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        for name in self.say(&["tasks", "ls", "--quiet"]).out.lines() {
            self.say(&["tasks", "kill", "--signal=KILL", name]);
            wait::at_most(wait::WAIT_MAX, || {
                self.say(&["tasks", "ls"]).out.contains("STOPPED").then_some(())
            });
            self.say(&["tasks", "rm", name]);
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        remove_cgroups(NAMESPACE);
    }
}

fn workloads(lab: &Lab) -> Vec<(String, IpAddr)> {
    let status: Value = serde_json::from_str(&lab.net(&["status", "--json"]).out).unwrap();
    let found = status["workloads"].as_array().unwrap().iter().map(|workload| {
        let address = workload["addresses"][0].as_str().unwrap().parse().unwrap();
        (workload["id"].as_str().unwrap().to_owned(), address)
    });
    found.collect()
}

#[test]
fn ctr_s_containers_are_reached_and_what_killed_ones_leave_is_collected() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.dump(&lab.node);
    let machine = Machine::new(&lab.node);
    let podman = Podman::new(&machine, &lab);
    podman.image();
    let archive = lab.dir.path().join("image.tar");
    podman.ok(&["save", "--quiet", "--format=oci-archive", "--output", archive.to_str().unwrap(), IMAGE]);
    let mut plugin = json!({"type": "outrigger", "subnets": ["10.88.0.0/29"]});
    plugin["state_dir"] = json!(lab.state().to_str().unwrap());
    let list = json!({"cniVersion": "1.0.0", "name": "web", "plugins": [plugin]});
    machine.write("/etc/cni/net.d/web.conflist", &list.to_string());
    let program = plugins(&lab).join("outrigger");
    machine.run("ln", &["-s", program.to_str().unwrap(), "/opt/cni/bin/outrigger"]).expect_ok("ln");
    let containerd = Containerd::new(&machine, &lab);
    containerd.ok(&["images", "import", archive.to_str().unwrap()]);
    // One in the foreground: `ctr` deletes what it added.
    let said = containerd.ok(&["run", "--rm", "--cni", IMAGE, "once", "/bin/ip", "address"]);
    assert!(said.contains("10.88.0.2/29"), "{said}");
    assert!(workloads(&lab).is_empty());
    for name in ["a", "b"] {
        containerd.run(name);
    }
    let found = workloads(&lab);
    assert_eq!(
        found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(),
        ["web/outrigger-test-a/eth0", "web/outrigger-test-b/eth0"]
    );
    for (id, address) in &found {
        let asks = || ask_web(&lab.node, *address, 80).filter(|said| said == "10.88.0.1");
        wait::until(&format!("{id} to answer at {address}"), asks);
    }
    containerd.kill("a");
    assert_eq!(workloads(&lab).len(), 2, "nobody has told");
    assert!(lab.net(&["status"]).out.contains("namespace gone"));
    let mut config = list["plugins"][0].clone();
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("web");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "outrigger-test-b", "ifname": "eth0"}]);
    Call::about_all(&lab, "GC", &config).make().expect_ok("GC");
    assert_eq!(workloads(&lab), found[1..]);
    // Without a collector: the same name again, and as many as there are addresses.
    containerd.kill("b");
    for name in ["b", "c", "d", "e", "f", "g"] {
        containerd.run(name);
        containerd.kill(name);
    }
    containerd.run("h");
    let alive = workloads(&lab);
    assert!(alive.iter().any(|(id, _)| id == "web/outrigger-test-h/eth0") && alive.len() <= 5, "{alive:?}");
    let file = lab.write("networks: {}\n");
    lab.net(&["apply", &file, "--collect"]).expect_ok("collect");
    assert_eq!(workloads(&lab).len(), 1);
    containerd.kill("h");
    lab.undo();
    drop(containerd);
    drop(podman);
    drop(machine);
    outrigger_tests::netlab::assert_same(&lab.dump(&lab.node), &before, "containerd's containers are gone");
}
