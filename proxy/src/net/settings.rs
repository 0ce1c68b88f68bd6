//! How a host's network is set up: a YAML file of networks and workloads, as resolved.
//!
//! It is a file of its own, since the network is the host's and not one sidecar's. As elsewhere, what a file may say is
//! one type (`written`) and what the program may believe another; all errors are reported together, with line and
//! column. The store keeps the resolved form, so that `status` and `undo` need no file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::firewall::Protocol;
use super::ipam;
use super::prefix::Prefix;
use crate::config::{Diagnostic, read_text, schema::schema_of, yaml};

mod capture;
mod resolve;
mod written;

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
    /// One of each family at most, and one at least. No two networks' overlap.
    pub subnets: Vec<Prefix>,
    /// `None` is what is below: the least of the links that lead out.
    pub mtu: Option<u32>,
    pub masquerade: bool,
    /// Nothing goes from here to other networks, nor from them here.
    pub isolated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub namespace: NamespaceRef,
    pub plug: Option<Plug>,
    pub capture: Option<Capture>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    pub network: String,
    /// The interface's name inside.
    pub interface: String,
    /// Those that have to be these.
    pub addresses: Vec<IpAddr>,
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
    /// Where the sidecar listens; `None` leaves that traffic alone.
    pub outbound: Option<u16>,
    pub inbound: Option<u16>,
    pub dns: Option<u16>,
    pub except_outbound: Except,
    pub except_inbound: Except,
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
