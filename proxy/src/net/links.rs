//! Links, addresses and routes of one namespace, by rtnetlink: what is there, and single steps of change.
//!
//! A removal of what has gone already is done; everything else that the kernel refuses is an error.

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkExtentMask};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkGetRequest, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::item::Mac;
use super::prefix::Prefix;

mod dump;
pub mod notice;
pub mod offload;
mod part;
mod steering;
pub mod tunnel;

pub use dump::{Dump, Kind, Link, Route};
pub use part::part_with;
pub use steering::{MarkRule, Steering};

/// What a link's alias begins with if it is ours; shown by `ip link`.
const MARK: &str = "outrigger";
/// Every namespace has it.
pub const LOOPBACK: &str = "lo";
/// Of routes, so that they can be told from others' (`ip route` shows the number).
const ROUTE_PROTOCOL: u8 = 79;

type Connection = rtnetlink::proto::Connection<rtnetlink::packet_route::RouteNetlinkMessage>;

/// A socket of rtnetlink's, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Has to be called within a runtime, which then has to drive the connection.
    pub fn open() -> io::Result<(Connection, Self)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok((connection, Self { handle }))
    }

    pub async fn dump(&self) -> io::Result<Dump> {
        let links: Vec<_> = self.links().execute().try_collect().await.map_err(error)?;
        let addresses: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(error)?;
        let routes = self.routes().await?;
        self.prove().await?;
        Ok(Dump::of(&links, &addresses, &routes))
    }

    /// Of all tables and both families.
    async fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let of_family = self.handle.route().get(request).execute();
            routes.extend(of_family.try_collect::<Vec<_>>().await.map_err(error)?);
        }
        Ok(routes)
    }

    /// Where its socket fails, the library ends in silence, as if there were nothing or all were done. So an answer is
    /// asked for that there has to be: it proves that everything before it has reached the kernel.
    pub async fn prove(&self) -> io::Result<()> {
        self.index(LOOPBACK).await.map(|_| ())
    }

    /// Without counters, which are most of what the kernel tells about a link.
    fn links(&self) -> LinkGetRequest {
        self.handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
    }

    pub async fn index(&self, name: &str) -> io::Result<u32> {
        let found = self.links().match_name(name).execute().try_next().await.map_err(error);
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no link {name}"));
        match found {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(missing()),
            Err(error) if is_gone(&error) => Err(missing()),
            Err(error) => Err(error),
        }
    }

    /// Up, with a fixed hardware address: otherwise a bridge takes that of its lowest port, which changes.
    pub async fn add_bridge(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let bridge = LinkBridge::new(name).address(mac.0.to_vec()).mtu(mtu);
        self.handle.link().add(bridge.build()).execute().await.map_err(error)?;
        self.mark(name, "network").await
    }

    pub async fn set_bridge(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let bridge = LinkUnspec::new_with_name(name).address(mac.0.to_vec()).mtu(mtu).up();
        self.handle.link().set(bridge.build()).execute().await.map_err(error)?;
        self.mark(name, "network").await
    }

    /// Both ends in one message: the peer is born in its namespace, and never seen elsewhere. It is down: the kernel
    /// takes a pair up only when it is whole.
    pub async fn add_cable(&self, cable: &Cable<'_>, namespace: RawFd) -> io::Result<()> {
        let bridge = self.index(cable.bridge).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(cable.peer)
            .address(cable.mac.0.to_vec())
            .mtu(cable.mtu)
            .setns_by_fd(namespace)
            .build();
        let message = LinkVeth::new(cable.name, cable.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(cable.mtu)
            .controller(bridge)
            .up()
            .build();
        self.handle.link().add(message).execute().await.map_err(error)?;
        self.finish_cable(cable).await
    }

    /// The end on the host, as it should be.
    pub async fn set_cable(&self, cable: &Cable<'_>) -> io::Result<()> {
        let bridge = self.index(cable.bridge).await?;
        let end = LinkUnspec::new_with_name(cable.name).mtu(cable.mtu).controller(bridge).up();
        self.handle.link().set(end.build()).execute().await.map_err(error)?;
        self.finish_cable(cable).await
    }

    async fn finish_cable(&self, cable: &Cable<'_>) -> io::Result<()> {
        let index = self.index(cable.name).await?;
        // A workload that calls its own published port is answered through the port that it asked by.
        let port = LinkBridgePort::new(index).hairpin(true);
        self.handle.link().set_port(port.build()).execute().await.map_err(error)?;
        self.mark(cable.name, cable.workload).await
    }

    async fn mark(&self, name: &str, what: &str) -> io::Result<()> {
        let marked = LinkUnspec::new_with_name(name).alias(format!("{MARK} {what}"));
        self.handle.link().set(marked.build()).execute().await.map_err(error)
    }

    pub async fn set_up(&self, name: &str) -> io::Result<()> {
        self.handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.map_err(error)
    }

    /// A workload's end of a cable, as it should be.
    pub async fn set_ethernet(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let end = LinkUnspec::new_with_name(name).address(mac.0.to_vec()).mtu(mtu).up();
        self.handle.link().set(end.build()).execute().await.map_err(error)
    }

    pub async fn set_down(&self, name: &str) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(name).down();
        self.handle.link().set(link.build()).execute().await.map_err(error)
    }

    pub async fn remove_link(&self, name: &str) -> io::Result<()> {
        let index = match self.index(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        gone_is_done(self.handle.link().del(index).execute().await.map_err(error))
    }

    /// Without duplicate address detection, which would leave an IPv6 address unusable for a second or two: the
    /// address manager gives each to one workload.
    pub async fn add_address(&self, link: &str, address: Prefix) -> io::Result<()> {
        let index = self.index(link).await?;
        let mut request = self.handle.address().add(index, address.address(), address.length()).replace();
        if !address.is_ipv4() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(error)
    }

    pub async fn remove_address(&self, link: &str, address: Prefix) -> io::Result<()> {
        let index = match self.index(link).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = address.length();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(AddressAttribute::Local(address.address()));
        message.attributes.push(AddressAttribute::Address(address.address()));
        gone_is_done(self.handle.address().del(message).execute().await.map_err(error))
    }

    /// `replace` puts it in the place of another to the same destination.
    pub async fn add_route(&self, route: &Route, replace: bool) -> io::Result<()> {
        let index = self.index(&route.link).await?;
        let request = self.handle.route().add(message(route, index)?);
        let request = if replace { request.replace() } else { request };
        request.execute().await.map_err(error)
    }

    pub async fn remove_route(&self, route: &Route) -> io::Result<()> {
        let index = match self.index(&route.link).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        gone_is_done(self.handle.route().del(message(route, index)?).execute().await.map_err(error))
    }
}

/// A pair of virtual Ethernet devices, as far as the host's end goes.
#[derive(Debug, Clone, Copy)]
pub struct Cable<'a> {
    pub name: &'a str,
    pub bridge: &'a str,
    pub peer: &'a str,
    pub workload: &'a str,
    pub mac: Mac,
    pub mtu: u32,
}

fn message(route: &Route, index: u32) -> io::Result<RouteMessage> {
    let protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    let (to, length) = (route.to.address(), route.to.length());
    let message = match (to, route.via) {
        (IpAddr::V4(to), IpAddr::V4(via)) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().protocol(protocol);
            let builder = if route.onlink { builder.onlink() } else { builder };
            builder.destination_prefix(to, length).gateway(via).output_interface(index).build()
        }
        (IpAddr::V6(to), IpAddr::V6(via)) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().protocol(protocol);
            let builder = if route.onlink { builder.onlink() } else { builder };
            builder.destination_prefix(to, length).gateway(via).output_interface(index).build()
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a route from one family into the other",
            ));
        }
    };
    Ok(message)
}

fn error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn gone_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NODEV, Errno::NOENT, Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::NXIO];
    error.raw_os_error().is_some_and(|code| gone.iter().any(|errno| errno.raw_os_error() == code))
}
