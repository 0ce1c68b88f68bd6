//! Which items there should be, in the order of making: a pure function of the settings, the addresses given and what
//! the host looks like to the outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use sha2::{Digest as _, Sha256};

use super::firewall::{Family, Publication, capture, publish, transparent};
use super::item::{Inside, Item, Mac, Place};
use super::links::{Dump, LOOPBACK, MarkRule};
use super::overlay;
use super::overlay::items::{Manner, Yields};
use super::prefix::Prefix;
use super::settings::{Door, Mode, Network, Overlay, Plug, Settings, Workload};

const MTU_IF_NOTHING_IS_BELOW: u32 = 1500;
/// Twelve hexadecimal digits: two workloads of one host share a name once in 2^48 pairs, and then the second is refused.
const NAME_BYTES: usize = 6;

/// An item that there should be, and the workload that it serves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub place: Place,
    pub owner: Option<String>,
    pub item: Item,
    /// Something of somebody else's goes before it, instead of being in its way.
    pub yields: bool,
}

/// What a plan for these settings needs to know beside them.
#[derive(Debug, Default)]
pub struct Circumstances {
    /// Of every workload in the settings, those outside a narrowed plan included.
    pub addresses: BTreeMap<String, Vec<Prefix>>,
    /// Of every workload that the plan is about.
    pub insides: BTreeMap<String, Inside>,
    pub below: Below,
    /// Of networks that go on on other hosts.
    pub overlays: BTreeMap<String, overlay::State>,
}

/// What the host has without us, its way out above all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    pub mtu: Option<u32>,
    /// Links whose IPv6 default route a router has advertised.
    pub advertised: Vec<String>,
    /// Names of all links.
    pub links: BTreeSet<String>,
}

impl Below {
    pub fn of(dump: &Dump) -> Self {
        let routes = dump.routes.iter().filter(|route| route.is_advertised);
        let mut advertised: Vec<String> = routes.map(|route| route.link.clone()).collect();
        advertised.sort();
        advertised.dedup();
        let links = dump.links.iter().map(|link| link.name.clone()).collect();
        Self { mtu: dump.mtu_to_the_outside(), advertised, links }
    }
}

/// All items of the host, and those of the workloads that have a namespace in `circumstances`.
pub fn wanted(settings: &Settings, circumstances: &Circumstances) -> Vec<Wanted> {
    let mut target = Target { items: Vec::new() };
    target.forwarding(settings, &circumstances.below);
    let publications = publications(settings, &circumstances.addresses);
    for (name, network) in &settings.networks {
        let mtu = mtu(name, network, circumstances);
        target.network(network, mtu, &publications);
        if let (Some(overlay), Some(state)) = (&network.overlay, circumstances.overlays.get(name)) {
            target.overlay(overlay, state);
        }
    }
    for (id, workload) in &settings.workloads {
        let Some(inside) = circumstances.insides.get(id) else { continue };
        let plug = workload.plug.as_ref();
        let network = plug.and_then(|plug| settings.networks.get(&plug.network));
        if let (Some(plug), Some(network)) = (plug, network) {
            let addresses = circumstances.addresses.get(id).map_or(&[][..], Vec::as_slice);
            let mtu = mtu(&plug.network, network, circumstances);
            target.plug(inside, plug, (network, mtu), addresses);
        }
    }
    let networks: Vec<&Network> = settings.networks.values().collect();
    let doors: Vec<&Door> = settings.doors().collect();
    target.doors(&doors, &circumstances.below);
    if let Some(table) = publish::table(&networks, &doors, &publications) {
        target.on_host(Item::Table(table));
    }
    for (id, workload) in &settings.workloads {
        if let (Some(inside), Some(capture)) = (circumstances.insides.get(id), &workload.capture) {
            if capture.mode == Mode::Tproxy && capture.outbound.is_some() {
                target.steering(inside);
            }
            target.inside(inside, Item::Table(capture::table(capture)));
        }
    }
    target.items
}

/// The published ports of all workloads, by family.
fn publications(settings: &Settings, addresses: &BTreeMap<String, Vec<Prefix>>) -> Vec<Publication> {
    let of_one = |(id, workload): (&String, &Workload)| {
        let elsewhere = workload.door.as_ref().map(|door| door.addresses.clone());
        let to = elsewhere.or_else(|| addresses.get(id).cloned()).unwrap_or_default();
        let by_family = workload.published().iter().flat_map(move |port| {
            let fits = move |to: &Prefix| port.address.is_none_or(|at| at.is_ipv4() == to.is_ipv4());
            to.clone().into_iter().filter(fits).map(move |to| Publication {
                address: port.address,
                protocol: port.protocol,
                port: port.host,
                to: SocketAddr::new(to.address(), port.workload),
            })
        });
        by_family.collect::<Vec<_>>()
    };
    let mut all: Vec<Publication> = settings.workloads.iter().flat_map(of_one).collect();
    all.sort();
    all
}

struct Target {
    items: Vec<Wanted>,
}

impl Target {
    fn on_host(&mut self, item: Item) {
        self.items.push(Wanted { place: Place::Host, owner: None, item, yields: false });
    }

    fn inside(&mut self, inside: &Inside, item: Item) {
        let owner = Some(inside.workload.clone());
        self.items.push(Wanted { place: Place::Inside(inside.clone()), owner, item, yields: false });
    }

    fn forwarding(&mut self, settings: &Settings, below: &Below) {
        let mut subnets = settings.networks.values().flat_map(|network| &network.subnets);
        if subnets.clone().any(|subnet| subnet.is_ipv4()) {
            self.on_host(sysctl("net/ipv4/ip_forward", "1"));
        }
        if subnets.any(|subnet| !subnet.is_ipv4()) {
            // A host that forwards takes no advertisements, unless it is told to: it would lose its own way out.
            for link in &below.advertised {
                self.on_host(sysctl(&format!("net/ipv6/conf/{link}/accept_ra"), "2"));
            }
            self.on_host(sysctl("net/ipv6/conf/all/forwarding", "1"));
        }
    }

    fn network(&mut self, network: &Network, mtu: u32, publications: &[Publication]) {
        let bridge = &network.bridge;
        self.on_host(Item::Bridge { name: bridge.clone(), mac: bridge_mac(network), mtu });
        if network.subnets.iter().any(|subnet| !subnet.is_ipv4()) {
            // A workload is no router of the host's.
            self.on_host(sysctl(&format!("net/ipv6/conf/{bridge}/accept_ra"), "0"));
        }
        for gateway in network.gateways() {
            self.on_host(Item::Address { link: bridge.clone(), address: gateway });
        }
        let here = |entry: &Publication| network.subnets.iter().any(|subnet| subnet.contains(entry.to.ip()));
        if publications.iter().any(|entry| entry.to.is_ipv4() && here(entry)) {
            self.on_host(sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1"));
        }
    }

    /// The host reaches published ports by its own loopback through the link that leads there, as long as that is.
    fn doors(&mut self, doors: &[&Door], below: &Below) {
        let is_ipv4 = |door: &Door| door.addresses.iter().any(|address| address.is_ipv4());
        let published = doors.iter().filter(|door| !door.publish.is_empty() && is_ipv4(door));
        let links: BTreeSet<&String> = published.filter_map(|door| door.link.as_ref()).collect();
        for link in links.into_iter().filter(|link| below.links.contains(*link)) {
            self.on_host(sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1"));
        }
    }

    fn overlay(&mut self, overlay: &Overlay, state: &overlay::State) {
        let manner =
            Manner { direct_routing: overlay.direct_routing, checksum_offload: overlay.checksum_offload };
        let items = state.items(manner).into_iter().map(|(item, yields)| Wanted {
            place: Place::Host,
            owner: None,
            item,
            yields: yields == Yields::Yes,
        });
        self.items.extend(items);
    }

    /// What brings marked packets back in. Without loopback up, there is no such way.
    fn steering(&mut self, at: &Inside) {
        let up = Item::Up { link: LOOPBACK.into() };
        let place = Place::Inside(at.clone());
        if !self.items.iter().any(|wanted| wanted.place == place && wanted.item == up) {
            self.inside(at, up);
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            self.inside(at, Item::WayIn { family, table: transparent::ROUTES });
            let rule = MarkRule { family, mark: transparent::MARK, table: transparent::ROUTES };
            self.inside(at, Item::MarkRule(rule));
        }
    }

    fn plug(&mut self, at: &Inside, plug: &Plug, (network, mtu): (&Network, u32), addresses: &[Prefix]) {
        let interface = &plug.interface;
        let cable = Item::Cable {
            name: cable_name(&at.workload, interface),
            bridge: network.bridge.clone(),
            peer: interface.clone(),
            at: at.clone(),
            mac: addresses.first().map_or(Mac([0; 6]), |address| mac_of(address.address())),
            mtu,
        };
        let owner = Some(at.workload.clone());
        self.items.push(Wanted { place: Place::Host, owner: owner.clone(), item: cable, yields: false });
        self.inside(at, Item::Up { link: "lo".into() });
        if addresses.iter().any(|address| !address.is_ipv4()) {
            // Another workload is no router, either.
            self.inside(at, sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0"));
        }
        for address in addresses {
            self.inside(at, Item::Address { link: interface.clone(), address: *address });
        }
        for gateway in network.gateways().filter(|gateway| plug.is_routed(gateway.address())) {
            let (to, via) = (gateway.everything(), gateway.address());
            self.inside(at, Item::Route { to, via, link: interface.clone(), onlink: false });
        }
        if network.static_neighbours {
            let mac = addresses.first().map_or(Mac([0; 6]), |address| mac_of(address.address()));
            for address in addresses {
                let (link, address) = (network.bridge.clone(), address.address());
                let item = Item::Neighbour { link, address, mac };
                self.items.push(Wanted { place: Place::Host, owner: owner.clone(), item, yields: false });
            }
            for gateway in network.gateways() {
                let (link, address) = (interface.clone(), gateway.address());
                self.inside(at, Item::Neighbour { link, address, mac: bridge_mac(network) });
            }
        }
    }
}

fn sysctl(name: &str, value: &str) -> Item {
    Item::Sysctl { name: name.into(), value: value.into() }
}

fn mtu(name: &str, network: &Network, circumstances: &Circumstances) -> u32 {
    let tunnel = circumstances.overlays.get(name).filter(|_| network.overlay.is_some());
    let below = tunnel.map(overlay::State::mtu).or(circumstances.below.mtu);
    network.mtu.or(below).unwrap_or(MTU_IF_NOTHING_IS_BELOW)
}

fn bridge_mac(network: &Network) -> Mac {
    network.gateways().next().map_or(Mac([0; 6]), |gateway| mac_of(gateway.address()))
}

/// Made from the address: whoever gets an address later has the same hardware address, which neighbours still know.
fn mac_of(address: IpAddr) -> Mac {
    let (kind, [a, b, c, d]) = match address {
        IpAddr::V4(address) => (0x4f, address.octets()),
        IpAddr::V6(address) => {
            let digest = Sha256::digest(address.octets());
            (0x50, [digest[0], digest[1], digest[2], digest[3]])
        }
    };
    // Locally administered.
    Mac([2, kind, a, b, c, d])
}

/// The end on the host, by workload and interface: made anew after a crash, it has the same name.
fn cable_name(workload: &str, interface: &str) -> String {
    let digest = Sha256::digest(format!("{workload}\0{interface}"));
    let digits = digest[..NAME_BYTES].iter().map(|byte| format!("{byte:02x}"));
    format!("or{}", digits.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::settings::NamespaceRef;

    fn settings() -> Settings {
        let network = Network {
            bridge: "or-web".into(),
            subnets: vec!["10.77.0.0/24".parse().unwrap(), "fd77::/64".parse().unwrap()],
            mtu: None,
            masquerade: true,
            isolated: true,
            static_neighbours: false,
            overlay: None,
            whole: vec![],
        };
        let plug = Plug { network: "web".into(), interface: "eth0".into(), ..Plug::default() };
        let workload =
            Workload { namespace: NamespaceRef::Process(7), plug: Some(plug), capture: None, door: None };
        Settings {
            networks: [("web".to_owned(), network)].into(),
            workloads: [("a".to_owned(), workload)].into(),
        }
    }

    fn circumstances() -> Circumstances {
        let addresses = vec!["10.77.0.2/24".parse().unwrap(), "fd77::2/64".parse().unwrap()];
        let inside = Inside { workload: "a".into(), namespace: 9 };
        Circumstances {
            addresses: [("a".to_owned(), addresses)].into(),
            insides: [("a".to_owned(), inside)].into(),
            below: Below { mtu: Some(1400), advertised: vec!["eth7".into()], ..Below::default() },
            overlays: BTreeMap::new(),
        }
    }

    fn shown(wanted: &[Wanted]) -> Vec<String> {
        wanted.iter().map(|wanted| format!("{}: {}", wanted.place, wanted.item)).collect()
    }

    #[test]
    fn a_network_with_a_workload_is_made_from_the_ground_up() {
        let shown = shown(&wanted(&settings(), &circumstances()));
        let cable = cable_name("a", "eth0");
        assert_eq!(
            shown,
            [
                "host: sysctl net/ipv4/ip_forward = 1".to_owned(),
                "host: sysctl net/ipv6/conf/eth7/accept_ra = 2".into(),
                "host: sysctl net/ipv6/conf/all/forwarding = 1".into(),
                "host: bridge or-web, 02:4f:0a:4d:00:01, MTU 1400".into(),
                "host: sysctl net/ipv6/conf/or-web/accept_ra = 0".into(),
                "host: address 10.77.0.1/24 on or-web".into(),
                "host: address fd77::1/64 on or-web".into(),
                format!("host: cable {cable} at or-web to eth0 in a, 02:4f:0a:4d:00:02, MTU 1400"),
                "a: link lo up".into(),
                "a: sysctl net/ipv6/conf/eth0/accept_ra = 0".into(),
                "a: address 10.77.0.2/24 on eth0".into(),
                "a: address fd77::2/64 on eth0".into(),
                "a: route to 0.0.0.0/0 by 10.77.0.1 on eth0".into(),
                "a: route to ::/0 by fd77::1 on eth0".into(),
                "host: table outrigger, 2 rules".into(),
            ]
        );
        assert_eq!(cable.len(), 14);
    }

    #[test]
    fn a_plan_for_nobody_leaves_workloads_out() {
        let nobody = Circumstances { insides: BTreeMap::new(), ..circumstances() };
        assert!(wanted(&settings(), &nobody).iter().all(|wanted| wanted.place == Place::Host));
        assert!(wanted(&Settings::default(), &circumstances()).is_empty());
    }
}
