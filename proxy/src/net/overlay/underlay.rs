//! The link that carries the tunnel: the one that leads out, or the one that the file names. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::links::Dump;
use crate::net::prefix::Prefix;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    pub link: String,
    pub mtu: u32,
    /// Its addresses, with the networks around them.
    pub addresses: Vec<Prefix>,
}

impl Underlay {
    pub fn of(dump: &Dump, interface: Option<&str>) -> Result<Self, String> {
        let default = || dump.routes.iter().find(|route| route.to.length() == 0).map(|route| &route.link);
        let name = match (interface, default()) {
            (Some(name), _) => name,
            (None, Some(name)) => name,
            (None, None) => {
                return Err(
                    "no default route says which link leads to the other hosts; give `interface`".into()
                );
            }
        };
        let link = dump.link(name).ok_or_else(|| format!("there is no link {name}"))?;
        let of_link = dump.addresses.iter().filter(|(link, _)| link == name).map(|(_, address)| *address);
        let addresses: Vec<Prefix> = of_link.filter(|address| is_reachable(address.address())).collect();
        if addresses.is_empty() {
            return Err(format!("link {name} has no address that other hosts could reach"));
        }
        Ok(Self { link: name.to_owned(), mtu: link.mtu, addresses })
    }

    /// The first of its family: the one that others know.
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.first(true)
    }

    pub fn ipv6(&self) -> Option<IpAddr> {
        self.first(false)
    }

    fn first(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().find(|address| address.is_ipv4() == is_ipv4).map(|address| address.address())
    }

    /// A host with this address is on the link.
    pub fn reaches_directly(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(address))
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address() == address)
    }
}

fn is_reachable(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_link_local && !address.is_loopback() && !address.is_unspecified()
}
