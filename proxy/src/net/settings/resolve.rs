//! From the file as written to settings that hold together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::capture::capture;
use super::overlay::overlay;
use super::{NamespaceRef, Network, Plug, Port, Settings, Workload, written};
use crate::config::diagnostic::{FieldPath, Problems, did_you_mean};
use crate::config::resolve::check;
use crate::net::firewall::Protocol;
use crate::net::ipam;
use crate::net::overlay::Plan;
use crate::net::prefix::Prefix;

/// Bridges in one host's forwarding rules.
const NETWORKS_MAX: usize = 64;
/// A bridge of Linux has this many ports.
pub(in crate::net) const WORKLOADS_MAX: usize = 1023;
/// Of one workload, and of all: they are in one transaction with the kernel.
pub(in crate::net) const PORTS_MAX: usize = 128;
pub(in crate::net) const ALL_PORTS_MAX: usize = 1024;
/// With its zero, the kernel's `IFNAMSIZ`.
const LINK_NAME_CHARACTERS_MAX: usize = 15;
const ID_CHARACTERS_MAX: usize = 128;
/// IPv6 needs the lower; Linux has no use for more than the upper.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;

/// Published ports of all workloads so far, to find two that want the same.
type Published = BTreeSet<Port>;

pub(super) fn resolve(file: written::File, base: &Path, problems: &mut Problems) -> Settings {
    let at = &FieldPath::Root.field("networks");
    let networks = file.networks.map_or(Vec::new(), |networks| networks.0);
    check::count(networks.len(), NETWORKS_MAX, at, problems);
    let mut settings = Settings::default();
    for (name, network) in networks {
        let at = &at.field(&name);
        check::dns_label_key(&name, at, problems);
        let network = resolve_network(&name, network, base, at, problems);
        apart(&network, &settings.networks, at, problems);
        settings.networks.insert(name, network);
    }
    let at = &FieldPath::Root.field("workloads");
    let workloads = file.workloads.map_or(Vec::new(), |workloads| workloads.0);
    check::count(workloads.len(), WORKLOADS_MAX, at, problems);
    let mut published = Published::new();
    for (id, workload) in workloads {
        let at = &at.field(&id);
        if !is_id(&id) {
            let form = format!("1 to {ID_CHARACTERS_MAX} letters, digits, `-`, `_` and `.`");
            problems.report_key(at, format!("`{id}` cannot be an id: {form}"));
        }
        let plug = plug(&workload, &settings.networks, at, problems);
        for (index, port) in plug.iter().flat_map(|plug| plug.publish.iter().enumerate()) {
            claim(*port, &mut published, &at.field("publish").item(index), problems);
        }
        let capture = workload.capture.map(|written| capture(written, &at.field("capture"), problems));
        if plug.is_none() && capture.is_none() && !problems.written(&at.field("network")) {
            problems.report_with(at, "nothing is to be done for it", "give `network`, `capture` or both");
        }
        let namespace = namespace(workload.namespace, base, at, problems);
        settings.workloads.insert(id, Workload { namespace, plug, capture, door: None });
    }
    check::count(published.len(), ALL_PORTS_MAX, at, problems);
    fixed_apart(&settings, problems);
    settings
}

pub(in crate::net) fn resolve_network(
    name: &str,
    network: written::Network,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Network {
    let bridge = network.bridge.unwrap_or_else(|| format!("or-{name}"));
    let given = problems.written(&at.field("bridge"));
    if !is_link_name(&bridge) {
        let place = if given { &at.field("bridge") } else { at };
        let message = format!("`{bridge}` cannot be the name of a bridge");
        problems.report_with(
            place,
            message,
            format!(
                "give `bridge` with at most {LINK_NAME_CHARACTERS_MAX} letters, digits, `-`, `_` and `.`"
            ),
        );
    }
    if network.mtu.is_some() {
        check::range(network.mtu, *MTU.end(), MTU, &at.field("mtu"), problems);
    }
    let is_overlay = network.overlay.is_some();
    let subnets = if is_overlay {
        if network.subnets.is_some() {
            let hint = "an overlay's ranges are `overlay.ranges`";
            problems.report_with(&at.field("subnets"), "hosts lease their subnets of an overlay", hint);
        }
        Vec::new()
    } else {
        subnets(network.subnets, at, problems)
    };
    let overlay = network.overlay.map(|written| overlay(written, base, &at.field("overlay"), problems));
    Network {
        bridge,
        subnets,
        mtu: network.mtu,
        masquerade: network.masquerade.unwrap_or(true),
        isolated: network.isolated.unwrap_or(true),
        static_neighbours: network.static_neighbours.unwrap_or(is_overlay),
        overlay,
        whole: Vec::new(),
    }
}

fn subnets(written: Option<Vec<String>>, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<Prefix> {
    let at = &at.field("subnets");
    let Some(written) = written.filter(|subnets| !subnets.is_empty()) else {
        problems.report_with(at, "field `subnets` is missing", "as in `[10.77.0.0/24, 'fd77::/64']`");
        return Vec::new();
    };
    let mut subnets: Vec<Prefix> = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let at = &at.item(index);
        let Some(subnet) = prefix(text, at, problems) else { continue };
        // A gateway and one workload, beside the addresses that nobody can have.
        let (smallest, first) = if subnet.is_ipv4() { (30, "10.77.0.0/24") } else { (126, "fd77::/64") };
        if !subnet.is_network() {
            problems.report_with(
                at,
                format!("`{text}` is an address in a subnet"),
                format!("write {}", subnet.network()),
            );
        } else if subnet.length() > smallest || subnet.length() == 0 || unusable(subnet.first()) {
            problems.report_with(
                at,
                format!("no workload can have an address of {text}"),
                format!("as in {first}"),
            );
        } else if subnets.iter().any(|other| other.is_ipv4() == subnet.is_ipv4()) {
            problems.report(at, "a network has one subnet of each family at most");
        } else {
            subnets.push(subnet);
        }
    }
    subnets
}

fn unusable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_multicast() || address.is_unspecified() || link_local
}

pub(super) fn prefix(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<Prefix> {
    text.parse().map_err(|message: String| problems.report(at, message)).ok()
}

/// Two networks on one host have nothing in common.
fn apart(network: &Network, others: &BTreeMap<String, Network>, at: &FieldPath<'_>, problems: &mut Problems) {
    for (name, other) in others {
        if other.bridge == network.bridge {
            problems.report(at, format!("its bridge `{}` is that of network `{name}`", network.bridge));
        }
        for (field, subnet) in claimed(network) {
            if let Some((_, same)) = claimed(other).into_iter().find(|(_, other)| other.overlaps(subnet)) {
                let message = format!("{subnet} overlaps {same} of network `{name}`");
                problems.report(&at.field(field), message);
            }
        }
    }
}

/// What it keeps from others, and the field that says so.
fn claimed(network: &Network) -> Vec<(&'static str, Prefix)> {
    let founding = network.overlay.as_ref().and_then(|overlay| overlay.founding.as_ref());
    let ranges = founding.map_or(Vec::new(), Plan::wholes).into_iter().map(|whole| ("overlay", whole));
    network.subnets.iter().map(|subnet| ("subnets", *subnet)).chain(ranges).collect()
}

fn plug(
    workload: &written::Workload,
    networks: &BTreeMap<String, Network>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<Plug> {
    let interface = workload.interface.clone().unwrap_or_else(|| "eth0".into());
    if !is_link_name(&interface) {
        problems.report(&at.field("interface"), format!("`{interface}` cannot be the name of an interface"));
    }
    let Some(name) = &workload.network else {
        for field in ["interface", "addresses", "publish"] {
            if problems.written(&at.field(field)) {
                problems.report(&at.field(field), format!("`{field}` needs `network`"));
            }
        }
        return None;
    };
    let Some(network) = networks.get(name) else {
        let hint = did_you_mean(name, networks.keys().map(String::as_str));
        let hint = hint.unwrap_or_else(|| "give it under `networks`".into());
        problems.report_with(&at.field("network"), format!("there is no network `{name}`"), hint);
        return None;
    };
    let written = workload.addresses.as_deref().unwrap_or_default();
    let addresses = addresses(written, network, &at.field("addresses"), problems);
    let written = workload.publish.as_deref().unwrap_or_default();
    let at = &at.field("publish");
    check::count(written.len(), PORTS_MAX, at, problems);
    let ports = written.iter().enumerate().filter_map(|(index, text)| {
        let at = &at.item(index);
        let port = port(text, at, problems)?;
        let serves = |address: IpAddr| {
            // What an overlay has is known later.
            network.overlay.is_some() || network.subnets.iter().any(|s| s.is_ipv4() == address.is_ipv4())
        };
        if port.address.is_some_and(|address| !serves(address)) {
            problems.report(at, format!("network `{name}` has no subnet of that family"));
        }
        if port.address == Some(std::net::Ipv6Addr::LOCALHOST.into()) {
            problems.report(at, "IPv6 does not leave loopback: nothing can be published at ::1");
        }
        Some(port)
    });
    let publish = ports.collect();
    Some(Plug { network: name.clone(), interface, addresses, publish, unrouted: Vec::new() })
}

pub(in crate::net) fn addresses(
    written: &[String],
    network: &Network,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<IpAddr> {
    if network.overlay.is_some() && !written.is_empty() {
        problems.report(
            at,
            "a host of an overlay does not choose its subnet, so its workloads have no fixed addresses",
        );
        return Vec::new();
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for (index, text) in written.iter().enumerate() {
        let at = &at.item(index);
        let Ok(address) = text.parse::<IpAddr>() else {
            problems.report(at, format!("`{text}` is not an IP address"));
            continue;
        };
        let subnet = network.subnets.iter().find(|subnet| subnet.contains(address));
        let reserved = |subnet: &Prefix| {
            address == subnet.first()
                || address == ipam::gateway(*subnet)
                || (subnet.is_ipv4() && address == subnet.last())
        };
        match subnet {
            None => problems.report(at, format!("{address} is in none of the network's subnets")),
            Some(subnet) if reserved(subnet) => {
                problems.report(at, format!("{address} is the network's own"));
            }
            Some(subnet) if found.iter().any(|other| subnet.contains(*other)) => {
                problems.report(at, format!("a workload has one address of {subnet}"));
            }
            Some(_) => found.push(address),
        }
    }
    found
}

/// `[ADDRESS:]PORT[:PORT][/udp]`, where an IPv6 address is in brackets.
fn port(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<Port> {
    let found = parse_port(text);
    if found.is_none() {
        let hint = "as in `8080:80`, `127.0.0.1:8080:80`, `[fd00::1]:8080:80` or `5353:53/udp`";
        problems.report_with(at, format!("`{text}` is not a port to publish"), hint);
    }
    found
}

fn parse_port(text: &str) -> Option<Port> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some(_) => return None,
    };
    let (address, ports) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (address, ports) = rest.split_once("]:")?;
            (Some(IpAddr::V6(address.parse().ok()?)), ports)
        }
        None if rest.matches(':').count() == 2 => {
            let (address, ports) = rest.split_once(':')?;
            (Some(IpAddr::V4(address.parse().ok()?)), ports)
        }
        None => (None, rest),
    };
    let (host, workload) = ports.split_once(':').unwrap_or((ports, ports));
    let number = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    // The unspecified address is every address of its family; that is said by leaving it out.
    let address = address.filter(|address| !address.is_unspecified());
    Some(Port { address, protocol, host: number(host)?, workload: number(workload)? })
}

fn claim(port: Port, published: &mut Published, at: &FieldPath<'_>, problems: &mut Problems) {
    let wanted = |other: &&Port| {
        (other.protocol, other.host) == (port.protocol, port.host) && other.address == port.address
    };
    if published.iter().any(|other| wanted(&other)) {
        let message = format!("port {} ({}) is already published", port.host, port.protocol);
        problems.report(at, message);
    }
    published.insert(port);
}

fn namespace(
    written: Option<written::Namespace>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> NamespaceRef {
    let at = &at.field("namespace");
    let written = written.unwrap_or_default();
    let found = match (written.pid, written.path, written.fd) {
        (Some(pid), None, None) if pid > 0 => Some(NamespaceRef::Process(pid)),
        (None, Some(path), None) if !path.is_empty() => Some(NamespaceRef::Path(base.join(path))),
        (None, None, Some(fd)) => Some(NamespaceRef::Descriptor(fd)),
        _ => None,
    };
    found.unwrap_or_else(|| {
        problems.report(at, "a namespace is one of `{pid: …}`, `{path: …}` and `{fd: …}`");
        NamespaceRef::Descriptor(0)
    })
}

/// Two workloads cannot ask for one address.
fn fixed_apart(settings: &Settings, problems: &mut Problems) {
    let mut holders: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
    for (id, workload) in &settings.workloads {
        for (index, address) in workload.plug.iter().flat_map(|plug| plug.addresses.iter().enumerate()) {
            let network = workload.plug.as_ref().map_or("", |plug| &plug.network);
            if let Some(holder) = holders.insert((network, *address), id) {
                let at = FieldPath::Root.field("workloads");
                let at = at.field(id);
                let at = at.field("addresses");
                problems.report(&at.item(index), format!("{address} is also asked for by `{holder}`"));
            }
        }
    }
}

pub(in crate::net) fn is_link_name(name: &str) -> bool {
    (1..=LINK_NAME_CHARACTERS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && name.bytes().any(|b| b != b'.')
}

fn is_id(id: &str) -> bool {
    (1..=ID_CHARACTERS_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
