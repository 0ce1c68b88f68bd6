//! ADD: a container comes, alone with its network or behind another plugin.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::config::{self, Config, Joined, Kind};
use super::reply::{self, Refusal};
use super::request::Request;
use super::{keep, load, locked};
use crate::net::firewall::Family;
use crate::net::namespace::Namespace;
use crate::net::settings::resolve::{ALL_PORTS_MAX, WORKLOADS_MAX};
use crate::net::settings::{NamespaceRef, Network, Plug, Port, Settings, Workload};
use crate::net::store::{Record, Store};
use crate::net::{self, Ask};

/// Read by a thread that is in the namespace.
const LINKS: &str = "/proc/thread-self/net/dev";
const ROUTES4: &str = "/proc/thread-self/net/route";
const ROUTES6: &str = "/proc/thread-self/net/ipv6_route";

pub(super) async fn add(request: &Request) -> Result<Value, Refusal> {
    let config = config::resolve(request)?;
    let path = request.namespace.clone().unwrap_or_default();
    let inside = Inside::look(&path).map_err(|error| {
        Refusal::container(format!("CNI_NETNS: {}: {error}", path.display())).with("has the container ended?")
    })?;
    let store = locked(&config.state).await?;
    match attach(&store, request, &config, &inside).await {
        // Of a container that was killed, no runtime may ever tell.
        Err(refusal) if refusal.may_be_stale() && keep::forget_gone(&store).await? => {
            attach(&store, request, &config, &inside).await
        }
        other => other,
    }
}

async fn attach(
    store: &Store,
    request: &Request,
    config: &Config,
    inside: &Inside,
) -> Result<Value, Refusal> {
    let id = request.id();
    let mut record = load(store)?;
    let is_new_one = match &config.kind {
        Kind::Alone { .. } if inside.links.contains(&request.interface) => {
            return Err(Refusal::taken(format!(
                "the container has an interface {} already",
                request.interface
            )));
        }
        Kind::Alone { .. } => true,
        Kind::Chained { .. } => {
            record.insides.get(&id).is_some_and(|known| known.namespace != inside.namespace)
        }
    };
    if is_new_one && record.settings.workloads.contains_key(&id) {
        // The runtime has not told us that the one before has gone.
        record = net::apply_to(store, &record, &Ask::Without(id.clone())).await?.record;
    }
    let mut workload = workload(request, config, inside);
    // podman asks for a container's ports on each of its networks: the first has them.
    let known =
        record.settings.workloads.iter().filter(|(other, _)| **other != id && inside.is_of(&record, other));
    let known: Vec<Port> = known.flat_map(|(_, other)| other.published().to_vec()).collect();
    workload.unpublish(&known);
    if workload.plug.is_none() && workload.capture.is_none() && workload.door.is_none() {
        return Ok(result(request, config, &record));
    }
    check(&record, &id, &workload, inside)?;
    let mut settings = Settings::default();
    if let Kind::Alone { network, .. } = &config.kind {
        check_network(&record, request, network)?;
        if network.is_own {
            settings.networks.insert(network.key.clone(), Network::clone(&network.network));
        }
    }
    settings.workloads.insert(id.clone(), workload);
    let done = net::apply_to(store, &record, &Ask::One(settings, id)).await?;
    Ok(result(request, config, &done.record))
}

fn result(request: &Request, config: &Config, record: &Record) -> Value {
    match &config.kind {
        Kind::Alone { .. } => reply::joined(request, record, config.dns.clone()),
        Kind::Chained { previous, .. } => reply::passed_on(request, previous, &config.dns),
    }
}

fn workload(request: &Request, config: &Config, inside: &Inside) -> Workload {
    let namespace = NamespaceRef::Path(request.namespace.clone().unwrap_or_default());
    let capture = config.capture.clone();
    match &config.kind {
        Kind::Alone { network, addresses, publish } => {
            let plug = Plug {
                network: network.key.clone(),
                interface: request.interface.clone(),
                addresses: addresses.clone(),
                publish: publish.clone(),
                unrouted: inside.routed.clone(),
            };
            Workload { namespace, plug: Some(plug), capture, door: None }
        }
        Kind::Chained { door, .. } => Workload { namespace, plug: None, capture, door: door.clone() },
    }
}

/// What the settings' own rules see to where they come from a file.
fn check(record: &Record, id: &str, workload: &Workload, inside: &Inside) -> Result<(), Refusal> {
    let others = || record.settings.workloads.iter().filter(|(other, _)| *other != id);
    if others().count() >= WORKLOADS_MAX {
        return Err(Refusal::taken(format!("there are {WORKLOADS_MAX} workloads on this host")));
    }
    let mut captured =
        others().filter(|(other, known)| known.capture.is_some() && inside.is_of(record, other));
    if let (true, Some((other, _))) = (workload.capture.is_some(), captured.next()) {
        return Err(Refusal::config(format!("the container is captured already, as `{other}`"))
            .with("give `capture` in one conflist of those that it is attached by"));
    }
    let published = others().map(|(_, other)| other.published().len()).sum::<usize>();
    if published + workload.published().len() > ALL_PORTS_MAX {
        return Err(Refusal::taken(format!("more than {ALL_PORTS_MAX} published ports on this host")));
    }
    Ok(())
}

fn check_network(record: &Record, request: &Request, network: &Joined) -> Result<(), Refusal> {
    let key = network.key.as_str();
    let in_use = record.settings.networks_in_use().any(|name| name == key);
    match record.settings.networks.get(key) {
        Some(in_force) if network.is_own && in_use && *in_force != *network.network => Err(Refusal::config(
            format!("network `{}` is otherwise in force, and has containers", request.network),
        )
        .with("a changed conflist holds once they have left")),
        // It was there a moment ago.
        None if !network.is_own => Err(Refusal::config(format!("this host has no network `{key}` any more"))),
        _ => Ok(()),
    }
}

/// What is in the container's namespace before we come.
#[derive(Debug)]
struct Inside {
    namespace: u64,
    links: BTreeSet<String>,
    /// Families that have a default route.
    routed: Vec<Family>,
}

impl Inside {
    /// The workload is in this namespace.
    fn is_of(&self, record: &Record, workload: &str) -> bool {
        record.insides.get(workload).is_some_and(|known| known.namespace == self.namespace)
    }

    fn look(path: &Path) -> io::Result<Self> {
        let namespace = Namespace::open(path)?;
        let (links, routes4, routes6) = namespace.enter(|| {
            // Without IPv6 in the kernel, there are no such routes.
            let routes6 = fs::read_to_string(ROUTES6).unwrap_or_default();
            Ok((fs::read_to_string(LINKS)?, fs::read_to_string(ROUTES4)?, routes6))
        })?;
        let links = links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        let is_routed = [(Family::Ipv4, has_default4(&routes4)), (Family::Ipv6, has_default6(&routes6))];
        let routed = is_routed.into_iter().filter(|(_, is)| *is).map(|(family, _)| family);
        Ok(Self { namespace: namespace.number(), links: links.collect(), routed: routed.collect() })
    }
}

/// Link, destination, …, and the mask as the eighth field.
fn has_default4(routes: &str) -> bool {
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    })
}

/// Destination and its length first, the link last. That by loopback is the kernel's own, and says no.
fn has_default6(routes: &str) -> bool {
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.first().is_some_and(|to| to.bytes().all(|b| b == b'0'));
        is_default && fields.get(1) == Some(&"00") && fields.last() != Some(&net::links::LOOPBACK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let near = "eth0\t004D000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let far = "eth0\t00000000\t014D000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(!has_default4(&format!("{head}{near}")) && has_default4(&format!("{head}{near}{far}")));
        let zero = "0".repeat(32);
        let own = format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n");
        let far = format!(
            "{zero} 00 {zero} 00 fd77{} 00000400 00000001 00000000 00000003     eth0\n",
            "0".repeat(28)
        );
        let near = format!(
            "fd77{} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n",
            "0".repeat(28)
        );
        assert!(!has_default6(&format!("{near}{own}")) && has_default6(&format!("{near}{far}{own}")));
    }
}
