//! What a network on many hosts makes of this one: devices, and for each peer a route and the two entries that spare
//! it every question. Pure.

use std::net::IpAddr;

use super::underlay::Underlay;
use super::{Peer, State, Vtep};
use crate::net::item::Item;
use crate::net::prefix::Prefix;

/// Around each packet: the outer addresses, UDP, VXLAN and the inner Ethernet.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;

/// What the file says about this host's part.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub direct_routing: Option<bool>,
    /// The kernel may leave checksums to hardware.
    pub checksum_offload: bool,
}

/// A VXLAN device of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub mtu: u32,
    vtep: Vtep,
}

impl State {
    /// By way of IPv4 and of IPv6, as far as there is such a way.
    fn devices(&self) -> [Option<Device>; 2] {
        let own = self.plan.attributes(&self.underlay);
        let device = |vtep: Option<Vtep>, name: &str, overhead: u32| {
            let name = format!("{name}.{}", self.plan.vni);
            vtep.map(|vtep| Device { name, mtu: self.underlay.mtu.saturating_sub(overhead), vtep })
        };
        [device(own.ipv4, "or-vx", OVERHEAD_IPV4), device(own.ipv6, "or-vx6", OVERHEAD_IPV6)]
    }

    /// The largest packet that reaches every host whole.
    pub fn mtu(&self) -> u32 {
        let devices = self.devices().into_iter().flatten().map(|device| device.mtu);
        devices.min().unwrap_or(self.underlay.mtu)
    }

    /// In the order of making. Routes to peers give way to those that others have made.
    pub fn items(&self, manner: Manner) -> Vec<(Item, Yields)> {
        let devices = self.devices();
        let mut items = Vec::new();
        for device in devices.iter().flatten() {
            let Device { name, mtu, vtep } = device;
            let vxlan = Item::Vxlan {
                name: name.clone(),
                vni: self.plan.vni,
                port: self.plan.port,
                local: vtep.address,
                below: self.underlay.link.clone(),
                mac: vtep.mac,
                mtu: *mtu,
            };
            items.push((vxlan, Yields::No));
            let no_router =
                Item::Sysctl { name: format!("net/ipv6/conf/{name}/accept_ra"), value: "0".into() };
            items.push((no_router, Yields::No));
            if !manner.checksum_offload {
                items.push((Item::Checksums { link: name.clone() }, Yields::No));
            }
        }
        for subnet in self.subnets.list() {
            if let Some(device) = self.device(&devices, subnet) {
                // The source of what the host itself sends to workloads elsewhere.
                let address = Prefix::host(subnet.first());
                items.push((Item::Address { link: device.name.clone(), address }, Yields::No));
            }
        }
        let direct = manner.direct_routing.unwrap_or(self.plan.direct_routing).then_some(&self.underlay);
        for peer in &self.peers {
            for subnet in peer.subnets.list() {
                way(peer, subnet, &devices, direct, &mut items);
            }
        }
        items
    }

    fn device<'a>(&self, devices: &'a [Option<Device>; 2], subnet: Prefix) -> Option<&'a Device> {
        let [ipv4, ipv6] = devices;
        if subnet.is_ipv4() { ipv4.as_ref().or(ipv6.as_ref()) } else { ipv6.as_ref().or(ipv4.as_ref()) }
    }
}

/// Whether something of somebody else's goes before it, instead of being in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yields {
    Yes,
    No,
}

/// A peer's subnet: by its own family if both hosts have it below, otherwise by the other.
fn way(
    peer: &Peer,
    subnet: Prefix,
    devices: &[Option<Device>; 2],
    direct: Option<&Underlay>,
    items: &mut Vec<(Item, Yields)>,
) {
    let [ipv4, ipv6] = devices;
    let by = |device: &Option<Device>, vtep: &Option<Vtep>| device.clone().zip(vtep.clone());
    let mut ways = vec![by(ipv4, &peer.ipv4), by(ipv6, &peer.ipv6)];
    if !subnet.is_ipv4() {
        ways.reverse();
    }
    // Such a next hop is of the subnet's own family.
    let next_hops = [&peer.ipv4, &peer.ipv6].into_iter().flatten().map(|vtep| vtep.address);
    let mut next_hops = next_hops.filter(|address| address.is_ipv4() == subnet.is_ipv4());
    if let Some(underlay) = direct
        && let Some(via) = next_hops.find(|address| underlay.reaches_directly(*address))
    {
        let route = Item::Route { to: subnet, via, link: underlay.link.clone(), onlink: false };
        items.push((route, Yields::Yes));
        return;
    }
    let Some((device, vtep)) = ways.into_iter().flatten().next() else { return };
    let (link, via, mac): (String, IpAddr, _) = (device.name, subnet.first(), vtep.mac);
    let forward = Item::Forward { link: link.clone(), mac, to: vtep.address };
    if !items.iter().any(|(item, _)| *item == forward) {
        items.push((forward, Yields::No));
    }
    items.push((Item::Neighbour { link: link.clone(), address: via, mac }, Yields::No));
    items.push((Item::Route { to: subnet, via, link, onlink: true }, Yields::Yes));
}

#[cfg(test)]
mod tests {
    use super::super::flannel::Range;
    use super::super::{Plan, Subnets};
    use super::*;

    fn state_of(addresses: &[&str], peers: &[&[&str]]) -> State {
        let plan = Plan {
            ipv4: Range::of("10.5.0.0/16".parse().unwrap(), None).unwrap(),
            ipv6: Some(Range::of("fd05::/48".parse().unwrap(), None).unwrap()),
            vni: 1,
            port: 8472,
            direct_routing: false,
        };
        let underlay = |addresses: &[&str]| Underlay {
            link: "eth0".into(),
            mtu: 1500,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let subnets = |number: u8| Subnets {
            ipv4: format!("10.5.{number}.0/24").parse().unwrap(),
            ipv6: Some(format!("fd05:0:0:{number}::/64").parse().unwrap()),
        };
        let peers = (2..)
            .zip(peers)
            .map(|(number, addresses)| plan.attributes(&underlay(addresses)).peer(subnets(number)));
        let peers = peers.collect();
        State { subnets: subnets(1), lease: 7, underlay: underlay(addresses), peers, plan }
    }

    fn shown(state: &State, direct_routing: bool) -> Vec<String> {
        let items = state.items(Manner { direct_routing: Some(direct_routing), checksum_offload: true });
        items.iter().map(|(item, _)| item.to_string()).filter(|text| !text.starts_with("sysctl")).collect()
    }

    #[test]
    fn each_peer_is_known_without_a_question() {
        let state = state_of(&["10.77.0.1/24"], &[&["10.77.0.2/24"]]);
        assert_eq!(state.mtu(), 1450);
        let [own, other] = [1, 2].map(|n| super::super::vtep_mac(format!("10.77.0.{n}").parse().unwrap(), 1));
        assert_eq!(
            shown(&state, false),
            [
                format!("VXLAN or-vx.1 with VNI 1 from 10.77.0.1, port 8472, over eth0, {own}, MTU 1450"),
                "address 10.5.1.0/32 on or-vx.1".into(),
                "address fd05:0:0:1::/128 on or-vx.1".into(),
                format!("{other} is at 10.77.0.2 on or-vx.1"),
                format!("neighbour 10.5.2.0 at {other} on or-vx.1"),
                "route to 10.5.2.0/24 by 10.5.2.0 on or-vx.1".into(),
                format!("neighbour fd05:0:0:2:: at {other} on or-vx.1"),
                "route to fd05:0:0:2::/64 by fd05:0:0:2:: on or-vx.1".into(),
            ]
        );
    }

    #[test]
    fn each_family_goes_its_own_way_if_both_hosts_have_it() {
        let both = ["10.77.0.1/24", "fd99::1/64"];
        let state = state_of(&both, &[&["10.77.0.2/24", "fd99::2/64"], &["10.77.0.3/24"]]);
        assert_eq!(state.mtu(), 1430, "the narrower of the two");
        let routes: Vec<String> =
            shown(&state, false).into_iter().filter(|t| t.starts_with("route")).collect();
        assert_eq!(
            routes,
            [
                "route to 10.5.2.0/24 by 10.5.2.0 on or-vx.1",
                "route to fd05:0:0:2::/64 by fd05:0:0:2:: on or-vx6.1",
                "route to 10.5.3.0/24 by 10.5.3.0 on or-vx.1",
                "route to fd05:0:0:3::/64 by fd05:0:0:3:: on or-vx.1",
            ]
        );
        let only_ipv6 = state_of(&["fd99::1/64"], &[&["fd99::2/64"]]);
        let routes = shown(&only_ipv6, false).into_iter().filter(|text| text.starts_with("route"));
        assert!(routes.clone().count() == 2 && routes.clone().all(|route| route.ends_with("or-vx6.1")));
    }

    #[test]
    fn hosts_on_one_link_need_no_tunnel() {
        let state = state_of(&["10.77.0.1/24"], &[&["10.77.0.2/24"], &["10.78.0.3/24"]]);
        let routes: Vec<String> =
            shown(&state, true).into_iter().filter(|t| t.starts_with("route")).collect();
        assert_eq!(
            routes,
            [
                "route to 10.5.2.0/24 by 10.77.0.2 on eth0",
                "route to fd05:0:0:2::/64 by fd05:0:0:2:: on or-vx.1",
                "route to 10.5.3.0/24 by 10.5.3.0 on or-vx.1",
                "route to fd05:0:0:3::/64 by fd05:0:0:3:: on or-vx.1",
            ]
        );
    }
}
