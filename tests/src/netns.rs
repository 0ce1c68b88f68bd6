//! Networks for tests: hosts as network namespaces on one switch, which no packet leaves.
//!
//! Root makes them, with iproute2 and nftables. Code that runs inside `Host::enter`, and every process and thread that
//! it starts, is on that host: proxies, backends and loads need to know nothing of it. Invariant: namespaces carry the
//! number of the process that made them, and go, with what runs in them, when the network is dropped; those of a
//! process that was killed go with the next network.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "outrigger-test";
/// Frames between two ports of the switch that are in the set vanish.
const SWITCH_RULES: &str = "\
table bridge partition {
  set cut { type ifname . ifname; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname . oifname @cut drop
  }
}
";

/// Some hosts, each of which reaches all others until they are parted.
#[derive(Debug)]
pub struct Network {
    /// What the names of its namespaces begin with.
    name: String,
    hosts: u8,
}

/// A machine, as far as its network goes: a loopback of its own, and `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    /// Its place at the switch.
    port: String,
    pub address: Ipv4Addr,
}

impl Network {
    /// `None` without root: then the test is skipped, which is said aloud; in CI that is a failure.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!in_ci, "network namespaces need root, and CI has to give it");
            // Past the test's captured output.
            let _ = writeln!(std::io::stderr(), "SKIPPED: a test with network namespaces, which need root");
            return None;
        }
        remove_left_over();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let network = Self { name, hosts: 0 };
        let switch = network.switch();
        tool("ip", &["netns", "add", &switch], "");
        tool("ip", &["-n", &switch, "-batch", "-"], "link add switch type bridge\nlink set switch up\n");
        tool("ip", &["netns", "exec", &switch, "nft", "-f", "-"], SWITCH_RULES);
        Some(network)
    }

    /// One more host, plugged in.
    pub fn host(&mut self, name: &str) -> Host {
        self.hosts += 1;
        let (number, switch) = (self.hosts, self.switch());
        let host = Host {
            namespace: format!("{}-{name}", self.name),
            port: format!("port{number}"),
            address: Ipv4Addr::new(10, 77, 0, number),
        };
        let Host { namespace, port, address } = &host;
        tool("ip", &["netns", "add", namespace], "");
        let at_the_switch = format!(
            "link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master switch up\n"
        );
        tool("ip", &["-n", &switch, "-batch", "-"], &at_the_switch);
        let on_the_host = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
        tool("ip", &["-n", namespace, "-batch", "-"], &on_the_host);
        host
    }

    /// A host without a cable: nothing but a loopback that is down. Its address is nowhere.
    pub fn bare(&mut self, name: &str) -> Host {
        let namespace = format!("{}-{name}", self.name);
        tool("ip", &["netns", "add", &namespace], "");
        Host { namespace, port: String::new(), address: Ipv4Addr::UNSPECIFIED }
    }

    /// What the one sends does not reach the other any more; the way back is untouched.
    pub fn cut(&self, from: &Host, to: &Host) {
        self.nft(&format!("add element bridge partition cut {{ {} . {} }}", from.port, to.port));
    }

    /// Neither hears the other any more.
    pub fn part(&self, one: &Host, other: &Host) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Everybody hears everybody again, except those whose cable is out.
    pub fn heal(&self) {
        self.nft("flush set bridge partition cut");
    }

    /// Pulls the cable: the host sees that its link is down.
    pub fn unplug(&self, host: &Host) {
        tool("ip", &["-n", &self.switch(), "link", "set", &host.port, "down"], "");
    }

    pub fn plug_in(&self, host: &Host) {
        tool("ip", &["-n", &self.switch(), "link", "set", &host.port, "up"], "");
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn nft(&self, rule: &str) {
        tool("ip", &["netns", "exec", &self.switch(), "nft", rule], "");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let own = format!("{}-", self.name);
        namespaces().iter().filter(|name| name.starts_with(&own)).for_each(|name| remove(name));
    }
}

impl Host {
    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }

    /// The machine is gone, with all that ran on it.
    pub fn remove(&self) {
        remove(&self.namespace);
    }

    /// Does something on this host.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        // A thread of its own: what has entered a namespace stays there.
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What programs that are started by `command` from now on find in `/etc/resolv.conf`.
    pub fn believe_resolvers(&self, text: &str) {
        let folder = files_of(&self.namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), text).unwrap();
    }

    /// Runs a tool on this host to a good end, with this as its input.
    #[track_caller]
    pub fn tool(&self, program: &str, arguments: &[&str], input: &str) {
        let inside = ["netns", "exec", &self.namespace, program];
        tool("ip", &[&inside, arguments].concat(), input);
    }

    /// A program that will run on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }
}

/// Where `ip netns exec` takes the files from that it lays over those of `/etc`.
fn files_of(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// Namespaces of processes that are gone.
fn remove_left_over() {
    for name in namespaces() {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if maker.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(&name);
        }
    }
}

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// With what still runs in it. Two tests may find the same one left over, so that it is gone is no error.
fn remove(namespace: &str) {
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).output();
    let running = ip(&["netns", "pids", namespace]).map(|output| output.stdout).unwrap_or_default();
    for process in String::from_utf8_lossy(&running).split_whitespace() {
        let process = process.parse().ok().and_then(Pid::from_raw);
        if let Some(process) = process.filter(|process| *process != rustix::process::getpid()) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
    let _ = ip(&["netns", "del", namespace]);
    // Most have none.
    let _ = fs::remove_dir_all(files_of(namespace));
}

/// Runs a tool to a good end, with this as its input.
#[track_caller]
fn tool(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; tests/run.sh installs it"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}\n{input}");
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn reaches(from: &Host, to: SocketAddr) -> bool {
        from.enter(|| match TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => panic!("{error}"),
            Err(_) => false,
        })
    }

    #[test]
    fn hosts_are_parted_and_heal() {
        let Some(mut network) = Network::new() else { return };
        let (a, b, c) = (network.host("a"), network.host("b"), network.host("c"));
        let listening = |host: &Host| {
            let listener = host.enter(|| TcpListener::bind((host.address, 0)).unwrap());
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let ((_b, at_b), (_c, at_c)) = (listening(&b), listening(&c));
        assert!(reaches(&a, at_b) && reaches(&a, at_c) && reaches(&c, at_b));
        network.part(&a, &b);
        assert!(!reaches(&a, at_b) && reaches(&a, at_c) && reaches(&c, at_b));
        network.heal();
        // No answer comes back.
        network.cut(&b, &c);
        assert!(reaches(&a, at_b) && !reaches(&c, at_b));
        network.heal();
        network.unplug(&b);
        assert!(!reaches(&a, at_b));
        network.plug_in(&b);
        crate::wait::until_true("the link to come up", || reaches(&a, at_b) && reaches(&c, at_b));
        let said = a.command("ip").args(["-brief", "address"]).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("10.77.0.1/24"), "{said:?}");
        let name = network.name.clone();
        drop(network);
        assert!(!namespaces().iter().any(|left| left.starts_with(&name)));
    }
}
