//! What the network consists of, piece by piece, and the changes that make and remove the pieces.
//!
//! `target` says which items there should be, `observe` which there are, `plan` compares; `apply` carries changes out.
//! Invariant: an item says everything that is needed to make it, so the inverse of a change is the change backwards.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::firewall::{Family, Table};
use super::links::{LOOPBACK, MarkRule};
use super::prefix::Prefix;

/// The network namespace that an item is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The one that the command was called in.
    Host,
    Inside(Inside),
}

/// A workload's namespace. The number is the kernel's; one that was given again belongs to another workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inside {
    pub workload: String,
    pub namespace: u64,
}

/// One thing in a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Item {
    Bridge {
        name: String,
        mac: Mac,
        mtu: u32,
    },
    /// A pair of virtual Ethernet devices: one at a bridge, its peer in a workload's namespace.
    Cable {
        name: String,
        bridge: String,
        peer: String,
        at: Inside,
        mac: Mac,
        mtu: u32,
    },
    /// A link that was there before, and is up.
    Up {
        link: String,
    },
    Address {
        link: String,
        address: Prefix,
    },
    Route {
        to: Prefix,
        via: IpAddr,
        link: String,
        /// The next hop is on the link, though no address says so.
        #[serde(default)]
        onlink: bool,
    },
    /// A device that packs frames into UDP, and knows whom to send them to only by `Forward`.
    Vxlan {
        name: String,
        vni: u32,
        port: u16,
        local: IpAddr,
        /// The link that the packets leave by.
        below: String,
        mac: Mac,
        mtu: u32,
    },
    /// Where the frames for a hardware address go.
    Forward {
        link: String,
        mac: Mac,
        to: IpAddr,
    },
    /// The hardware address of a neighbour, told instead of asked for.
    Neighbour {
        link: String,
        address: IpAddr,
        mac: Mac,
    },
    /// Checksums are calculated before packets reach this link.
    Checksums {
        link: String,
    },
    /// What is marked goes by a table of routes of its own.
    MarkRule(MarkRule),
    /// The only route of such a table: whatever is meant for elsewhere comes in by loopback.
    WayIn {
        family: Family,
        table: u32,
    },
    /// A file below `/proc/sys`.
    Sysctl {
        name: String,
        value: String,
    },
    Table(Table),
}

/// The hardware address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

/// What an item is known by: two items with the same key cannot be in one place at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Link(String),
    Up(String),
    Address(String, Prefix),
    Route(Prefix),
    Forward(String, Mac),
    Neighbour(String, IpAddr),
    Checksums(String),
    MarkRule(Family),
    WayIn(Family),
    Sysctl(String),
    Table(String),
}

impl Item {
    pub fn key(&self) -> Key {
        match self {
            Self::Bridge { name, .. } | Self::Cable { name, .. } | Self::Vxlan { name, .. } => {
                Key::Link(name.clone())
            }
            Self::Forward { link, mac, .. } => Key::Forward(link.clone(), *mac),
            Self::Neighbour { link, address, .. } => Key::Neighbour(link.clone(), *address),
            Self::Checksums { link } => Key::Checksums(link.clone()),
            Self::Up { link } => Key::Up(link.clone()),
            Self::Address { link, address } => Key::Address(link.clone(), *address),
            Self::Route { to, .. } => Key::Route(*to),
            Self::MarkRule(rule) => Key::MarkRule(rule.family),
            Self::WayIn { family, .. } => Key::WayIn(*family),
            Self::Sysctl { name, .. } => Key::Sysctl(name.clone()),
            Self::Table(table) => Key::Table(table.name.clone()),
        }
    }

    /// The link that it is, or is on.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Bridge { name, .. } | Self::Cable { name, .. } | Self::Vxlan { name, .. } => Some(name),
            Self::Up { link } | Self::Address { link, .. } | Self::Route { link, .. } => Some(link),
            Self::Forward { link, .. } | Self::Neighbour { link, .. } | Self::Checksums { link } => {
                Some(link)
            }
            Self::WayIn { .. } => Some(LOOPBACK),
            Self::MarkRule(_) | Self::Sysctl { .. } | Self::Table(_) => None,
        }
    }

    /// The link that comes and goes with it.
    pub fn made_link(&self) -> Option<String> {
        match self.key() {
            Key::Link(name) => Some(name),
            _ => None,
        }
    }

    /// A state of something that exists without us. It is ours only if we changed it, and then it is put back.
    pub fn is_setting(&self) -> bool {
        matches!(self, Self::Up { .. } | Self::Sysctl { .. })
    }
}

/// A step from one state of an item to another. Without `from` it is made, without `to` it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub place: Place,
    pub from: Option<Item>,
    pub to: Option<Item>,
}

impl Change {
    pub fn inverse(&self) -> Self {
        Self { place: self.place.clone(), from: self.to.clone(), to: self.from.clone() }
    }

    pub fn word(&self) -> &'static str {
        match (&self.from, &self.to) {
            (None, Some(_)) => "add",
            (Some(_), None) => "remove",
            (from, to) if from == to => "repair",
            _ => "change",
        }
    }
}

impl Mac {
    /// Of one host, and not of all or of none.
    pub fn is_of_a_host(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() { Err(()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Inside(inside) => f.write_str(&inside.workload),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { name, mac, mtu } => write!(f, "bridge {name}, {mac}, MTU {mtu}"),
            Self::Cable { name, bridge, peer, at, mac, mtu } => {
                write!(f, "cable {name} at {bridge} to {peer} in {}, {mac}, MTU {mtu}", at.workload)
            }
            Self::Up { link } => write!(f, "link {link} up"),
            Self::Address { link, address } => write!(f, "address {address} on {link}"),
            Self::Route { to, via, link, .. } => write!(f, "route to {to} by {via} on {link}"),
            Self::Vxlan { name, vni, port, local, below, mac, mtu } => write!(
                f,
                "VXLAN {name} with VNI {vni} from {local}, port {port}, over {below}, {mac}, MTU {mtu}"
            ),
            Self::Forward { link, mac, to } => write!(f, "{mac} is at {to} on {link}"),
            Self::Neighbour { link, address, mac } => write!(f, "neighbour {address} at {mac} on {link}"),
            Self::Checksums { link } => write!(f, "checksums before {link}"),
            Self::MarkRule(rule) => write!(f, "{rule}"),
            Self::WayIn { family, table } => write!(f, "way in for {family} by lo, table {table}"),
            Self::Sysctl { name, value } => write!(f, "sysctl {name} = {value}"),
            Self::Table(table) => write!(f, "table {}, {} rules", table.name, table.rule_count()),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, word) = (&self.place, self.word());
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "{place}: {word} {to}"),
            (Some(from), Some(to)) => write!(f, "{place}: {word} {from} to {to}"),
            (None, Some(item)) | (Some(item), None) => write!(f, "{place}: {word} {item}"),
            (None, None) => write!(f, "{place}: nothing"),
        }
    }
}
