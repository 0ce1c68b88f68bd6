//! What can be tried: links, addresses and tables, in a network namespace that nobody else sees.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Finding;
use crate::net::firewall::kernel::Netfilter;
use crate::net::firewall::transparent::{MARK, ROUTES};
use crate::net::firewall::{Family, Protocol, Publication, capture, publish};
use crate::net::item::Mac;
use crate::net::links::tunnel::Tunnel;
use crate::net::links::{Cable, LOOPBACK, Links, MarkRule};
use crate::net::namespace::Namespace;
use crate::net::prefix::Prefix;
use crate::net::settings::{Capture, Except, Mode, Network, Settings};

const BRIDGE: &str = "or-trial";
const MTU: u32 = 1500;
/// Linux's own.
const VXLAN_PORT: u16 = 8472;
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// One step, and what to do where it fails.
struct Step {
    about: &'static str,
    says: &'static str,
    cure: &'static str,
}

const NAMESPACE: Step = Step {
    about: "namespaces",
    says: "a network namespace can be made and entered",
    cure: "needs CAP_SYS_ADMIN, a kernel with CONFIG_NET_NS, and no seccomp filter that forbids `unshare`",
};
const BRIDGES: Step = Step {
    about: "bridges",
    says: "a bridge can be made",
    cure: "needs CAP_NET_ADMIN and the module `bridge` (modprobe bridge)",
};
const CABLES: Step = Step {
    about: "veth",
    says: "a pair of virtual Ethernet devices can be made",
    cure: "needs CAP_NET_ADMIN and the module `veth` (modprobe veth)",
};
const ADDRESSES: Step = Step {
    about: "addresses",
    says: "IPv4 and IPv6 addresses can be given",
    cure: "needs CAP_NET_ADMIN; without IPv6 in the kernel (ipv6.disable=1), leave IPv6 subnets out",
};
const PUBLISH: Step = Step {
    about: "NAT",
    says: "ports can be published and sources translated, IPv4 and IPv6",
    cure: "needs nf_tables with NAT: modprobe nf_tables nft_chain_nat nft_masq nft_fib_inet",
};
const CAPTURE: Step = Step {
    about: "capture",
    says: "traffic can be led into a sidecar",
    cure: "needs nf_tables with redirection: modprobe nf_tables nft_chain_nat nft_redir",
};
const TPROXY: Step = Step {
    about: "tproxy",
    says: "traffic can be led into a sidecar untranslated (`mode: tproxy`), IPv4 and IPv6",
    cure: "leave `capture.mode` at `redirect`, or see to nf_tables with TPROXY and routes by marks \
           (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES): modprobe nft_tproxy nft_reject_inet nft_fib_inet",
};
const VXLAN: Step = Step {
    about: "VXLAN",
    says: "networks can go on on other hosts (`overlay`)",
    cure: "leave `overlay` out, or see to the module `vxlan` (modprobe vxlan)",
};
const FLOWS: Step = Step {
    about: "flows",
    says: "tracked flows can be forgotten",
    cure: "needs connection tracking by netlink: modprobe nf_conntrack nf_conntrack_netlink",
};

impl Step {
    fn found(&self, result: io::Result<()>) -> Finding {
        self.found_if(true, result)
    }

    /// What nobody asks for may fail.
    fn found_if(&self, is_asked_for: bool, result: io::Result<()>) -> Finding {
        match result {
            Ok(()) => Finding::good(self.about, self.says),
            Err(error) if is_asked_for => Finding::bad(self.about, error.to_string(), self.cure),
            Err(error) => Finding::warning(self.about, error.to_string(), self.cure),
        }
    }
}

/// What not everybody needs, and the file asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    tproxy: bool,
    vxlan: bool,
}

impl Asked {
    fn by(settings: &Settings) -> Self {
        let mut captures = settings.workloads.values().filter_map(|workload| workload.capture.as_ref());
        Self {
            tproxy: captures.any(|capture| capture.mode == Mode::Tproxy),
            vxlan: settings.networks.values().any(|network| network.overlay.is_some()),
        }
    }
}

/// Everything that `apply` needs of the kernel, on a thread of its own.
pub(super) fn run(settings: Option<&Settings>) -> Vec<Finding> {
    let asked = settings.map(Asked::by).unwrap_or_default();
    let thread = std::thread::Builder::new().name("trial".into()).spawn(move || alone(asked));
    let joined = thread.and_then(|thread| {
        thread.join().map_err(|_| io::Error::other("the thread of the trial has failed: please report this"))
    });
    joined.unwrap_or_else(|error| vec![NAMESPACE.found(Err(error))])
}

fn alone(asked: Asked) -> Vec<Finding> {
    #[expect(deprecated, reason = "it is unsafe with CLONE_FILES alone, which we do not pass")]
    let apart = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).map_err(io::Error::from);
    let failed = apart.is_err();
    let mut found = vec![NAMESPACE.found(apart)];
    if failed {
        return found;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(steps(asked, &mut found))) {
        Ok(()) => {}
        Err(error) => found.push(NAMESPACE.found(Err(error))),
    }
    found
}

async fn steps(asked: Asked, found: &mut Vec<Finding>) -> io::Result<()> {
    let (connection, links) = Links::open()?;
    tokio::spawn(connection);
    let netfilter = Netfilter::open()?;
    found.push(BRIDGES.found(links.add_bridge(BRIDGE, MAC, MTU).await));
    found.push(CABLES.found(cable(&links).await));
    found.push(ADDRESSES.found(addresses(&links).await));
    found.push(PUBLISH.found(netfilter.replace(publish_table().as_ref())));
    found.push(CAPTURE.found(netfilter.replace(Some(&capture::table(&everything(Mode::Redirect))))));
    found.push(TPROXY.found_if(asked.tproxy, tproxy(&links, &netfilter).await));
    found.push(VXLAN.found_if(asked.vxlan, vxlan(&links).await));
    found.push(FLOWS.found(netfilter.forget_flows(&[53])));
    Ok(())
}

async fn tproxy(links: &Links, netfilter: &Netfilter) -> io::Result<()> {
    links.set_up(LOOPBACK).await?;
    for family in [Family::Ipv4, Family::Ipv6] {
        links.add_way_in(family, ROUTES).await?;
        links.add_mark_rule(&MarkRule { family, mark: MARK, table: ROUTES }).await?;
    }
    netfilter.replace(Some(&capture::table(&everything(Mode::Tproxy))))
}

async fn vxlan(links: &Links) -> io::Result<()> {
    let (vni, port, local) = (1, VXLAN_PORT, ADDRESS4.0);
    let tunnel = Tunnel { name: "or-trial2", vni, port, local, below: BRIDGE, mac: MAC, mtu: MTU };
    links.add_tunnel(&tunnel).await
}

/// Both ends in this namespace: what matters is whether the kernel has such devices.
async fn cable(links: &Links) -> io::Result<()> {
    links.set_up(LOOPBACK).await?;
    let here = Namespace::open(std::path::Path::new("/proc/thread-self/ns/net"))?;
    let cable =
        Cable { name: "or-trial0", bridge: BRIDGE, peer: "or-trial1", workload: "trial", mac: MAC, mtu: MTU };
    links.add_cable(&cable, here.descriptor()).await
}

async fn addresses(links: &Links) -> io::Result<()> {
    for (address, length) in [ADDRESS4, ADDRESS6] {
        let prefix = Prefix::new(address, length).ok_or_else(|| io::Error::other("no such prefix"))?;
        links.add_address(LOOPBACK, prefix).await?;
    }
    Ok(())
}

/// Of the ranges for documentation (RFC 5737, RFC 3849): nobody's.
const ADDRESS4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 24);
const ADDRESS6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 64);

fn publish_table() -> Option<crate::net::firewall::Table> {
    let subnets =
        [ADDRESS4, ADDRESS6].into_iter().filter_map(|(address, length)| Prefix::new(address, length));
    let network = Network {
        bridge: BRIDGE.into(),
        subnets: subnets.map(Prefix::network).collect(),
        mtu: None,
        masquerade: true,
        isolated: true,
        static_neighbours: false,
        overlay: None,
        whole: Vec::new(),
    };
    let publications = [ADDRESS4, ADDRESS6].map(|(address, _)| Publication {
        address: None,
        protocol: Protocol::Tcp,
        port: 80,
        to: (address, 80).into(),
    });
    publish::table(&[&network], &[], &publications)
}

fn everything(mode: Mode) -> Capture {
    let except = Except { users: vec![1337], ..Except::default() };
    Capture {
        mode,
        outbound: Some(15001),
        inbound: Some(15006),
        dns: Some(15053),
        except_outbound: except,
        except_inbound: Except::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::doctor::Verdict;

    #[test]
    fn what_nobody_asks_for_is_no_fault() {
        let failed = || Err(io::Error::from_raw_os_error(95));
        let verdict = |is_asked_for: bool| VXLAN.found_if(is_asked_for, failed()).verdict;
        assert_eq!((verdict(true), verdict(false)), (Verdict::Bad, Verdict::Warning));
        assert_eq!(FLOWS.found(failed()).verdict, Verdict::Bad);
    }
}
