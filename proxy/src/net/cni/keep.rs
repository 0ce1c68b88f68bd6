//! What follows ADD: DEL, CHECK and GC for what was attached, STATUS for what would be.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::config::{self, Config, Joined, Kind};
use super::reply::Refusal;
use super::request::Request;
use super::{load, locked};
use crate::net::ipam::{self, Wish};
use crate::net::namespace::Namespace;
use crate::net::settings::{NamespaceRef, Network, Settings, is_attached};
use crate::net::store::{Record, Store};
use crate::net::{self, Ask, NetError};

/// Where the specification says which attachments are still valid, and where an early form of it did.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
/// Capabilities of this process, a word of hexadecimal digits.
const OWN_STATUS: &str = "/proc/self/status";
const CAPABILITIES: &str = "CapEff:";
const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

/// What is not there any more is deleted.
pub(super) async fn delete(request: &Request) -> Result<(), Refusal> {
    let store = locked(&config::state(&request.config)).await?;
    let record = load(&store)?;
    if record.settings.workloads.contains_key(&request.id()) {
        net::apply_to(&store, &record, &Ask::Without(request.id())).await?;
    }
    Ok(())
}

/// Whether the kernel still has what ADD made, and the runtime remembers it right.
pub(super) async fn check(request: &Request) -> Result<(), Refusal> {
    let config = config::resolve(request)?;
    let previous = request.config.get("prevResult").filter(|previous| previous.is_object());
    let previous = previous.ok_or_else(|| Refusal::config("`prevResult` is missing"))?;
    let store = locked(&config.state).await?;
    let mut record = load(&store)?;
    let id = request.id();
    let Some(workload) = record.settings.workloads.get_mut(&id) else {
        return match &config.kind {
            // Nothing was to be done for it.
            Kind::Chained { door: None, .. } if config.capture.is_none() => Ok(()),
            _ => Err(Refusal::container(format!("nothing is known of an attachment `{id}`"))),
        };
    };
    let path = request.namespace.clone().unwrap_or_default();
    workload.namespace = NamespaceRef::Path(path.clone());
    let failed = |source| NetError::Namespace { workload: id.clone(), path: path.clone(), source };
    let number = Namespace::open(&path).map_err(failed)?.number();
    if record.insides.get(&id).is_none_or(|known| known.namespace != number) {
        return Err(Refusal::differs("CNI_NETNS is another namespace than the one that was attached"));
    }
    remembered(previous, &record, &id)?;
    let changes = net::plan_for(&store, Ask::One(record.settings, id), false).await?.changes;
    if changes.is_empty() {
        return Ok(());
    }
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    Err(Refusal::differs("the kernel differs from what was made").with(changes.join("\n")))
}

/// Addresses that it has of us are in the runtime's result.
fn remembered(previous: &Value, record: &Record, id: &str) -> Result<(), Refusal> {
    let ips = previous["ips"].as_array().map_or(&[][..], Vec::as_slice);
    let has = |address: &String| ips.iter().any(|ip| ip["address"].as_str() == Some(address));
    let own = record.prefixes().remove(id).unwrap_or_default();
    match own.iter().map(ToString::to_string).find(|address| !has(address)) {
        Some(address) => Err(Refusal::differs(format!("`prevResult` does not have the address {address}"))),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

/// Removes what is attached to the network and not valid any more. One that cannot be removed does not hold up others.
pub(super) async fn collect(request: &Request) -> Result<(), Refusal> {
    let list =
        VALID.iter().find_map(|name| Some((name, request.config.get(*name).filter(|v| !v.is_null())?)));
    let Some((name, list)) = list else {
        let message = format!("`{}` is missing: nothing says what is to stay", VALID[0]);
        return Err(Refusal::config(message));
    };
    let valid =
        Vec::<Valid>::deserialize(list).map_err(|error| Refusal::config(format!("`{name}`: {error}")))?;
    let ids = request.ids();
    let valid: BTreeSet<String> =
        valid.iter().map(|Valid { container, interface }| format!("{ids}{container}/{interface}")).collect();
    let store = locked(&config::state(&request.config)).await?;
    let record = load(&store)?;
    let known = record.settings.workloads.keys().filter(|id| is_attached(id) && id.starts_with(&ids));
    let mut failed = Vec::new();
    for stale in known.filter(|id| !valid.contains(*id)) {
        if let Err(error) = net::apply(&store, Ask::Without(stale.clone()), false, Duration::ZERO).await {
            failed.push(format!("{stale}: {error}"));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Refusal::kernel("some attachments could not be removed").with(failed.join("\n"))),
    }
}

/// Attachments of which nothing is left are forgotten. Whether there were any.
pub(super) async fn forget_gone(store: &Store) -> Result<bool, Refusal> {
    let gone: Vec<String> = net::gone(store).await?.into_iter().filter(|id| is_attached(id)).collect();
    for id in &gone {
        net::apply(store, Ask::Without(id.clone()), false, Duration::ZERO).await?;
    }
    Ok(!gone.is_empty())
}

/// Whether ADD could work.
pub(super) async fn status(request: &Request) -> Result<(), Refusal> {
    // What is wrong with the configuration has a code of its own.
    let told = |refusal: Refusal| if refusal.may_pass() { refusal.not_available() } else { refusal };
    let config = config::resolve(request).map_err(told)?;
    available(request, &config).await.map_err(Refusal::not_available)
}

async fn available(request: &Request, config: &Config) -> Result<(), Refusal> {
    privileges()?;
    let store = Store::to_read(&config.state);
    let record = load(&store)?;
    let mut settings = Settings::default();
    if let Kind::Alone { network, .. } = &config.kind {
        has_addresses(request, network, &record)?;
        if network.is_own {
            settings.networks.insert(network.key.clone(), Network::clone(&network.network));
        }
    }
    net::plan_for(&store, Ask::Networks(settings), false).await?;
    Ok(())
}

fn privileges() -> Result<(), Refusal> {
    let status = std::fs::read_to_string(OWN_STATUS).unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix(CAPABILITIES));
    let own = own.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
    match NEEDED.iter().find(|(_, bit)| own & (1 << bit) == 0) {
        Some((name, _)) => Err(Refusal::kernel(format!("{name} is missing")).with("run the runtime as root")),
        None => Ok(()),
    }
}

/// One more container would find its addresses.
fn has_addresses(request: &Request, joined: &Joined, record: &Record) -> Result<(), Refusal> {
    let Joined { key, network, .. } = joined;
    let wish = Wish { network: key, workload: &request.id(), subnets: &network.subnets, fixed: &[] };
    let (mut leases, mut last) = (record.leases.clone(), record.last.clone());
    ipam::allocate(&wish, &mut leases, &mut last).map_err(NetError::from)?;
    Ok(())
}
