//! What a namespace's rtnetlink answers, reduced to what plans look at.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::{MARK, tunnel};
use crate::net::item::Mac;
use crate::net::prefix::Prefix;

#[derive(Debug, Default)]
pub struct Dump {
    pub links: Vec<Link>,
    /// With the link's name.
    pub addresses: Vec<(String, Prefix)>,
    /// Of the main table, by way of a gateway.
    pub routes: Vec<Route>,
}

#[derive(Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub is_up: bool,
    /// It bears our mark.
    pub is_marked: bool,
    /// Index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    pub is_hairpin: bool,
    /// Index of the other end, in the namespace where that is.
    pub peer: Option<u32>,
    pub tunnel: Option<tunnel::Found>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bridge,
    Veth,
    Vxlan,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: Prefix,
    pub via: IpAddr,
    pub link: String,
    pub onlink: bool,
    /// A router on the link has advertised it.
    pub is_advertised: bool,
}

impl Dump {
    pub(super) fn of(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[RouteMessage]) -> Self {
        let links: Vec<Link> = links.iter().filter_map(Link::read).collect();
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let addresses = addresses.iter().filter_map(|message| address(message, &names)).collect();
        let routes = routes.iter().filter_map(|message| Route::read(message, &names)).collect();
        Self { addresses, routes, links }
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The least MTU of the links that default routes lead to.
    pub fn mtu_to_the_outside(&self) -> Option<u32> {
        let default = self.routes.iter().filter(|route| route.to.length() == 0);
        default.filter_map(|route| self.link(&route.link)).map(|link| link.mtu).min()
    }
}

impl Link {
    fn read(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Other,
            mac: None,
            mtu: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_marked: false,
            bridge: None,
            is_hairpin: false,
            peer: None,
            tunnel: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok().map(Mac),
                LinkAttribute::IfAlias(alias) => link.is_marked = alias.starts_with(MARK),
                LinkAttribute::Controller(index) => link.bridge = Some(*index),
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.read_info(info)),
                _ => (),
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    fn read_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => self.kind = Kind::Bridge,
            LinkInfo::Kind(InfoKind::Veth) => self.kind = Kind::Veth,
            LinkInfo::Kind(InfoKind::Vxlan) => self.kind = Kind::Vxlan,
            LinkInfo::Data(_) => self.tunnel = tunnel::Found::read(info),
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                self.is_hairpin = port.iter().any(|info| matches!(info, InfoBridgePort::HairpinMode(true)));
            }
            _ => (),
        }
    }
}

/// Of links by their index.
pub(super) fn names(links: &[LinkMessage]) -> BTreeMap<u32, String> {
    links.iter().filter_map(Link::read).map(|link| (link.index, link.name)).collect()
}

fn address(message: &AddressMessage, names: &BTreeMap<u32, &str>) -> Option<(String, Prefix)> {
    let name = names.get(&message.header.index)?;
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some(((*name).to_owned(), Prefix::new(address, message.header.prefix_len)?))
}

impl Route {
    pub fn new(to: Prefix, via: IpAddr, link: &str, onlink: bool) -> Self {
        Self { to, via, link: link.to_owned(), onlink, is_advertised: false }
    }

    fn read(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Option<Self> {
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            return None;
        }
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let (mut to, mut via, mut link) = (unspecified, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => to = plain(address)?,
                RouteAttribute::Gateway(address) => via = plain(address),
                RouteAttribute::Oif(index) => link = names.get(index),
                _ => (),
            }
        }
        Some(Self {
            to: Prefix::new(to, header.destination_prefix_length)?,
            via: via?,
            link: (*link?).to_owned(),
            onlink: header.flags.contains(RouteFlags::Onlink),
            is_advertised: header.protocol == RouteProtocol::Ra,
        })
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
