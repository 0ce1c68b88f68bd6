//! The acting half of a run: writes down, changes, and on an error takes back.

use std::collections::BTreeMap;
use std::io;

use super::super::NetError;
use super::super::ipam::Lease;
use super::super::item::{Change, Item, Place};
use super::super::kernel::Parting;
use super::super::store::{Record, Store};
use super::Prepared;

/// The record says what is about to happen before it does. On an error, everything is taken back.
pub(super) async fn carry_out(
    store: &Store,
    record: &Record,
    prepared: &Prepared,
    parting: Parting,
) -> Result<(), NetError> {
    let Prepared { kernels, plan, next, seen } = prepared;
    if plan.changes.is_empty() {
        if record != next {
            store.save(next)?;
        }
        return Ok(());
    }
    let under_way = Record {
        made: plan.while_under_way.clone(),
        leases: union(&record.leases, &next.leases),
        unfinished: true,
        // What leaves is still looked for where it is recorded.
        settings: record.settings.clone().with(&next.settings),
        insides: record.insides.clone().into_iter().chain(next.insides.clone()).collect(),
        ..next.clone()
    };
    store.save(&under_way)?;
    for (index, (change, brought_along)) in plan.changes.iter().zip(brought_along(&plan.changes)).enumerate()
    {
        let table = seen.places.get(&change.place).and_then(|view| view.table.as_ref());
        if brought_along.is_none()
            && let Err(source) = kernels.apply(change, parting, table).await
        {
            return Err(take_back(store, record, prepared, index, source).await);
        }
    }
    if let Err(source) = kernels.prove().await {
        return Err(take_back(store, record, prepared, plan.changes.len(), source).await);
    }
    store.save(next)?;
    Ok(())
}

/// For each change, the later one that brings it about: what is on a link goes with the link. In between nothing is
/// made, so that nothing finds in its way what is still there.
fn brought_along(changes: &[Change]) -> Vec<Option<usize>> {
    let mut leaving: BTreeMap<(Place, String), usize> = BTreeMap::new();
    let mut along = vec![None; changes.len()];
    for (index, change) in changes.iter().enumerate().rev() {
        let Change { place, from, to } = change;
        match (from, to) {
            (Some(item), None) => {
                if goes_with_its_link(item)
                    && let Some(link) = item.link()
                {
                    along[index] = leaving.get(&(place.clone(), link.to_owned())).copied();
                }
                if let Some(link) = item.made_link() {
                    leaving.insert((place.clone(), link), index);
                }
                if let Item::Cable { peer, at, .. } = item {
                    leaving.insert((Place::Inside(at.clone()), peer.clone()), index);
                }
            }
            // A setting that goes back is in nobody's way.
            (Some(Item::Sysctl { .. }), Some(_)) => (),
            _ => leaving.clear(),
        }
    }
    along
}

fn goes_with_its_link(item: &Item) -> bool {
    matches!(item, Item::Address { .. } | Item::Route { .. } | Item::Neighbour { .. } | Item::Forward { .. })
}

/// Backwards from the change that failed, which may have done a part of its work; all are done if there is none at
/// `failed`.
async fn take_back(
    store: &Store,
    record: &Record,
    prepared: &Prepared,
    failed: usize,
    source: io::Error,
) -> NetError {
    let changes = &prepared.plan.changes;
    let change = changes[failed.min(changes.len() - 1)].to_string();
    let mut rest = Vec::new();
    let renewed = prepared.kernels.renewed();
    let kernels = renewed.as_ref().unwrap_or(&prepared.kernels);
    let count = match changes.get(failed) {
        // A setting is written whole or not at all.
        None | Some(Change { to: Some(Item::Sysctl { .. }), .. }) => failed,
        Some(_) => failed + 1,
    };
    let along = brought_along(changes);
    let is_done = |(_, by): &(&Change, &Option<usize>)| by.is_none_or(|by| by < failed);
    for (done, _) in changes[..count].iter().zip(&along).filter(is_done).rev() {
        if let Err(error) = kernels.apply(&done.inverse(), Parting::Whole, None).await {
            rest.push(format!("{}: {error}", done.inverse()));
        }
    }
    if let Err(error) = kernels.prove().await {
        rest.push(error.to_string());
    }
    if rest.is_empty()
        && let Err(error) = store.save(record)
    {
        rest.push(error.to_string());
    }
    if rest.is_empty() {
        NetError::TakenBack { change, source }
    } else {
        NetError::Stuck { change, source, rest: rest.join("; ") }
    }
}

fn union(one: &[Lease], other: &[Lease]) -> Vec<Lease> {
    let mut all = [one, other].concat();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::item::{Inside, Mac};

    const BRIDGE: &str = "or-web";

    fn inside() -> Inside {
        Inside { workload: "a".into(), namespace: 9 }
    }

    fn change(place: Place, from: Option<Item>, to: Option<Item>) -> Change {
        Change { place, from, to }
    }

    fn cable() -> Item {
        let (name, bridge, peer) = ("or1".into(), BRIDGE.into(), "eth0".into());
        Item::Cable { name, bridge, peer, at: inside(), mac: Mac([2; 6]), mtu: 1500 }
    }

    fn address(link: &str) -> Item {
        Item::Address { link: link.into(), address: "10.77.0.2/24".parse().unwrap() }
    }

    fn sysctl(value: &str) -> Item {
        Item::Sysctl { name: "net/ipv4/ip_forward".into(), value: value.into() }
    }

    /// As a workload leaves whose bridge stays.
    #[test]
    fn what_is_on_a_link_goes_with_it() {
        let there = || Place::Inside(inside());
        let changes = [
            change(there(), Some(address("eth0")), None),
            change(there(), Some(address("eth1")), None),
            change(there(), Some(Item::Up { link: "lo".into() }), None),
            change(Place::Host, Some(address(BRIDGE)), None),
            change(Place::Host, Some(sysctl("1")), Some(sysctl("0"))),
            change(Place::Host, Some(cable()), None),
        ];
        assert_eq!(brought_along(&changes), [Some(5), None, None, None, None, None]);
    }

    #[test]
    fn before_something_is_made_everything_is_removed() {
        let there = || Place::Inside(inside());
        let changes = [
            change(there(), Some(address("eth0")), None),
            change(there(), None, Some(address("eth1"))),
            change(there(), Some(address("eth0")), None),
            change(Place::Host, Some(cable()), None),
        ];
        assert_eq!(brought_along(&changes), [None, None, Some(3), None]);
    }
}
