//! How a host's network is set up: a YAML file of networks and workloads, as resolved.
//!
//! It is a file of its own, since the network is the host's and not one sidecar's. As elsewhere, what a file may say is
//! one type (`written`) and what the program may believe another; all errors are reported together, with line and
//! column. The store keeps the resolved form, so that `status` and `undo` need no file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::firewall::{Family, Protocol};
use super::ipam;
use super::overlay::Plan;
use super::overlay::source::Source;
use super::prefix::Prefix;
use crate::config::{Diagnostic, read_text, schema::schema_of, yaml};

pub(super) mod capture;
mod overlay;
pub(super) mod resolve;
pub(super) mod written;

pub(super) use overlay::checksums_hold;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// What there should be on this host. Every network that a workload names is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub networks: BTreeMap<String, Network>,
    pub workloads: BTreeMap<String, Workload>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The bridge's name on the host.
    pub bridge: String,
    /// One of each family at most, and one at least, but for an overlay's. No two networks' overlap.
    pub subnets: Vec<Prefix>,
    /// `None` is what is below: the least of the links that lead out.
    pub mtu: Option<u32>,
    pub masquerade: bool,
    /// Nothing goes from here to other networks, nor from them here.
    pub isolated: bool,
    /// The host and its workloads are told each other's hardware addresses.
    #[serde(default)]
    pub static_neighbours: bool,
    /// It goes on on other hosts; its subnets are leased and not written.
    #[serde(default)]
    pub overlay: Option<Overlay>,
    /// Of an overlay that is leased: what all hosts' subnets come from.
    #[serde(default)]
    pub whole: Vec<Prefix>,
}

/// A host's part in a network of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    pub source: Source,
    /// What founds the network if nobody has.
    pub founding: Option<Plan>,
    /// The link to the other hosts; `None` is where the default route leads.
    pub interface: Option<String>,
    /// `None` is what all hosts have agreed on.
    pub direct_routing: Option<bool>,
    pub checksum_offload: bool,
    /// For how long a subnet is ours without a word from us.
    pub lease: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub namespace: NamespaceRef,
    pub plug: Option<Plug>,
    pub capture: Option<Capture>,
    /// What is published of it, where the network that it is on is not ours.
    #[serde(default)]
    pub door: Option<Door>,
}

/// Where a workload's network namespace is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceRef {
    Process(u32),
    Path(PathBuf),
    /// A file descriptor that this program was started with.
    Descriptor(u32),
}

/// A workload's place on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    pub network: String,
    /// The interface's name inside.
    pub interface: String,
    /// Those that have to be these.
    pub addresses: Vec<IpAddr>,
    pub publish: Vec<Port>,
    /// Families whose default route leads elsewhere: this is not the workload's first network.
    #[serde(default)]
    pub unrouted: Vec<Family>,
}

/// Ports of a workload that somebody else has put on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The host's link that leads to it.
    pub link: Option<String>,
    /// The workload's addresses, in their subnets.
    pub addresses: Vec<Prefix>,
    pub publish: Vec<Port>,
}

/// A port of the host that stands for one of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// `None` is every address of the host.
    pub address: Option<IpAddr>,
    pub protocol: Protocol,
    pub host: u16,
    pub workload: u16,
}

/// Whose traffic is led into the sidecar, and whose is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    #[serde(default)]
    pub mode: Mode,
    /// Where the sidecar listens; `None` leaves that traffic alone.
    pub outbound: Option<u16>,
    pub inbound: Option<u16>,
    pub dns: Option<u16>,
    pub except_outbound: Except,
    pub except_inbound: Except,
}

/// How TCP is led.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Redirect,
    Tproxy,
}

/// What is let through untouched. The sidecar's own traffic is among it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Except {
    /// First and last of each range; TCP.
    pub ports: Vec<(u16, u16)>,
    pub ranges: Vec<Prefix>,
    pub users: Vec<u32>,
    pub groups: Vec<u32>,
    pub marks: Vec<u32>,
    pub interfaces: Vec<String>,
}

impl Settings {
    /// What is in either; `other` goes before.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.networks.extend(other.networks.clone());
        self.workloads.extend(other.workloads.clone());
        self
    }

    /// What runtimes have brought: a sign that no file can write tells it.
    #[must_use]
    pub fn attached(&self) -> Self {
        let workloads = self.workloads.iter().filter(|(id, _)| is_attached(id));
        let workloads = workloads.map(|(id, workload)| (id.clone(), workload.clone())).collect();
        let mut attached = Self { networks: BTreeMap::new(), workloads };
        let in_use = attached.networks_in_use().filter_map(|name| self.networks.get_key_value(name));
        attached.networks = in_use.map(|(name, network)| (name.clone(), network.clone())).collect();
        attached
    }

    /// Networks that have workloads, some of them several times.
    pub fn networks_in_use(&self) -> impl Iterator<Item = &str> {
        self.workloads.values().filter_map(|workload| Some(workload.plug.as_ref()?.network.as_str()))
    }

    /// A port that two workloads want, and those two. Files are checked by themselves; this is about several sources.
    pub fn port_of_two(&self) -> Option<(Port, &str, &str)> {
        let mut holders: BTreeMap<(Protocol, u16, Option<IpAddr>), &str> = BTreeMap::new();
        let mut all = self
            .workloads
            .iter()
            .flat_map(|(id, workload)| workload.published().iter().map(move |port| (id, port)));
        all.find_map(|(id, port)| {
            let holder = holders.insert((port.protocol, port.host, port.address), id)?;
            Some((*port, holder, id.as_str()))
        })
    }

    pub fn doors(&self) -> impl Iterator<Item = &Door> {
        self.workloads.values().filter_map(|workload| workload.door.as_ref())
    }

    pub fn is_plugged(&self, workload: &str, network: &str) -> bool {
        let plug = self.workloads.get(workload).and_then(|workload| workload.plug.as_ref());
        plug.is_some_and(|plug| plug.network == network)
    }
}

impl Network {
    /// The bridge's addresses.
    pub fn gateways(&self) -> impl Iterator<Item = Prefix> {
        self.subnets.iter().map(|subnet| subnet.with(ipam::gateway(*subnet)))
    }

    /// The two cannot be on one host.
    pub fn collides(&self, other: &Self) -> bool {
        let overlaps = |subnet: &Prefix| other.subnets.iter().any(|other| other.overlaps(*subnet));
        self.bridge == other.bridge || self.subnets.iter().any(overlaps)
    }
}

impl Plug {
    /// Whether its default route of this gateway's family goes by way of it.
    pub fn is_routed(&self, gateway: IpAddr) -> bool {
        !self.unrouted.contains(&Family::of(gateway))
    }
}

impl Workload {
    pub fn published(&self) -> &[Port] {
        let plugged = self.plug.as_ref().map(|plug| plug.publish.as_slice());
        plugged.or(self.door.as_ref().map(|door| door.publish.as_slice())).unwrap_or_default()
    }

    /// These ports are not published any more.
    pub fn unpublish(&mut self, ports: &[Port]) {
        let plugged = self.plug.as_mut().map(|plug| &mut plug.publish);
        let published = plugged.into_iter().chain(self.door.as_mut().map(|door| &mut door.publish));
        published.for_each(|published| published.retain(|port| !ports.contains(port)));
    }
}

impl NamespaceRef {
    /// A path that leads there for as long as the process or descriptor lives.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Process(process) => format!("/proc/{process}/ns/net").into(),
            Self::Path(path) => path.clone(),
            Self::Descriptor(number) => format!("/proc/self/fd/{number}").into(),
        }
    }
}

/// A workload or a network that a runtime has brought (`net::cni`), by its name.
pub fn is_attached(name: &str) -> bool {
    name.contains('/')
}

/// Reads the file. Relative paths in it start at its directory.
pub fn load(path: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let text = read_text(path, FILE_BYTES_MAX).map_err(|error| vec![error])?;
    parse(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new("")))
}

fn parse(text: &str, file_name: &str, base: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let (written, mut problems) = yaml::read::<written::File>(text, file_name)?;
    let settings = resolve::resolve(written, base, &mut problems);
    problems.finish()?;
    Ok(settings)
}

/// The JSON Schema of the file.
pub fn schema() -> Value {
    schema_of::<written::File>()
}

#[cfg(test)]
mod tests;
