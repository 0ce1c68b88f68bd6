//! The firewall tables we install, as plain values that print as nftables' own language.
//!
//! `capture` and `publish` build tables purely; `encode` turns one into what the kernel takes, `kernel` sends it in one
//! transaction and reads back what is there. No program is called: `nft` is only the tests' witness.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::prefix::Prefix;

pub mod capture;
mod encode;
mod expression;
pub mod flows;
pub mod kernel;
mod message;
pub mod notice;
pub mod publish;
pub mod transparent;

/// Every table of ours has this name, one in each namespace; the family is `inet`, so one serves IPv4 and IPv6.
pub const TABLE: &str = "outrigger";
/// The name of the table that holds flows while that one is away.
const ANCHOR: &str = "outrigger-anchor";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
    /// UDP ports whose tracked flows are forgotten when the table comes or goes: flows keep what was decided when they
    /// began, so without this a resolver's socket would go on past the rules, or to where nobody is.
    pub forget: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    Links { name: String, links: Vec<String> },
    Published { name: String, family: Family, by_address: bool, entries: Vec<Publication> },
}

/// A port of the host, and the workload's that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publication {
    /// `None` is every address of the host.
    pub address: Option<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
    pub to: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub name: String,
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainKind {
    Filter,
    Nat,
    /// A mark that is set here chooses the way anew.
    Route,
}

/// The numbers are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Shown by `nft list`, too.
    pub comment: String,
    pub matches: Vec<Match>,
    pub act: Act,
}

/// All of a rule's have to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    Protocol(Protocol),
    Source(Prefix),
    Destination(Prefix),
    /// First and last.
    DestinationPort(u16, u16),
    InLink(String),
    OutLink(String),
    NotOutLink(String),
    /// Of the set with this name.
    InLinks(String),
    OutLinks(String),
    NotOutLinks(String),
    User(u32),
    Group(u32),
    Mark(u32),
    /// The connection was sent elsewhere than its client meant.
    Translated,
    /// A TCP segment that asks for a new connection.
    Opening,
    /// To an address of this host.
    ToThisHost,
    /// In the direction of the flow's first packet, of a flow with this mark.
    ForthOfFlow(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Accept,
    Drop,
    Return,
    /// Flows end here untouched, and are counted.
    CountAndReturn,
    /// To a port of this host.
    Redirect(u16),
    /// To the transparent socket that has the connection, or listens at this port: untranslated. Without one, this is
    /// no match.
    Take(u16),
    /// The client sees a reset.
    Reset,
    /// Marks the whole flow, or the packet.
    MarkFlow(u32),
    MarkPacket(u32),
    Masquerade,
    /// To where the set sends this protocol and port; no entry is no match.
    Publish {
        family: Family,
        by_address: bool,
        set: String,
    },
}

impl Table {
    pub fn rule_count(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }

    /// UDP ports for which something else holds after a change from the one to the other.
    pub fn stale(from: Option<&Self>, to: Option<&Self>) -> Vec<u16> {
        let ports = |table: Option<&Self>| table.map_or(Vec::new(), |table| table.forget.clone());
        let mut stale = [ports(from), ports(to)].concat();
        stale.sort_unstable();
        stale.dedup();
        stale
    }
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl Set {
    pub fn name(&self) -> &str {
        match self {
            Self::Links { name, .. } | Self::Published { name, .. } => name,
        }
    }
}

impl Rule {
    /// Tells this rule from any other; the kernel keeps it with the rule.
    pub fn digest(&self) -> [u8; 8] {
        let mut digest = [0; 8];
        // The text says everything about the rule.
        let whole = Sha256::digest(self.to_string().as_bytes());
        digest.copy_from_slice(&whole[..8]);
        digest
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            let Chain { name, kind, hook, priority, rules } = chain;
            writeln!(f, "\tchain {name} {{")?;
            writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
            for rule in rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = match self {
            Self::Links { name, links } => {
                writeln!(f, "\tset {name} {{\n\t\ttype ifname")?;
                links.iter().map(|link| format!("\"{link}\"")).collect::<Vec<_>>()
            }
            Self::Published { name, family, by_address, entries } => {
                let address = match family {
                    Family::Ipv4 => "ipv4_addr",
                    Family::Ipv6 => "ipv6_addr",
                };
                let by = if *by_address { format!("{address} . ") } else { String::new() };
                writeln!(f, "\tmap {name} {{")?;
                writeln!(f, "\t\ttype {by}inet_proto . inet_service : {address} . inet_service")?;
                entries.iter().map(Publication::to_string).collect()
            }
        };
        if !elements.is_empty() {
            writeln!(f, "\t\telements = {{ {} }}", elements.join(", "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address} . ")?;
        }
        write!(f, "{} . {} : {} . {}", self.protocol, self.port, self.to.ip(), self.to.port())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        write!(f, "{} comment \"{}\"", self.act, self.comment)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |prefix: &Prefix| if prefix.is_ipv4() { "ip" } else { "ip6" };
        match self {
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::Source(prefix) => write!(f, "{} saddr {prefix}", ip(prefix)),
            Self::Destination(prefix) => write!(f, "{} daddr {prefix}", ip(prefix)),
            Self::DestinationPort(first, last) if first == last => write!(f, "th dport {first}"),
            Self::DestinationPort(first, last) => write!(f, "th dport {first}-{last}"),
            Self::InLink(link) => write!(f, "iifname \"{link}\""),
            Self::OutLink(link) => write!(f, "oifname \"{link}\""),
            Self::NotOutLink(link) => write!(f, "oifname != \"{link}\""),
            Self::InLinks(set) => write!(f, "iifname @{set}"),
            Self::OutLinks(set) => write!(f, "oifname @{set}"),
            Self::NotOutLinks(set) => write!(f, "oifname != @{set}"),
            Self::User(user) => write!(f, "meta skuid {user}"),
            Self::Group(group) => write!(f, "meta skgid {group}"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#x}"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::Opening => f.write_str("tcp flags & (fin | syn | rst | ack) == syn"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::ForthOfFlow(mark) => write!(f, "ct direction original ct mark {mark:#x}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::CountAndReturn => f.write_str("counter return"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Take(port) => write!(f, "tproxy to :{port} accept"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::MarkFlow(mark) => write!(f, "ct mark set {mark:#x}"),
            Self::MarkPacket(mark) => write!(f, "meta mark set {mark:#x}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Publish { family, by_address, set } => {
                let ip = if *family == Family::Ipv4 { "ip" } else { "ip6" };
                if *by_address {
                    write!(f, "dnat {ip} to {ip} daddr . meta l4proto . th dport map @{set}")
                } else {
                    write!(
                        f,
                        "meta nfproto {family} fib daddr type local dnat {ip} to meta l4proto . th dport map @{set}"
                    )
                }
            }
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
