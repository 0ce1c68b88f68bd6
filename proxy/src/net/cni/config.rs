//! The plugin's part of a conflist: what it may say, and what that comes to for one container.
//!
//! It is read like every other file of ours, by the same rules as the network file where the words are the same. What
//! runtimes add on their own account is read here by hand.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::load;
use super::reply::Refusal;
use super::request::{Command, Request};
use crate::config::diagnostic::{FieldPath, Problems};
use crate::config::{Diagnostic, schema::schema_of, yaml};
use crate::net::firewall::Protocol;
use crate::net::prefix::Prefix;
use crate::net::settings::resolve::{self, PORTS_MAX};
use crate::net::settings::{Capture, Door, Network, Port, capture::capture, is_attached, written};
use crate::net::store::Store;
use crate::net::{NetError, STATE};

/// What libcni puts beside the plugin's own fields.
const OF_LIBCNI: [&str; 7] =
    ["cniVersion", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult"];
/// Other names of the specification begin so.
const OF_CNI: &str = "cni.dev/";
/// Fields that other plugins have, and what they are here.
const OF_OTHERS: [(&str, &str); 2] = [
    ("ipam", "addresses are given from `subnets`, without another plugin"),
    ("ipMasq", "it is called `masquerade`, and true unless you say otherwise"),
];
/// Runtimes give what a conflist declares under `capabilities`, and nothing else.
const PORTS: &str = "portMappings";
const ADDRESSES: &str = "ips";

/// The plugin `outrigger` in a conflist. Behind another plugin it takes `capture`, `dns` and `state_dir` alone.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outrigger as a CNI plugin")]
struct Plugin {
    /// Address ranges: one of IPv4, one of IPv6, or both. The first address of each is the bridge's own. Default: none,
    /// with `network` or behind another plugin.
    subnets: Option<Vec<String>>,
    /// A network of this host's network file to join, such as an overlay that `outrigger net run` keeps. It says
    /// everything about the network. Default: one of the plugin's own, by `subnets`.
    network: Option<String>,
    /// The bridge's name, of 15 characters at most. Default: `or-` and the network's name.
    bridge: Option<String>,
    /// The largest packet, in bytes. Default: that of the link that leads out of this host.
    mtu: Option<u32>,
    /// What leaves this host has the host's address. Default: true.
    masquerade: Option<bool>,
    /// Nothing goes to or comes from other networks here, but to published ports. Default: true.
    isolated: Option<bool>,
    /// Lead every container's traffic into the sidecar that runs in the same namespace. Default: no capture.
    capture: Option<written::Capture>,
    /// What the runtime writes into the container's `resolv.conf`. Default: what the runtime chooses.
    dns: Option<Dns>,
    /// Folder of the store, which `outrigger net` has, too. Default: /run/outrigger/net.
    state_dir: Option<String>,
}

/// For the container's `resolv.conf`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Vec<String>>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// Domains in which short names are looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Vec<String>>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Vec<String>>,
}

/// The JSON Schema of the plugin's own fields.
pub fn schema() -> Value {
    schema_of::<Plugin>()
}

/// What is to be done for one container.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) state: PathBuf,
    pub(super) kind: Kind,
    pub(super) capture: Option<Capture>,
    /// For the result; an empty mapping says nothing.
    pub(super) dns: Value,
}

#[derive(Debug)]
pub(super) enum Kind {
    Alone {
        network: Joined,
        addresses: Vec<IpAddr>,
        publish: Vec<Port>,
    },
    /// The result of the plugins before, and what is published by it.
    Chained {
        previous: Value,
        door: Option<Door>,
    },
}

/// The network that a container is put on.
#[derive(Debug)]
pub(super) struct Joined {
    /// Its name among those of the host.
    pub(super) key: String,
    pub(super) network: Box<Network>,
    /// The conflist says what it is; otherwise the host has it already.
    pub(super) is_own: bool,
}

/// DEL and GC have to work whatever has become of the configuration.
pub(super) fn state(config: &Map<String, Value>) -> PathBuf {
    config.get("state_dir").and_then(Value::as_str).unwrap_or(STATE).into()
}

pub(super) fn resolve(request: &Request) -> Result<Config, Refusal> {
    let config = &request.config;
    if let Some((name, value, hint)) = of_others(config) {
        return Err(Refusal::field(format!("`{name}`: {value}")).with(hint));
    }
    let own: Map<String, Value> =
        config.iter().filter(|(name, _)| !is_of_cni(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    let is_chained = is_chained(request, &own)?;
    let text = Value::Object(own).to_string();
    let refused = |problems: Vec<Diagnostic>| refused(&problems, config);
    let (mut plugin, mut problems) = yaml::read::<Plugin>(&text, "conflist").map_err(refused)?;
    let at = &FieldPath::Root;
    let written = plugin.capture.take();
    let found_capture = written.map(|written| capture(written, &at.field("capture"), &mut problems));
    if plugin.state_dir.as_ref().is_some_and(|folder| !folder.starts_with('/')) {
        problems.report(&at.field("state_dir"), "runtimes call from anywhere: write the whole path");
    }
    let dns = plugin.dns.as_ref().and_then(|dns| serde_json::to_value(dns).ok());
    let runtime = Runtime::read(request)?;
    let joined = plugin.network.take().filter(|_| !is_chained);
    let network = match joined {
        Some(name) => Some(of_the_host(&name, &state(config))?),
        None if is_chained => None,
        None => Some(own_network(request, plugin, &mut problems)),
    };
    let addresses =
        network.as_ref().map_or(Vec::new(), |joined| runtime.addresses(&joined.network, &mut problems));
    problems.finish().map_err(refused)?;
    let kind = match network {
        Some(network) => {
            let families: Vec<bool> = network.network.subnets.iter().map(|subnet| subnet.is_ipv4()).collect();
            Kind::Alone { addresses, publish: runtime.ports(&families)?, network }
        }
        None => chained(request, &runtime)?,
    };
    let does_nothing = matches!(kind, Kind::Chained { .. }) && !declares(config, PORTS);
    if does_nothing && found_capture.is_none() {
        return Err(Refusal::config("nothing is to be done behind another plugin")
            .with("give `capture`, or declare the capability `portMappings`"));
    }
    let dns = dns.unwrap_or_else(|| Value::Object(Map::new()));
    Ok(Config { state: state(config), kind, capture: found_capture, dns })
}

fn own_network(request: &Request, plugin: Plugin, problems: &mut Problems) -> Joined {
    let written = written::Network {
        subnets: plugin.subnets,
        bridge: plugin.bridge,
        mtu: plugin.mtu,
        masquerade: plugin.masquerade,
        isolated: plugin.isolated,
        ..written::Network::default()
    };
    let root = Path::new("/");
    let network = resolve::resolve_network(&request.network, written, root, &FieldPath::Root, problems);
    Joined { key: request.network_key(), network: Box::new(network), is_own: true }
}

/// A network that `outrigger net` has put there.
fn of_the_host(name: &str, state: &Path) -> Result<Joined, Refusal> {
    let record = load(&Store::to_read(state))?;
    if is_attached(name) || !record.settings.networks.contains_key(name) {
        return Err(Refusal::config(format!("`network`: this host has no network `{name}`"))
            .with("write it into the network file, and let `outrigger net run` or `apply` set it up"));
    }
    let network = record.effective().networks.remove(name);
    let network = network.ok_or_else(|| NetError::NoSubnet(name.to_owned()))?;
    Ok(Joined { key: name.to_owned(), network: Box::new(network), is_own: false })
}

fn is_of_cni(name: &str) -> bool {
    OF_LIBCNI.contains(&name) || name.starts_with(OF_CNI) || OF_OTHERS.iter().any(|(other, _)| *other == name)
}

fn of_others(config: &Map<String, Value>) -> Option<(&'static str, &Value, &'static str)> {
    let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    OF_OTHERS.into_iter().find_map(|(name, hint)| {
        config.get(name).filter(|value| !is_empty(value)).map(|value| (name, value, hint))
    })
}

/// Without subnets and with a result before it, the plugin stands behind another.
fn is_chained(request: &Request, own: &Map<String, Value>) -> Result<bool, Refusal> {
    let has_previous = request.config.get("prevResult").is_some_and(Value::is_object);
    let of_a_network = ["subnets", "bridge", "mtu", "masquerade", "isolated"];
    let written = of_a_network.into_iter().find(|field| own.contains_key(*field));
    if let (Some(field), Some(network)) = (written, own.get("network")) {
        return Err(Refusal::config(format!("`{field}` beside `network`")).with(format!(
            "network {network} is the host's, and its file says this: leave one of the two out"
        )));
    }
    let written = written.or(own.contains_key("network").then_some("network"));
    match written {
        // What it gets back of its own is `prevResult`, too, but not when it adds.
        Some(field) if has_previous && request.command == Command::Add => {
            Err(Refusal::field(format!("`{field}`: {}", own[field]))
                .with("another plugin has made the network already: leave it out, or put this plugin first"))
        }
        Some(_) => Ok(false),
        // There is no result where no container is in question.
        None => Ok(has_previous || matches!(request.command, Command::Status)),
    }
}

fn declares(config: &Map<String, Value>, capability: &str) -> bool {
    let declared = config.get("capabilities").and_then(|all| all.get(capability));
    let given = config.get("runtimeConfig").and_then(|all| all.get(capability));
    declared.is_some_and(|is| is.as_bool().unwrap_or(false)) || given.is_some()
}

/// All that is wrong, in one message. A field that is not ours has a code of its own, and shows its value.
fn refused(problems: &[Diagnostic], config: &Map<String, Value>) -> Refusal {
    let is_unknown = |problem: &&Diagnostic| problem.message.starts_with("unknown field");
    let line = |problem: &Diagnostic| {
        let mut line = problem.message.clone();
        if !problem.path.is_empty() {
            line = format!("{}: {line}", problem.path);
        }
        if let (true, Some(value)) = (is_unknown(&problem), value_at(config, &problem.path)) {
            line += &format!(" ({value})");
        }
        problem.hint.iter().for_each(|hint| line += &format!("; {hint}"));
        line
    };
    let lines: Vec<String> = problems.iter().map(line).collect();
    let (first, rest) = lines.split_first().map_or((String::new(), &[][..]), |(f, r)| (f.clone(), r));
    let is_field = problems.first().is_some_and(|problem| is_unknown(&problem));
    let refusal = if is_field { Refusal::field(first) } else { Refusal::config(first) };
    if rest.is_empty() { refusal } else { refusal.with(rest.join("\n")) }
}

fn value_at<'a>(config: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.').map_or((path, ""), |(first, rest)| (first, rest));
    let found = config.get(first)?;
    rest.split('.').filter(|step| !step.is_empty()).try_fold(found, |value, step| value.get(step))
}

/// What the runtime asks for one container.
struct Runtime {
    ports: Vec<Mapping>,
    /// With the name of what asked for it.
    addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default, rename = "hostIP")]
    host_address: Option<String>,
}

impl Runtime {
    fn read(request: &Request) -> Result<Self, Refusal> {
        let mut runtime = Self { ports: Vec::new(), addresses: request.addresses.clone() };
        let given = request.config.get("runtimeConfig").and_then(Value::as_object);
        for (name, value) in given.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let decoding =
                |error: serde_json::Error| Refusal::config(format!("`runtimeConfig.{name}`: {error}"));
            match name.as_str() {
                PORTS => runtime.ports = Vec::deserialize(value).map_err(decoding)?,
                ADDRESSES => runtime.addresses.extend(Vec::<String>::deserialize(value).map_err(decoding)?),
                _ => {
                    let message = format!("`runtimeConfig.{name}`: {value}");
                    return Err(Refusal::field(message).with(format!(
                        "this plugin has the capabilities `{PORTS}` and `{ADDRESSES}`; declare no other"
                    )));
                }
            }
        }
        Ok(runtime)
    }

    /// Some runtimes say an address with its subnet's length.
    fn addresses(&self, network: &Network, problems: &mut Problems) -> Vec<IpAddr> {
        let bare = |text: &String| text.split('/').next().unwrap_or_default().to_owned();
        let mut written: Vec<String> = self.addresses.iter().map(bare).collect();
        // podman says the same by both ways.
        written.sort();
        written.dedup();
        resolve::addresses(&written, network, &FieldPath::Root.field(ADDRESSES), problems)
    }

    /// Families that there are addresses of: whether each is IPv4.
    fn ports(&self, families: &[bool]) -> Result<Vec<Port>, Refusal> {
        if self.ports.len() > PORTS_MAX {
            return Err(Refusal::config(format!("`{PORTS}`: more than {PORTS_MAX} for one container")));
        }
        let mut ports = Vec::new();
        for mapping in &self.ports {
            let port = mapping.port()?;
            let refused = |why: &str| Err(Refusal::config(format!("`{PORTS}`: {mapping}: {why}")));
            if port.address.is_some_and(|address| !families.contains(&address.is_ipv4())) {
                return refused("the container has no address of that family");
            }
            if port.address == Some(Ipv6Addr::LOCALHOST.into()) {
                return refused("IPv6 does not leave loopback: nothing can be published at ::1");
            }
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        Ok(ports)
    }
}

impl Mapping {
    fn port(&self) -> Result<Port, Refusal> {
        let refused = |why: &str| Refusal::config(format!("`{PORTS}`: {self}: {why}"));
        let number = |port: i64| u16::try_from(port).ok().filter(|port| *port != 0);
        let protocol = match self.protocol.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(refused("only TCP and UDP can be published")),
        };
        let address = match self.host_address.as_deref().filter(|address| !address.is_empty()) {
            Some(text) => Some(text.parse::<IpAddr>().map_err(|_| refused("`hostIP` is not an IP address"))?),
            None => None,
        };
        Ok(Port {
            // The unspecified address is every address.
            address: address.filter(|address| !address.is_unspecified()),
            protocol,
            host: number(self.host_port).ok_or_else(|| refused("`hostPort` is 1 to 65535"))?,
            workload: number(self.container_port).ok_or_else(|| refused("`containerPort` is 1 to 65535"))?,
        })
    }
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.host_address.as_deref().filter(|at| !at.is_empty()).unwrap_or("*");
        let protocol = self.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("tcp");
        write!(f, "{at} {} to {} ({protocol})", self.host_port, self.container_port)
    }
}

/// What the plugins before have made, as far as ports are published by it.
fn chained(request: &Request, runtime: &Runtime) -> Result<Kind, Refusal> {
    let previous = request.config.get("prevResult").cloned().unwrap_or_default();
    if !runtime.addresses.is_empty() {
        return Err(Refusal::config(format!("`{ADDRESSES}`: another plugin gives the addresses"))
            .with(format!("declare the capability `{ADDRESSES}` with that one")));
    }
    if runtime.ports.is_empty() {
        return Ok(Kind::Chained { previous, door: None });
    }
    let interfaces = previous["interfaces"].as_array().map_or(&[][..], Vec::as_slice);
    let is_inside =
        |interface: &Value| interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
    let ips = previous["ips"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let ips = ips.filter(|ip| {
        let interface = ip["interface"].as_u64().and_then(|index| interfaces.get(index as usize));
        interface.is_none_or(is_inside)
    });
    let addresses: Vec<Prefix> = ips.filter_map(|ip| ip["address"].as_str()?.parse().ok()).collect();
    if addresses.is_empty() {
        return Err(Refusal::config("`prevResult` has no address of the container to publish ports of"));
    }
    let families: Vec<bool> = addresses.iter().map(|address| address.is_ipv4()).collect();
    // A bridge, or the one end on the host: the specification has them in this order.
    let link = interfaces.iter().find(|interface| !is_inside(interface));
    let link = link.and_then(|link| link["name"].as_str()).filter(|name| resolve::is_link_name(name));
    let door = Door { link: link.map(str::to_owned), addresses, publish: runtime.ports(&families)? };
    Ok(Kind::Chained { previous, door: Some(door) })
}

#[cfg(test)]
mod tests;
