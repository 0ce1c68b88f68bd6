//! A host for `outrigger net`: one that workloads are put on, one outside, and what the tests look at and send.
//!
//! The "host" is a namespace of its own, as are the workloads; no packet leaves them. Servers tell each client which
//! address it came from, so an answer proves the way and the translation.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Host, Network};
use crate::program::{self, Said, say};
use crate::wait;

/// For a connection that is expected to come about, and for one that is not.
const CONNECT: Duration = Duration::from_secs(5);
const NO_CONNECT: Duration = Duration::from_millis(400);

#[derive(Debug)]
pub struct Lab {
    network: Network,
    /// Where `outrigger net` runs.
    pub node: Host,
    /// Beyond the node, on the same switch.
    pub outside: Host,
    pub dir: TempDir,
}

pub const OUTSIDE6: &str = "fd99::2";
pub const NODE6: &str = "fd99::1";

impl Lab {
    /// `None` without root; see `Network::new`.
    pub fn new() -> Option<Self> {
        let mut network = Network::new()?;
        let (node, outside) = (network.host("node"), network.host("outside"));
        for (host, address) in [(&node, NODE6), (&outside, OUTSIDE6)] {
            ip(host, &["address", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
        }
        let lab = Self { network, node, outside, dir: TempDir::new().unwrap() };
        lab.settle(&lab.node);
        Some(lab)
    }

    /// A namespace with nothing in it.
    pub fn workload(&mut self, name: &str) -> Host {
        self.network.bare(name)
    }

    /// `outrigger net` on the node, with this lab's store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.command(program::outrigger().to_str().unwrap());
        command.arg("net").args(arguments).arg("--state").arg(self.state());
        command
    }

    pub fn net(&self, arguments: &[&str]) -> Said {
        say(&mut self.command(arguments))
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Writes the network file, and answers its name.
    pub fn write(&self, text: &str) -> String {
        let file = self.dir.path().join("network.yaml");
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn apply(&self, text: &str) -> Value {
        let file = self.write(text);
        let said = self.net(&["apply", &file, "--json"]).expect_ok(text);
        serde_json::from_str(&said.out).unwrap()
    }

    #[track_caller]
    pub fn undo(&self) {
        self.net(&["undo"]).expect_ok("undo");
    }

    /// The workload's address of one family, as the store has it.
    pub fn address(&self, workload: &str, is_ipv4: bool) -> IpAddr {
        let status: Value = serde_json::from_str(&self.net(&["status", "--json"]).out).unwrap();
        let workloads = status["workloads"].as_array().unwrap();
        let found = workloads.iter().find(|found| found["id"] == workload).expect("the workload is recorded");
        let addresses = found["addresses"].as_array().unwrap().iter();
        let mut addresses = addresses.map(|address| address.as_str().unwrap().parse::<IpAddr>().unwrap());
        addresses.find(|address| address.is_ipv4() == is_ipv4).expect("it has an address of that family")
    }

    /// Everything about a namespace's network that `undo` has to leave as it was.
    pub fn dump(&self, host: &Host) -> String {
        let mut text = String::new();
        for arguments in [
            &["-d", "link"][..],
            &["address"],
            &["-4", "route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
            &["rule"],
            &["-6", "rule"],
        ] {
            text += &ip(host, arguments);
        }
        // A link that has been up once has a queue for ever.
        let mut text = text.replace("qdisc noop ", "").replace("qdisc noqueue ", "");
        text += &say(host.command("nft").args(["list", "ruleset"])).expect_ok("nft").out;
        text += &host.enter(|| sysctls(Path::new("/proc/sys/net")));
        text
    }

    /// Waits until the kernel has made up its mind about IPv6 addresses of its own.
    pub fn settle(&self, host: &Host) {
        let mut said = String::new();
        let is_settled = wait::at_most(wait::WAIT_MAX, || {
            said = ip(host, &["-6", "address"]);
            (!said.contains("tentative")).then_some(())
        });
        assert!(is_settled.is_some(), "an address stays tentative: {said}");
    }
}

/// Panics with the lines that are in the one and not in the other.
#[track_caller]
pub fn assert_same(found: &str, wanted: &str, what: &str) {
    let without = |one: &str, other: &str| {
        let lines: Vec<String> =
            one.lines().filter(|line| !other.lines().any(|l| l == *line)).map(str::to_owned).collect();
        lines
    };
    let (more, less) = (without(found, wanted), without(wanted, found));
    assert!(more.is_empty() && less.is_empty(), "{what}: more {more:#?}, less {less:#?}");
}

/// What `ip` says in a namespace.
#[track_caller]
pub fn ip(host: &Host, arguments: &[&str]) -> String {
    say(host.command("ip").args(arguments)).expect_ok("ip").out
}

/// The settings of interfaces and of forwarding.
fn sysctls(folder: &Path) -> String {
    let mut text = String::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let shown = path.display().to_string();
        if path.is_dir() && !shown.ends_with("/neigh") {
            text += &sysctls(&path);
        } else if let (true, Ok(value)) = (shown.contains("/ipv"), fs::read_to_string(&path)) {
            text += &format!("{shown} {value}");
        }
    }
    text
}

/// A server on a host that tells each client where it came from. It ends with the test's process.
pub fn serve(host: &Host, port: u16) {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream);
        }
    });
}

fn answer(mut stream: TcpStream) {
    if let Ok(peer) = stream.peer_addr() {
        let _ = write!(stream, "{}", peer.ip().to_canonical());
    }
}

/// The same over UDP, from the address that was asked.
pub fn serve_udp(host: &Host, address: SocketAddr) {
    let socket = host.enter(|| UdpSocket::bind(address).unwrap());
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

/// Where the server saw us come from.
pub fn ask(from: &Host, address: impl Into<IpAddr>, port: u16) -> Option<String> {
    connect(from, (address.into(), port).into(), CONNECT)
}

/// Whether there is no way there.
pub fn is_closed(from: &Host, address: impl Into<IpAddr>, port: u16) -> bool {
    connect(from, (address.into(), port).into(), NO_CONNECT).is_none()
}

fn connect(from: &Host, to: SocketAddr, within: Duration) -> Option<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, within).ok()?;
        stream.set_read_timeout(Some(within)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

/// Asked over UDP with this socket: what came back, if anything did.
pub fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> Option<String> {
    socket.set_read_timeout(Some(NO_CONNECT)).unwrap();
    socket.send_to(b"?", to).ok()?;
    let mut answer = [0; 512];
    let (length, _) = socket.recv_from(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}
