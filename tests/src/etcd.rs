//! A real etcd, one member or a cluster, and what other tools do to it through its JSON gateway.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::{Authority, Identity, bundle};
use crate::client::Client;
use crate::netns::Host;
use crate::wait;

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    /// Where it takes nobody without a certificate.
    secure: Option<Secure>,
    /// The machine it runs on, if that is not this one. Tools ask it there.
    host: Option<Host>,
    child: Option<Child>,
}

#[derive(Debug)]
struct Secure {
    address: SocketAddr,
    identity: Identity,
    client_ca: PathBuf,
}

/// A key as it is now.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub value: Value,
    pub lease: String,
}

impl Etcd {
    /// One member, ready to use.
    pub fn start() -> Self {
        Self::cluster(1)
    }

    pub fn cluster(size: usize) -> Self {
        Self::of((0..size).map(|_| Member::on(None)).collect())
    }

    /// A member on each host.
    pub fn cluster_on(hosts: &[Host]) -> Self {
        Self::of(hosts.iter().map(|host| Member::on(Some(host.clone()))).collect())
    }

    /// One member that also listens with TLS, for clients with a certificate of one of these authorities: that of its
    /// own certificate has to be among them, since its gateway is a client of it. Tools go on in the clear.
    pub fn with_tls(identity: Identity, clients: &[&Authority]) -> Self {
        let mut member = Member::on(None);
        let client_ca = identity.cert_file.with_extension("clients.pem");
        bundle(clients, &client_ca);
        member.secure = Some(Secure { address: free(), identity, client_ca });
        Self::of(vec![member])
    }

    fn of(members: Vec<Member>) -> Self {
        let mut etcd = Self { dir: TempDir::new().unwrap(), members };
        (0..etcd.members.len()).for_each(|index| etcd.spawn(index));
        etcd.wait_for_quorum();
        etcd
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// Where the first member listens with TLS.
    pub fn secure_address(&self) -> SocketAddr {
        self.members[0].secure.as_ref().expect("it was started with TLS").address
    }

    fn spawn(&mut self, index: usize) {
        let peers: Vec<String> =
            self.members.iter().enumerate().map(|(at, m)| format!("m{at}=http://{}", m.peer)).collect();
        let member = &mut self.members[index];
        let (mut client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
        let log = File::create(self.dir.path().join(format!("log{index}"))).unwrap();
        let mut command = member.host.as_ref().map_or_else(|| Command::new("etcd"), |h| h.command("etcd"));
        if let Some(Secure { address, identity, client_ca }) = &member.secure {
            client = format!("{client},https://{address}");
            command.arg("--cert-file").arg(&identity.cert_file).arg("--key-file").arg(&identity.key_file);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(client_ca);
        }
        let child = command
            .args(["--name", &format!("m{index}"), "--initial-cluster", &peers.join(",")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("data{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("etcd: {error}; tests/run.sh installs it"));
        member.child = Some(child);
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn start_again(&mut self, index: usize) {
        self.spawn(index);
        self.wait_for_quorum();
    }

    /// It hangs: connections stay open and nothing is answered, until `SIGCONT`.
    pub fn signal(&self, index: usize, signal: Signal) {
        let id = self.members[index].child.as_ref().map(Child::id).expect("it runs");
        let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).unwrap();
    }

    /// It comes back and lets nobody in without a password.
    pub fn start_again_closed(&mut self, index: usize) {
        self.spawn(index);
    }

    /// It comes back with nothing in it.
    pub fn restart_empty(&mut self) {
        self.kill(0);
        std::fs::remove_dir_all(self.dir.path().join("data0")).unwrap();
        self.start_again(0);
    }

    pub fn wait_for_quorum(&self) {
        wait::until_true("etcd to serve", || self.call("/v3/kv/range", &json!({ "key": "AA==" })).is_some());
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        wait::until("a leader", || {
            let status = |member: &Member| member.ask("/v3/maintenance/status", &json!({}));
            self.members.iter().position(|member| {
                member.child.is_some()
                    && status(member).is_some_and(|s| s["header"]["member_id"] == s["leader"])
            })
        })
    }

    /// Asks any member that lives.
    fn call(&self, path: &str, request: &Value) -> Option<Value> {
        let living = self.members.iter().filter(|member| member.child.is_some());
        living.into_iter().find_map(|member| member.ask(path, request))
    }

    /// Makes an instance of a service through one member, which has to be of the majority.
    pub fn instance_through(&self, index: usize, service: &str, id: &str, address: SocketAddr) {
        let (key, value) = (format!("/outrigger/services/{service}/{id}"), json!({ "address": address }));
        let request = json!({ "key": encode(&key), "value": encode(&value.to_string()) });
        wait::until("a put", || self.members[index].ask("/v3/kv/put", &request));
    }

    fn done(&self, path: &str, request: &Value) -> Value {
        wait::until(path, || self.call(path, request))
    }

    pub fn put(&self, key: &str, value: &str) {
        self.put_bytes(key, value.as_bytes());
    }

    pub fn put_bytes(&self, key: &str, value: &[u8]) {
        self.done("/v3/kv/put", &json!({ "key": encode(key), "value": encode_bytes(value) }));
    }

    /// Makes an instance of a service, as any tool may.
    pub fn instance(&self, service: &str, id: &str, address: SocketAddr) {
        self.put(&format!("/outrigger/services/{service}/{id}"), &json!({ "address": address }).to_string());
    }

    /// All keys that begin so; the prefix ends with a slash.
    pub fn delete_below(&self, prefix: &str) {
        let end = format!("{}0", prefix.trim_end_matches('/'));
        self.done("/v3/kv/deleterange", &json!({ "key": encode(prefix), "range_end": encode(&end) }));
    }

    pub fn delete(&self, key: &str) {
        self.done("/v3/kv/deleterange", &json!({ "key": encode(key) }));
    }

    pub fn revoke(&self, lease: &str) {
        self.done("/v3/lease/revoke", &json!({ "ID": lease }));
    }

    /// From now on only `root` may do anything, with this password.
    pub fn require_password(&self, password: &str) {
        self.done("/v3/auth/user/add", &json!({ "name": "root", "password": password }));
        self.done("/v3/auth/role/add", &json!({ "name": "root" }));
        self.done("/v3/auth/user/grant", &json!({ "user": "root", "role": "root" }));
        self.done("/v3/auth/enable", &json!({}));
    }

    /// Forgets all history.
    pub fn compact(&self) {
        let now = self.done("/v3/kv/range", &json!({ "key": "AA==" }))["header"]["revision"].clone();
        self.done("/v3/kv/compaction", &json!({ "revision": now }));
    }

    pub fn entry(&self, key: &str) -> Option<Entry> {
        let found = self.call("/v3/kv/range", &json!({ "key": encode(key) }))?;
        let kv = found["kvs"].get(0)?.clone();
        let value = decode(kv["value"].as_str()?);
        Some(Entry {
            key: key.to_owned(),
            value: serde_json::from_slice(&value).ok()?,
            lease: kv["lease"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}

impl Member {
    fn on(host: Option<Host>) -> Self {
        let (client, peer) = match &host {
            None => (free(), free()),
            Some(host) => {
                let free = || free_at(host.address.into());
                host.enter(|| (free(), free()))
            }
        };
        Self { client, peer, secure: None, host, child: None }
    }

    fn ask(&self, path: &str, request: &Value) -> Option<Value> {
        match &self.host {
            None => ask(self.client, path, request),
            Some(host) => host.enter(|| ask(self.client, path, request)),
        }
    }
}

/// A port that nobody has now.
pub fn free() -> SocketAddr {
    free_at(Ipv4Addr::LOCALHOST.into())
}

fn free_at(address: IpAddr) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// `None` unless it is answered 200.
fn ask(address: SocketAddr, path: &str, request: &Value) -> Option<Value> {
    let mut client = Client::try_connect(address).ok()?;
    let body = request.to_string();
    let length = body.len();
    client.try_send(format!(
        "POST {path} HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    let answer = client.try_answer("POST").ok().filter(|answer| answer.status == 200)?;
    serde_json::from_slice(&answer.body.bytes).ok()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(text: &str) -> String {
    encode_bytes(text.as_bytes())
}

fn encode_bytes(bytes: &[u8]) -> String {
    let mut encoded = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | group.get(at).map_or(0, |b| usize::from(*b)));
        for at in 0..4 {
            encoded.push(if at <= group.len() {
                char::from(ALPHABET[bits >> (18 - 6 * at) & 63])
            } else {
                '='
            });
        }
    }
    encoded
}

fn decode(text: &str) -> Vec<u8> {
    let letters = text.bytes().filter_map(|letter| ALPHABET.iter().position(|known| *known == letter));
    let letters: Vec<usize> = letters.collect();
    let mut bytes = Vec::new();
    for group in letters.chunks(4) {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | group.get(at).copied().unwrap_or_default());
        bytes.extend((0..group.len() - 1).map(|at| (bits >> (16 - 8 * at) & 0xff) as u8));
    }
    bytes
}
