//! VXLAN devices and static neighbours, by rtnetlink: single steps of change, and what there is of them.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkInfo};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::{Links, error, gone_is_done};
use crate::net::item::Mac;

/// A device, as it is made.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel<'a> {
    pub name: &'a str,
    pub vni: u32,
    pub port: u16,
    pub local: IpAddr,
    pub below: &'a str,
    pub mac: Mac,
    pub mtu: u32,
}

/// A device, as it is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub vni: u32,
    pub port: u16,
    pub local: Option<IpAddr>,
    /// The index of the link below.
    pub below: u32,
    pub learns: bool,
}

/// Entries that do not go by themselves, with the names of their links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbours {
    pub neighbours: Vec<(String, IpAddr, Mac)>,
    pub forwards: Vec<(String, Mac, IpAddr)>,
}

impl Found {
    pub(super) fn read(info: &LinkInfo) -> Option<Self> {
        let LinkInfo::Data(InfoData::Vxlan(attributes)) = info else { return None };
        let mut found = Self::default();
        for attribute in attributes {
            match attribute {
                InfoVxlan::Id(vni) => found.vni = *vni,
                InfoVxlan::Port(port) => found.port = *port,
                InfoVxlan::Local(address) => found.local = Some((*address).into()),
                InfoVxlan::Local6(address) => found.local = Some((*address).into()),
                InfoVxlan::Link(index) => found.below = *index,
                InfoVxlan::Learning(learns) => found.learns = *learns,
                _ => (),
            }
        }
        Some(found)
    }
}

impl Links {
    /// Up, and without a place to flood to: what has no entry is dropped.
    pub async fn add_tunnel(&self, tunnel: &Tunnel<'_>) -> io::Result<()> {
        let below = self.index(tunnel.below).await?;
        let link = LinkVxlan::new(tunnel.name, tunnel.vni).dev(below).port(tunnel.port).learning(false);
        let link = match tunnel.local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local),
        };
        let link = link.address(tunnel.mac.0.to_vec()).mtu(tunnel.mtu).up();
        self.handle.link().add(link.build()).execute().await.map_err(error)?;
        self.mark(tunnel.name, "overlay").await
    }

    /// Hardware address and MTU; the rest of a device cannot be changed.
    pub async fn set_tunnel(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(name).address(mac.0.to_vec()).mtu(mtu).up();
        self.handle.link().set(link.build()).execute().await.map_err(error)?;
        self.mark(name, "overlay").await
    }

    pub async fn set_neighbour(&self, link: &str, address: IpAddr, mac: Mac) -> io::Result<()> {
        let index = self.index(link).await?;
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac.0);
        request.state(NeighbourState::Permanent).replace().execute().await.map_err(error)
    }

    pub async fn remove_neighbour(&self, link: &str, address: IpAddr) -> io::Result<()> {
        let Some(index) = self.index_if_there(link).await? else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(wrapped(address)));
        gone_is_done(self.handle.neighbours().del(message).execute().await.map_err(error))
    }

    pub async fn set_forward(&self, link: &str, mac: Mac, to: IpAddr) -> io::Result<()> {
        let index = self.index(link).await?;
        let request = self.handle.neighbours().add_bridge(index, &mac.0).destination(to);
        let request = request.state(NeighbourState::Permanent).flags(NeighbourFlags::Own);
        request.replace().execute().await.map_err(error)
    }

    pub async fn remove_forward(&self, link: &str, mac: Mac, to: IpAddr) -> io::Result<()> {
        let Some(index) = self.index_if_there(link).await? else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(wrapped(to)));
        gone_is_done(self.handle.neighbours().del(message).execute().await.map_err(error))
    }

    /// Those that do not go by themselves.
    pub async fn neighbours(&self) -> io::Result<Neighbours> {
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(error)?;
        let names = super::dump::names(&links);
        let mut found = Neighbours::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let entries: Vec<_> = request.execute().try_collect().await.map_err(error)?;
            for entry in &entries {
                if let Some(link) = names.get(&entry.header.ifindex) {
                    found.add(link, entry);
                }
            }
        }
        self.prove().await?;
        Ok(found)
    }

    async fn index_if_there(&self, link: &str) -> io::Result<Option<u32>> {
        match self.index(link).await {
            Ok(index) => Ok(Some(index)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Neighbours {
    fn add(&mut self, link: &str, entry: &NeighbourMessage) {
        if entry.header.state != NeighbourState::Permanent {
            return;
        }
        let (mut mac, mut address) = (None, None);
        for attribute in &entry.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(Mac);
                }
                NeighbourAttribute::Destination(found) => address = unwrapped(found),
                _ => (),
            }
        }
        match (mac, address) {
            (Some(mac), Some(address)) if entry.header.family == AddressFamily::Bridge => {
                self.forwards.push((link.to_owned(), mac, address));
            }
            (Some(mac), Some(address)) => self.neighbours.push((link.to_owned(), address, mac)),
            _ => (),
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// In an entry of a bridge's, the address is of either family.
fn unwrapped(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(found) => Some(IpAddr::V4(*found)),
        NeighbourAddress::Inet6(found) => Some(IpAddr::V6(*found)),
        NeighbourAddress::Other(bytes) => {
            let ipv4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            ipv4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

fn wrapped(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}
