//! Several hosts that share a network: on one switch or behind a router, with etcd beside them.
//!
//! Each is a namespace with a store, a file and an `outrigger net run` of its own, and has one workload.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::netlab::{ip, serve};
use crate::netns::{Host, Network};
use crate::netrun::Running;
use crate::program::{self, Said, say};
use crate::wait;

/// Where `serve` answers on every workload.
pub const PORT: u16 = 80;
const PREFIX: &str = "/coreos.com/network/subnets";

#[derive(Debug)]
pub struct Hosts {
    pub network: Network,
    pub etcd: Etcd,
    /// Where etcd runs.
    pub registry: Host,
    dir: TempDir,
    count: u8,
}

/// One of them, with its workload.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub host: Host,
    pub workload: Host,
    pub folder: PathBuf,
    run: Option<Running>,
}

impl Hosts {
    /// `None` without root; see `Network::new`.
    pub fn new() -> Option<Self> {
        let mut network = Network::new()?;
        let registry = network.host("registry");
        let etcd = Etcd::cluster_on(std::slice::from_ref(&registry));
        Some(Self { network, etcd, registry, dir: TempDir::new().unwrap(), count: 0 })
    }

    /// One more host, which has not begun.
    pub fn node(&mut self) -> Node {
        self.count += 1;
        let name = format!("n{}", self.count);
        let host = self.network.host(&name);
        wait::until_true("no address to be tentative", || {
            !ip(&host, &["-6", "address"]).contains("tentative")
        });
        let workload = self.network.bare(&format!("w{}", self.count));
        serve(&workload, PORT);
        let folder = self.dir.path().join(&name);
        fs::create_dir(&folder).unwrap();
        Node { name, host, workload, folder, run: None }
    }

    /// A network file for a host: the overlay `mesh`, with these fields besides where etcd is.
    pub fn file(&self, node: &Node, more: &str) -> String {
        let etcd = self.etcd.addresses()[0];
        let path = node.workload.path();
        format!(
            "networks:\n  mesh:\n    overlay:\n      etcd: {{endpoints: 'http://{etcd}', timeout: 1s}}\n      \
             interface: eth0\n      {more}\nworkloads:\n  w: {{namespace: {{path: {}}}, network: mesh}}\n",
            path.display()
        )
    }

    /// Starts it with such a file, and waits until its workload is on the network.
    pub fn start(&self, node: &mut Node, more: &str) {
        self.begin(node, more);
        node.until_leased();
    }

    /// The same, without waiting.
    pub fn begin(&self, node: &mut Node, more: &str) {
        fs::write(node.folder.join("network.yaml"), self.file(node, more)).unwrap();
        node.run_again();
    }

    /// What etcd has of a host with this subnet.
    pub fn lease_of(&self, subnets: &str) -> Option<(Value, String)> {
        self.etcd.entry(&format!("{PREFIX}/{subnets}")).map(|entry| (entry.value, entry.lease))
    }
}

impl Node {
    /// Starts the process that stays, with the file and the store that there are.
    pub fn run_again(&mut self) {
        self.run = None;
        let file = self.folder.join("network.yaml");
        self.run = Some(Running::start(&self.host, &file, &self.folder).until_ready());
    }

    pub fn until_leased(&self) {
        wait::until_true("the workload to have its addresses", || self.try_addresses().is_some());
    }

    pub fn run(&self) -> &Running {
        self.run.as_ref().expect("it runs")
    }

    /// Its end comes without warning; the network stays.
    pub fn kill(&mut self) {
        self.run.take().expect("it runs").kill();
    }

    pub fn stop(&mut self) {
        assert!(self.run.take().expect("it runs").stop().success());
    }

    /// `outrigger net` on this host, with its store.
    pub fn net(&self, arguments: &[&str]) -> Said {
        let mut command = self.host.command(program::outrigger().to_str().unwrap());
        say(command.arg("net").args(arguments).arg("--state").arg(self.folder.join("state")))
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.net(&["status", "--json"]).out).unwrap()
    }

    /// Of the workload: IPv4 first, and IPv6 if the network has it.
    pub fn try_addresses(&self) -> Option<Vec<String>> {
        let text = say(self.workload.command("ip").args(["-j", "address", "show", "dev", "eth0"])).out;
        let links: Value = serde_json::from_str(&text).ok()?;
        let found = links[0]["addr_info"].as_array()?.iter().filter(|info| info["scope"] == "global");
        let found: Vec<String> = found.map(|info| info["local"].as_str().unwrap().to_owned()).collect();
        (!found.is_empty()).then_some(found)
    }

    #[track_caller]
    pub fn addresses(&self) -> Vec<String> {
        self.try_addresses().expect("the workload has addresses")
    }

    #[track_caller]
    pub fn ipv4(&self) -> String {
        self.addresses()[0].clone()
    }

    /// The name of its key in etcd.
    pub fn key(&self) -> String {
        let status = self.status();
        let subnets = status["overlays"]["mesh"]["subnets"].as_array().expect("subnets").iter();
        let parts: Vec<String> =
            subnets.map(|subnet| subnet.as_str().expect("a subnet").replace('/', "-")).collect();
        parts.join("&")
    }

    /// Which way packets to this address go.
    pub fn route_to(&self, address: &str) -> String {
        ip(&self.host, &["route", "get", address])
    }
}

impl Drop for Node {
    /// What it said helps where a test has failed.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.folder.join("run.log"))
        {
            eprintln!("{} said:\n{log}", self.name);
        }
    }
}

/// One echo with this much in it, whole; the answer has to come at once.
pub fn ping(from: &Host, to: &str, bytes: u32) -> bool {
    let size = bytes.to_string();
    say(from.command("ping").args(["-c", "1", "-W", "1", "-M", "do", "-s", &size, to])).ok()
}

/// The same, cut into pieces on the way if need be.
pub fn ping_in_pieces(from: &Host, to: &str, bytes: u32) -> bool {
    let size = bytes.to_string();
    say(from.command("ping").args(["-c", "1", "-W", "1", "-M", "dont", "-s", &size, to])).ok()
}
