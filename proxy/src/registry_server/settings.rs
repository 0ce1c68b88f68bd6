//! How the embedded registry is set up: a YAML file, every field of which may be left out, and flags over it.
//!
//! As elsewhere, what a file may say is one type and what the program may believe another; all errors are reported
//! together, with line and column.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::config::diagnostic::{Diagnostic, FieldPath, Problems};
use crate::config::resolve::{self, admin, check};
use crate::config::written::{Log as WrittenLog, ServerTls, Size, Span};
use crate::config::{Log, Secret, read_text, schema::schema_of, yaml};
use crate::tls;

const FILE_BYTES_MAX: u64 = 1 << 20;
const PORT: u16 = 8500;
const TOKENS_MAX: usize = 256;

/// Everything `outrigger registry` needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Of the HTTP interface; `None` is in the clear.
    pub tls: Option<tls::Server>,
    /// Where the DNS names are answered; `None` is not at all.
    pub dns: Option<Dns>,
    /// Folder of the store.
    pub data: PathBuf,
    pub datacenter: String,
    /// The node that agents' registrations belong to.
    pub node: String,
    /// Nobody has said what the node is called: it may keep the name it has.
    pub node_is_default: bool,
    pub address: IpAddr,
    pub tokens: Vec<Token>,
    /// Of requests without a token.
    pub anonymous: Rights,
    pub limits: Limits,
    pub log: Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dns {
    pub listen: SocketAddr,
    /// For how long an answer may be kept.
    pub ttl: Duration,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub name: String,
    pub secret: Secret,
    pub rights: Rights,
}

/// What a request may do. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    None,
    Read,
    Write,
}

/// Bounds on every table and on what a client can make the registry hold.
#[derive(Debug, Clone)]
pub struct Limits {
    pub nodes: usize,
    pub services: usize,
    pub instances: usize,
    pub checks: usize,
    pub sessions: usize,
    pub kv_entries: usize,
    pub kv_bytes: usize,
    pub value_bytes: usize,
    pub body_bytes: usize,
    pub connections: usize,
    pub waiters: usize,
    /// Checks carried out at once.
    pub probes: usize,
    pub deregister_after_min: Duration,
}

/// Settings of `outrigger registry`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outrigger registry")]
struct Written {
    /// IP:port of the HTTP interface. Beyond loopback, `tokens` or `tls.client_ca_file` are required.
    /// Default: 127.0.0.1:8500.
    listen: Option<String>,
    /// TLS of the HTTP interface; left out, it is in the clear.
    tls: Option<ServerTls>,
    /// The DNS interface; left out, there is none.
    dns: Option<WrittenDns>,
    /// Folder that the registry keeps its data in, relative to this file. Default: registry-data.
    data: Option<String>,
    /// The name of the only datacentre. Default: dc1.
    datacenter: Option<String>,
    /// The node that registrations through `/v1/agent` belong to.
    node: Option<WrittenNode>,
    /// Who may do what.
    tokens: Option<Vec<WrittenToken>>,
    /// What a request without a token may do. Default: write, or none where there are tokens.
    anonymous: Option<Rights>,
    /// Bounds on tables and clients.
    limits: Option<WrittenLimits>,
    /// What is logged, and how.
    log: Option<WrittenLog>,
}

/// The DNS interface, over UDP and TCP.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenDns {
    /// IP:port; Consul uses port 8600.
    #[schemars(required)]
    listen: Option<String>,
    /// For how long an answer may be kept, in whole seconds. Default: 0s.
    ttl: Option<String>,
}

/// The registry's own node.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    /// Default: the machine's host name.
    name: Option<String>,
    /// IP address that services without one of their own are reached at. Default: that of `listen`, or 127.0.0.1.
    address: Option<String>,
}

/// A token and its rights.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenToken {
    /// For logs; unique.
    #[schemars(required)]
    name: Option<String>,
    /// File that holds the token, relative to this file.
    token_file: Option<String>,
    /// The token itself; prefer `token_file`.
    token: Option<String>,
    /// Default: write.
    rights: Option<Rights>,
}

/// Bounds on every table and on what clients can make the registry hold. What goes beyond one is refused.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    /// Nodes, the registry's own among them. Default: 1024.
    nodes: Option<usize>,
    /// Names of services. Default: 4096.
    services: Option<usize>,
    /// Instances of all services. Default: 32768.
    instances: Option<usize>,
    /// Checks of all nodes and instances. Default: 65536.
    checks: Option<usize>,
    /// Sessions. Default: 4096.
    sessions: Option<usize>,
    /// Keys of the key-value store. Default: 65536.
    kv_entries: Option<usize>,
    /// All keys and values together. Default: 64MiB.
    kv_bytes: Option<Size>,
    /// One value. Default: 512KiB.
    value_bytes: Option<Size>,
    /// The body of a request that is not a value. Default: 256KiB.
    body_bytes: Option<Size>,
    /// Connections open at once. Default: 4096.
    connections: Option<usize>,
    /// Blocking reads that wait at once. Default: 4096.
    waiters: Option<usize>,
    /// Checks that the registry carries out at once. Default: 64.
    probes: Option<usize>,
    /// The least that `DeregisterCriticalServiceAfter` counts for. Default: 1m.
    deregister_after_min: Option<Span>,
}

/// What the command line says, which goes before the file.
#[derive(Debug, Default)]
pub struct Flags {
    pub listen: Option<SocketAddr>,
    pub dns: Option<SocketAddr>,
    pub data: Option<PathBuf>,
}

/// Reads the file, if there is one, and puts the flags over it.
pub fn load(file: Option<&Path>, flags: Flags) -> Result<Settings, Vec<Diagnostic>> {
    let (text, name, base) = match file {
        Some(path) => {
            let text = read_text(path, FILE_BYTES_MAX).map_err(|error| vec![error])?;
            (text, path.display().to_string(), path.parent().unwrap_or(Path::new("")))
        }
        None => ("{}".to_owned(), "command line".to_owned(), Path::new("")),
    };
    let (written, mut problems) = yaml::read::<Written>(&text, &name)?;
    let settings = resolve(written, base, flags, &mut problems);
    problems.finish()?;
    Ok(settings)
}

/// The JSON Schema of the file.
pub fn schema() -> Value {
    schema_of::<Written>()
}

fn resolve(written: Written, base: &Path, flags: Flags, problems: &mut Problems) -> Settings {
    let root = &FieldPath::Root;
    let at = &root.field("listen");
    let listen = flags.listen.or_else(|| check::address(written.listen.as_deref()?, at, problems));
    let listen = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, PORT).into());
    let tokens = tokens(written.tokens.unwrap_or_default(), base, &root.field("tokens"), problems);
    let knows_clients = written.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    if tokens.is_empty() && !knows_clients && !listen.ip().to_canonical().is_loopback() {
        let message = format!("tokens are required, since {listen} can be reached from other machines");
        problems.report_with(at, message, "give `tokens` in the file, or `tls` with `client_ca_file`");
    }
    let tls_at = &root.field("tls");
    let tls = written.tls.and_then(|tls| resolve::tls::server(&tls, "http/1.1", base, tls_at, problems));
    let node = written.node.unwrap_or_default();
    let anonymous = if tokens.is_empty() { Rights::Write } else { Rights::None };
    let said = written.anonymous;
    let anonymous = said.unwrap_or(anonymous);
    let dns = dns(written.dns, flags.dns, &root.field("dns"), problems);
    if dns.is_some() && (anonymous < Rights::Read || knows_clients && said.is_none()) {
        let message = "DNS knows neither tokens nor certificates: whoever can reach it reads";
        problems.report_with(&root.field("dns"), message, "if that is meant, give `anonymous: read`");
    }
    let datacenter = written.datacenter.unwrap_or_else(|| "dc1".into());
    check::dns_label(&datacenter, &root.field("datacenter"), problems);
    Settings {
        listen,
        tls,
        dns,
        data: flags.data.unwrap_or_else(|| base.join(written.data.unwrap_or_else(|| "registry-data".into()))),
        datacenter,
        node_is_default: node.name.is_none(),
        node: node_name(node.name, &root.field("node"), problems),
        address: node_address(node.address.as_deref(), listen, &root.field("node"), problems),
        tokens,
        anonymous,
        limits: limits(written.limits.unwrap_or_default(), &root.field("limits"), problems),
        log: resolve::log(written.log.unwrap_or_default(), &root.field("log"), problems),
    }
}

fn dns(
    written: Option<WrittenDns>,
    flag: Option<SocketAddr>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<Dns> {
    let given = written.is_some();
    let written = written.unwrap_or_default();
    let ttl = written.ttl.as_deref().unwrap_or("0s");
    let ttl = super::model::duration(ttl).unwrap_or_else(|| {
        problems.report(&at.field("ttl"), format!("`{ttl}` is not a duration, as in `5s`"));
        Duration::ZERO
    });
    let listen = flag.or_else(|| check::address(written.listen.as_deref()?, &at.field("listen"), problems));
    if given && listen.is_none() {
        problems.report_with(at, "field `listen` is missing", "as in `dns: {listen: '127.0.0.1:8600'}`");
    }
    listen.map(|listen| Dns { listen, ttl })
}

fn node_name(written: Option<String>, at: &FieldPath<'_>, problems: &mut Problems) -> String {
    if let Some(name) = written {
        if name.is_empty() || name.len() > 128 || name.chars().any(|c| c.is_control() || c == '/') {
            problems.report(&at.field("name"), format!("{name:?} cannot be the name of a node"));
        }
        return name;
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "local".into() } else { name }
}

fn node_address(
    written: Option<&str>,
    listen: SocketAddr,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> IpAddr {
    let default = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    let Some(text) = written else { return default };
    text.parse().unwrap_or_else(|_| {
        problems.report(&at.field("address"), format!("`{text}` is not an IP address"));
        default
    })
}

fn tokens(
    written: Vec<WrittenToken>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<Token> {
    check::count(written.len(), TOKENS_MAX, at, problems);
    let mut names = BTreeSet::new();
    let mut tokens: Vec<Token> = Vec::new();
    for (index, token) in written.into_iter().enumerate() {
        let at = &at.item(index);
        let name = token.name.unwrap_or_default();
        if name.is_empty() {
            problems.report(at, "field `name` is missing");
        } else if !names.insert(name.clone()) {
            problems.report(&at.field("name"), format!("`{name}` is already given"));
        }
        let secret = match (token.token, token.token_file) {
            (Some(token), None) => admin::token_from(&token, &at.field("token"), problems),
            (None, Some(file)) => admin::read_token(&base.join(file), &at.field("token_file"), problems),
            (Some(_), Some(_)) => {
                problems.report(&at.field("token"), "`token` and `token_file` exclude each other");
                None
            }
            (None, None) => {
                problems.report_with(at, "field `token_file` is missing", "a file that holds the token");
                None
            }
        };
        let Some(secret) = secret else { continue };
        if tokens.iter().any(|other| other.secret == secret) {
            problems.report(at, "the token is also given to another name");
        }
        tokens.push(Token { name, secret, rights: token.rights.unwrap_or(Rights::Write) });
    }
    tokens
}

fn limits(written: WrittenLimits, at: &FieldPath<'_>, problems: &mut Problems) -> Limits {
    let mut count = |value: Option<usize>, default: usize, name: &str| {
        check::range(value, default, 1..=16_000_000, &at.field(name), problems)
    };
    let (nodes, services) = (count(written.nodes, 1024, "nodes"), count(written.services, 4096, "services"));
    let instances = count(written.instances, 32_768, "instances");
    let checks = count(written.checks, 65_536, "checks");
    let sessions = count(written.sessions, 4096, "sessions");
    let kv_entries = count(written.kv_entries, 65_536, "kv_entries");
    let connections = count(written.connections, 4096, "connections");
    let waiters = count(written.waiters, 4096, "waiters");
    let probes = count(written.probes, 64, "probes");
    let mut size = |value: Option<Size>, default: usize, max: usize, name: &str| {
        check::size(value, default, 1..=max, &at.field(name), problems)
    };
    Limits {
        nodes,
        services,
        instances,
        checks,
        sessions,
        kv_entries,
        connections,
        waiters,
        probes,
        kv_bytes: size(written.kv_bytes, 64 << 20, 64 << 30, "kv_bytes"),
        value_bytes: size(written.value_bytes, 512 << 10, 64 << 20, "value_bytes"),
        body_bytes: size(written.body_bytes, 256 << 10, 64 << 20, "body_bytes"),
        deregister_after_min: check::span(
            written.deregister_after_min,
            Duration::from_secs(60),
            &at.field("deregister_after_min"),
            problems,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, Vec<String>> {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("registry.yaml");
        std::fs::write(&file, text).unwrap();
        let shown = |problems: Vec<Diagnostic>| {
            let place = |p: &Diagnostic| format!("{}:{}: {p}", p.place.line, p.place.column);
            problems.iter().map(place).collect()
        };
        load(Some(&file), Flags::default()).map_err(shown)
    }

    #[test]
    fn nothing_need_be_said() {
        let settings = load(None, Flags::default()).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8500");
        assert_eq!((settings.anonymous, settings.dns), (Rights::Write, None));
        assert_eq!(settings.limits.value_bytes, 512 << 10);
        assert!(!settings.node.is_empty());
    }

    #[test]
    fn flags_go_before_the_file() {
        let listen = "127.0.0.1:0".parse().ok();
        let flags = Flags { listen, dns: "127.0.0.1:5353".parse().ok(), data: Some("x".into()) };
        let settings = load(None, flags).unwrap();
        assert_eq!(Some(settings.listen), listen);
        assert_eq!((settings.dns.unwrap().ttl, settings.data), (Duration::ZERO, "x".into()));
    }

    #[test]
    fn others_reach_it_with_tokens_only() {
        let problems = settings("listen: 0.0.0.0:8500\n").unwrap_err();
        assert!(
            problems[0].starts_with("1:9: ") && problems[0].contains("tokens are required"),
            "{problems:?}"
        );
        let good = settings("listen: 0.0.0.0:8500\ntokens: [{name: a, token: s3cret}]\n").unwrap();
        assert_eq!((good.anonymous, good.tokens[0].rights), (Rights::None, Rights::Write));
        assert_eq!(good.address.to_string(), "127.0.0.1");
    }

    #[test]
    fn errors_have_their_place() {
        let problems = settings(
            "limits: {waiters: 0}\ntokens:\n  - {name: a, token: x}\n  - {name: a, token: x}\n  - {rights: red}\ndns: {ttl: 5}\nlisten: here\n",
        )
        .unwrap_err();
        let starts: Vec<&str> = problems.iter().map(|p| p.split(' ').next().unwrap()).collect();
        assert_eq!(starts, ["1:19:", "4:5:", "4:12:", "5:14:", "6:12:", "7:9:"], "{problems:#?}");
    }
}
