//! Traffic that is led here without the workload's knowledge.

use std::net::SocketAddr;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    pub mode: Mode,
    /// What the workload sends. At least one of the two takes something.
    pub outbound: Listen,
    /// What comes to the workload.
    pub inbound: Listen,
    pub unknown: Unknown,
    /// How long a client is given to speak first.
    pub detect: Duration,
    /// Of a relayed connection on which nothing moves.
    pub idle: Duration,
    /// Ports, as clients dial them, on which nothing is parsed.
    pub opaque_outbound: Ports,
    pub opaque_inbound: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// Nobody asked for these addresses, so one that the host lacks is left out.
    pub is_default: bool,
}

/// How captured connections come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Translated.
    Redirect,
    /// To sockets that stand for any address.
    Tproxy,
}

/// What becomes of a connection to an address that no service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Pass,
    Refuse,
}

/// Ranges of ports, both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(pub Vec<(u16, u16)>);

impl Ports {
    pub fn hold(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}
