//! The embedded registry as a child process, on a free port, with its data in a folder of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Answer, Client};
use crate::metrics::Metrics;
use crate::{program, wait};

/// What a registry is started from.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    environment: Vec<(String, OsString)>,
}

/// A registry that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    home: Option<Home>,
    pub http: SocketAddr,
    pub dns: Option<SocketAddr>,
}

impl Home {
    /// With these settings, as YAML. Where it listens and keeps its data is said by flags.
    pub fn new(settings: &str) -> Self {
        let home = Self { dir: TempDir::new().unwrap(), environment: Vec::new() };
        fs::write(home.path("registry.yaml"), settings).unwrap();
        home
    }

    /// In an environment with these variables.
    pub fn with(self, environment: &[(String, OsString)]) -> Self {
        Self { environment: environment.to_vec(), ..self }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(self) -> Registry {
        self.start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// On an address of the caller's, to come back to.
    pub fn start_on(self, address: SocketAddr) -> Registry {
        let mut child = self.spawn_on(address);
        let (http, dns) = self.wait_for(&mut child);
        Registry { child, home: Some(self), http, dns }
    }

    /// Starts the process, and waits for nothing.
    pub fn spawn(&self) -> Child {
        self.spawn_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn spawn_on(&self, address: SocketAddr) -> Child {
        // Of the one before, if it was killed.
        let _ = fs::remove_file(self.path("ready.json"));
        let settings = fs::read_to_string(self.path("registry.yaml")).unwrap();
        let mut command = Command::new(program::outrigger());
        command.arg("registry").arg("registry.yaml").args(["--data", "data", "--ready-file", "ready.json"]);
        if !settings.contains("listen: 0.0.0.0") {
            command.args(["--listen", &address.to_string()]);
        }
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    /// Until it serves: the addresses of both interfaces.
    pub fn wait_for(&self, child: &mut Child) -> (SocketAddr, Option<SocketAddr>) {
        let text = wait::until("the registry to be ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the registry has ended: {status}\n{}", self.log());
            }
            fs::read_to_string(self.path("ready.json")).ok()
        });
        let addresses: Value = serde_json::from_str(&text).unwrap();
        let address = |name: &str| addresses[name].as_str().map(|text| text.parse::<SocketAddr>().unwrap());
        (address("http").expect("an address"), address("dns"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Registry {
    /// With nothing but defaults.
    pub fn start() -> Self {
        Home::new("{}").start()
    }

    /// One request on a connection of its own; `fields` are lines that end with CR LF.
    pub fn ask(&self, method: &str, path: &str, fields: &str, body: impl AsRef<[u8]>) -> Answer {
        ask(&mut Client::connect(self.http), method, path, fields, body.as_ref())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    /// A GET that has to be answered well.
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// A PUT that has to be answered well.
    pub fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        let answer = self.ask("PUT", path, "", body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    }

    /// An instance on port 80 with one check.
    pub fn register(&self, service: &str, id: &str, check: &str) {
        let body = format!(r#"{{"Name": "{service}", "ID": "{id}", "Port": 80, "Check": {check}}}"#);
        self.put("/v1/agent/service/register", body);
    }

    /// The ids of healthy instances.
    pub fn passing(&self, service: &str) -> Vec<String> {
        let entries = self.json(&format!("/v1/health/service/{service}?passing"));
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["Service"]["ID"].as_str().expect("an id").to_owned()).collect()
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").text())
    }

    pub fn log(&self) -> String {
        self.home.as_ref().map(Home::log).unwrap_or_default()
    }

    /// Ends it in order, and takes back what it was started from.
    pub fn stop(mut self) -> Home {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, Signal::TERM).unwrap();
        let status = wait::until("the registry to end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
        self.home.take().expect("taken only here and below")
    }

    /// Kills it, as a power cut would kill the process.
    pub fn kill(mut self) -> Home {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.home.take().expect("taken only here and above")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the registry ---\n{}", self.log());
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on this connection.
pub fn ask(client: &mut Client, method: &str, path: &str, fields: &str, body: &[u8]) -> Answer {
    try_ask(client, method, path, fields, body).unwrap_or_else(|trouble| panic!("{method} {path}: {trouble}"))
}

/// The same, on a connection that may end.
pub fn try_ask(
    client: &mut Client,
    method: &str,
    path: &str,
    fields: &str,
    body: &[u8],
) -> Result<Answer, crate::wire::Trouble> {
    let length = body.len();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n{fields}\r\n")
            .into_bytes();
    request.extend_from_slice(body);
    client.try_send(request);
    client.try_answer(method)
}

/// `X-Consul-Index` of an answer.
pub fn index(answer: &Answer) -> u64 {
    answer.field("x-consul-index").and_then(|text| text.parse().ok()).expect("X-Consul-Index")
}
