//! The real proxy as a child process: configured in a directory of its own, on ports that are free.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::backend::Backend;
use crate::client::{Answer, Client};
use crate::metrics::Metrics;
use crate::{program, wait};

mod successors;

pub use successors::Line;

/// What a proxy is started from. Top-level fields of the configuration are set one by one.
#[derive(Debug)]
pub struct Scene {
    dir: TempDir,
    fields: BTreeMap<String, String>,
    services: BTreeMap<String, Vec<String>>,
    environment: Vec<(String, OsString)>,
    /// Another than ours.
    user: Option<u32>,
    /// That this user has, as `setpriv` lists them.
    capabilities: Option<&'static str>,
    /// Where sockets pass from one process to the next.
    handover: Option<PathBuf>,
}

/// A proxy that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    pub scene: Scene,
    pub outbound: SocketAddr,
    /// `None` on a Unix socket.
    pub admin: Option<SocketAddr>,
    /// Where names are answered, at the first address.
    pub names: Option<SocketAddr>,
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Scene {
    /// Two workers, loopback ports that are free, compiled policies cached in the scene.
    pub fn new() -> Self {
        let scene = Self {
            dir: TempDir::new().unwrap(),
            fields: BTreeMap::new(),
            services: BTreeMap::new(),
            environment: Vec::new(),
            user: None,
            capabilities: None,
            handover: None,
        };
        scene
            .set("workers", "2")
            .set("outbound", "127.0.0.1:0")
            .set("admin", "{listen: '127.0.0.1:0'}")
            .set("registry", "{file: services.yaml}")
            .set("policy_host", "{cache_dir: cache}")
    }

    /// A scene with one service, `web`.
    pub fn web(backends: &[&Backend]) -> Self {
        Self::new().service("web", backends)
    }

    /// In an environment with these variables.
    pub fn with(mut self, environment: &[(String, OsString)]) -> Self {
        self.environment = environment.to_vec();
        self
    }

    /// The proxy runs as this user, without privileges.
    pub fn by_user(mut self, user: u32) -> Self {
        std::os::unix::fs::chown(self.dir.path(), Some(user), Some(user)).unwrap();
        self.user = Some(user);
        // Our home is not its own.
        self.set("state_dir", "state")
    }

    /// With these capabilities beside its user, as in `+net_raw`.
    pub fn capable(mut self, capabilities: &'static str) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Sets a top-level field; the value is YAML on one line.
    pub fn set(mut self, field: &str, yaml: &str) -> Self {
        self.change(field, yaml);
        self
    }

    pub fn change(&mut self, field: &str, yaml: &str) {
        self.fields.insert(field.to_owned(), yaml.to_owned());
    }

    pub fn service(mut self, name: &str, backends: &[&Backend]) -> Self {
        let addresses = backends.iter().map(|backend| backend.address.to_string()).collect();
        self.services.insert(name.to_owned(), addresses);
        self
    }

    /// Endpoints as YAML, each an address or a mapping on one line.
    pub fn endpoints(mut self, name: &str, endpoints: &[String]) -> Self {
        self.services.insert(name.to_owned(), endpoints.to_vec());
        self
    }

    /// Writes a policy's component to `NAME.wasm`.
    pub fn component(self, name: &str, bytes: &[u8]) -> Self {
        fs::write(self.path(&format!("{name}.wasm")), bytes).unwrap();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config_text(&self) -> String {
        self.fields.iter().map(|(field, value)| format!("{field}: {value}\n")).collect()
    }

    pub fn services_text(&self) -> String {
        let mut text = "services:\n".to_owned();
        for (name, endpoints) in &self.services {
            text.push_str(&format!("  {name}:\n    endpoints: [{}]\n", endpoints.join(", ")));
        }
        text
    }

    /// Writes both files, each by renaming a whole one over it.
    pub fn write(&self) {
        self.replace("services.yaml", self.services_text().as_bytes());
        self.replace("outrigger.yaml", self.config_text().as_bytes());
    }

    /// A file appears whole in place of the old one.
    pub fn replace(&self, name: &str, bytes: &[u8]) {
        let beside = self.path(&format!("{name}.new"));
        fs::write(&beside, bytes).unwrap();
        fs::rename(&beside, self.path(name)).unwrap();
    }

    /// A file is truncated and written again.
    pub fn overwrite(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Starts the proxy and waits until it serves.
    pub fn start(self) -> Proxy {
        self.write();
        self.start_again()
    }

    /// Starts from the files as they are.
    pub fn start_again(self) -> Proxy {
        let ready = self.path("ready.json");
        let mut child = self.spawn(&ready);
        let text = wait::until("the proxy to be ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the proxy has ended: {status}\n{}", read(&self.path("log")));
            }
            fs::read_to_string(&ready).ok()
        });
        let addresses: Value = serde_json::from_str(&text).unwrap();
        let address = |value: &Value| value.as_str().map(|text| text.parse::<SocketAddr>().unwrap());
        let outbound = address(&addresses["outbound"][0]).expect("an address");
        let (admin, names) = (address(&addresses["admin"]), address(&addresses["names"][0]));
        Proxy { child, outbound, admin, names, scene: self }
    }

    /// Starts a proxy that need not become ready: on these ports, which are free. Returns when it answers `/ready`.
    pub fn start_unready(mut self, outbound: SocketAddr, admin: SocketAddr) -> Proxy {
        self.change("outbound", &format!("'{outbound}'"));
        self.change("admin", &format!("{{listen: '{admin}'}}"));
        self.write();
        let child = self.spawn(&self.path("ready.json"));
        let proxy = Proxy { child, outbound, admin: Some(admin), names: None, scene: self };
        wait::until_true("the admin interface", || Client::try_connect(admin).is_ok());
        proxy
    }

    /// With a registry over the network in place of the services file, and state kept in the scene.
    pub fn registry(self, yaml: &str) -> Self {
        self.set("registry", yaml).set("state_dir", "state")
    }

    fn spawn(&self, ready: &Path) -> Child {
        let log = File::create(self.path("log")).unwrap();
        let access = File::create(self.path("access")).unwrap();
        let mut command = match self.user {
            None => Command::new(program::outrigger()),
            Some(user) => {
                let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
                let mut command = Command::new("setpriv");
                command.args([&user, &group, "--clear-groups"]);
                for kind in self.capabilities.iter().flat_map(|_| ["inh", "ambient"]) {
                    let capabilities = self.capabilities.unwrap_or_default();
                    command.arg(format!("--{kind}-caps={capabilities}"));
                }
                command.arg(program::outrigger());
                command
            }
        };
        command
            .arg("run")
            .arg(self.path("outrigger.yaml"))
            .arg("--ready-file")
            .arg(ready)
            .args(self.handover.iter().flat_map(|path| ["--handover".as_ref(), path.as_os_str()]))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(access)
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

impl Proxy {
    pub fn client(&self) -> Client {
        Client::connect(self.outbound)
    }

    /// One GET on a connection of its own.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.client().get(host, path, "connection: close\r\n")
    }

    /// Sends bytes on a connection of their own and reads all that comes until the proxy closes it.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client();
        client.try_send(bytes);
        String::from_utf8_lossy(&client.wire.rest().unwrap_or_default()).into_owned()
    }

    /// Where names are answered.
    pub fn dns(&self) -> SocketAddr {
        self.names.expect("the scene has `dns`")
    }

    pub fn admin(&self, method: &str, path: &str, fields: &str, body: &[u8]) -> Answer {
        let mut client = Client::connect(self.admin.expect("the admin interface listens on TCP"));
        let length = body.len();
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n{fields}\r\n"
        ));
        client.try_send(body);
        client.answer(method)
    }

    /// A GET on the admin interface.
    pub fn ask(&self, path: &str) -> Value {
        self.admin("GET", path, "", b"").json()
    }

    pub fn put_policy(&self, name: &str, component: &[u8]) -> Answer {
        self.admin("PUT", &format!("/policies/{name}"), "", component)
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("GET", "/metrics", "", b"").text())
    }

    /// Addresses of a service's endpoints, each with its status, in order.
    pub fn endpoints(&self, service: &str) -> Vec<(String, String)> {
        let endpoints = self.ask("/endpoints");
        let all = endpoints[service].as_array().cloned().unwrap_or_default();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let mut all: Vec<_> = all.iter().map(|one| (text(one, "address"), text(one, "status"))).collect();
        all.sort();
        all
    }

    /// Waits until a service has exactly these endpoints, all ready.
    pub fn wait_for_endpoints(&self, service: &str, backends: &[&Backend]) {
        let mut wanted: Vec<_> =
            backends.iter().map(|b| (b.address.to_string(), "ready".to_owned())).collect();
        wanted.sort();
        wait::until_true(&format!("{service} to be {wanted:?}"), || self.endpoints(service) == wanted);
    }

    /// Waits until a sum of samples is at least this.
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) {
        wait::until_true(&format!("{name}{labels:?} >= {at_least}"), || {
            self.metrics().sum(name, labels) >= at_least
        });
    }

    /// Waits until `/ready` fits.
    pub fn wait_for_ready(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || Some(self.ask("/ready")).filter(|ready| fits(ready)))
    }

    pub fn version(&self) -> u64 {
        self.ask("/ready")["applied"].as_u64().expect("a version")
    }

    /// Waits until every worker serves a later version than this.
    pub fn wait_for_version_after(&self, version: u64) {
        self.wait_for_ready(&format!("a version after {version}"), |ready| {
            ready["applied"].as_u64().is_some_and(|applied| applied > version)
        });
    }

    /// What the program has written to standard error.
    pub fn log(&self) -> String {
        read(&self.scene.path("log"))
    }

    pub fn access_log(&self) -> String {
        read(&self.scene.path("access"))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// Without pages of the program's file, of which the page cache maps more or fewer as they lie there.
    pub fn anonymous_kib(&self) -> u64 {
        self.memory_kib("RssAnon:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.id())));
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).unwrap();
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        wait::until_within(at_most, "the proxy to end", || self.child.try_wait().unwrap())
    }

    /// Asks it to end, and takes back what it was started from.
    pub fn stop(mut self) -> Scene {
        self.signal(Signal::TERM);
        let status = self.wait(wait::WAIT_MAX);
        assert!(status.success(), "{status}\n{}", self.log());
        std::mem::take(&mut self.scene)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the proxy ---\n{}", tail(&self.log()));
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
