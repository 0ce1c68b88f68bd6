//! What the kernel says now, in the words of items: read by `Kernels`, judged by `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::firewall::Table;
use super::firewall::kernel::Found;
use super::item::{Inside, Item, Mac, Place};
use super::links::tunnel::Neighbours;
use super::links::{Dump, Kind, Link, Route, Steering};
use super::prefix::Prefix;

/// Everything seen, by place. A place that is not here could not be reached: its namespace is gone.
#[derive(Debug, Default)]
pub struct Seen {
    pub places: BTreeMap<Place, View>,
}

/// One namespace.
#[derive(Debug, Default)]
pub struct View {
    pub dump: Dump,
    pub table: Option<Found>,
    /// Those that were asked for and exist.
    pub sysctls: BTreeMap<String, String>,
    /// Read only where something of the kind is ours.
    pub neighbours: Neighbours,
    /// As well.
    pub steering: Steering,
    /// Links whose checksums are left to hardware.
    pub offloads: BTreeSet<String>,
}

/// How an item stands to what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Absent,
    Same,
    /// Ours, or a setting, and different.
    Other(Item),
    /// Somebody else's.
    Foreign,
}

impl Seen {
    /// `ours` is the item as we made it, if we did.
    pub fn standing(&self, place: &Place, item: &Item, ours: Option<&Item>) -> Standing {
        let Some(view) = self.places.get(place) else { return Standing::Absent };
        match item {
            Item::Bridge { name, .. } | Item::Cable { name, .. } | Item::Vxlan { name, .. } => {
                self.link(view, name, item, ours)
            }
            Item::Forward { link, mac, to } => forward(view, link, *mac, *to),
            Item::Neighbour { link, address, mac } => neighbour(view, link, *address, *mac),
            Item::Checksums { link } if view.offloads.contains(link) => Standing::Absent,
            Item::Checksums { link } if view.dump.link(link).is_none() => Standing::Absent,
            Item::Checksums { .. } => Standing::Same,
            Item::Up { link } => match view.dump.link(link) {
                Some(found) if !found.is_up => Standing::Absent,
                Some(_) => Standing::Same,
                None => Standing::Absent,
            },
            Item::Address { link, address } => {
                let has = |(name, found): &(String, Prefix)| name == link && found == address;
                if view.dump.addresses.iter().any(has) { Standing::Same } else { Standing::Absent }
            }
            Item::Route { to, via, link, onlink } => {
                let mut others = view.dump.routes.iter().filter(|route| route.to == *to);
                let is_same =
                    |route: &&Route| (route.via, &route.link, route.onlink) == (*via, link, *onlink);
                match others.find(is_same) {
                    Some(_) => Standing::Same,
                    None => match view.dump.routes.iter().find(|route| route.to == *to) {
                        None => Standing::Absent,
                        Some(_) if ours.is_none() => Standing::Foreign,
                        Some(route) => {
                            let (via, link, onlink) = (route.via, route.link.clone(), route.onlink);
                            Standing::Other(Item::Route { to: *to, via, link, onlink })
                        }
                    },
                }
            }
            Item::MarkRule(rule) => view.steering.rule(rule, ours.is_some()),
            Item::WayIn { family, table } => view.steering.way_in(*family, *table),
            Item::Sysctl { name, value } => match view.sysctls.get(name) {
                None => Standing::Absent,
                Some(found) if found == value => Standing::Same,
                Some(found) => Standing::Other(Item::Sysctl { name: name.clone(), value: found.clone() }),
            },
            Item::Table(table) => standing_of_table(table, view.table.as_ref(), ours),
        }
    }

    fn link(&self, view: &View, name: &str, item: &Item, ours: Option<&Item>) -> Standing {
        let Some(link) = view.dump.link(name) else { return Standing::Absent };
        let found = match item {
            Item::Bridge { .. } if link.kind == Kind::Bridge => bridge(link),
            Item::Cable { at, .. } if link.kind == Kind::Veth => Some(self.cable(view, link, at)),
            Item::Vxlan { .. } if link.kind == Kind::Vxlan => vxlan(view, link),
            _ => return Standing::Foreign,
        };
        // The mark comes a moment after the link: until then, the store alone knows that it is ours.
        if !link.is_marked && ours.is_none() {
            return Standing::Foreign;
        }
        match found {
            Some(found) if found == *item && self.is_sound(link, item) => Standing::Same,
            Some(found) if is_whole(&found) => Standing::Other(found),
            // What is broken cannot be put back as it was found.
            _ => Standing::Other(ours.unwrap_or(item).clone()),
        }
    }

    /// The cable as it hangs: the other end is looked for where it should be.
    fn cable(&self, view: &View, link: &Link, at: &Inside) -> Item {
        let inside = self.places.get(&Place::Inside(at.clone()));
        let ends = inside.map_or(&[][..], |inside| inside.dump.links.as_slice()).iter();
        let mut ends = ends.filter(|end| Some(end.index) == link.peer && end.peer == Some(link.index));
        let peer = ends.next();
        let bridge = view.dump.links.iter().find(|bridge| Some(bridge.index) == link.bridge);
        Item::Cable {
            name: link.name.clone(),
            bridge: bridge.map_or(String::new(), |bridge| bridge.name.clone()),
            peer: peer.map_or(String::new(), |peer| peer.name.clone()),
            at: at.clone(),
            mac: peer.and_then(|peer| peer.mac).unwrap_or(Mac([0; 6])),
            mtu: peer.map_or(link.mtu, |peer| peer.mtu.min(link.mtu)),
        }
    }

    fn is_sound(&self, link: &Link, item: &Item) -> bool {
        let rest = match item {
            Item::Cable { at, peer, .. } => {
                let inside = self.places.get(&Place::Inside(at.clone()));
                let peer = inside.and_then(|inside| inside.dump.link(peer));
                link.is_hairpin && peer.is_some_and(|peer| peer.is_up)
            }
            _ => true,
        };
        link.is_up && link.is_marked && rest
    }

    /// Names of links that are marked as ours and not among these: of a store that was lost, or of another one.
    pub fn marked_beside(&self, known: &BTreeSet<String>) -> Vec<String> {
        let host = self.places.get(&Place::Host);
        let links = host.map_or(&[][..], |host| host.dump.links.as_slice()).iter();
        let marked = links.filter(|link| link.is_marked && !known.contains(&link.name));
        marked.map(|link| link.name.clone()).collect()
    }
}

fn is_whole(found: &Item) -> bool {
    !matches!(found, Item::Cable { peer, bridge, .. } if peer.is_empty() || bridge.is_empty())
}

fn bridge(link: &Link) -> Option<Item> {
    Some(Item::Bridge { name: link.name.clone(), mac: link.mac?, mtu: link.mtu })
}

/// A device that learns is another one, whatever else it is.
fn vxlan(view: &View, link: &Link) -> Option<Item> {
    let found = link.tunnel.as_ref().filter(|found| !found.learns)?;
    let below = view.dump.links.iter().find(|below| below.index == found.below)?;
    Some(Item::Vxlan {
        name: link.name.clone(),
        vni: found.vni,
        port: found.port,
        local: found.local?,
        below: below.name.clone(),
        mac: link.mac?,
        mtu: link.mtu,
    })
}

fn forward(view: &View, link: &str, mac: Mac, to: IpAddr) -> Standing {
    let mut entries = view.neighbours.forwards.iter().filter(|(on, of, _)| on == link && *of == mac);
    match entries.next() {
        None => Standing::Absent,
        // Frames would go to both.
        Some((_, _, at)) if *at == to && entries.next().is_none() => Standing::Same,
        Some((_, _, at)) => Standing::Other(Item::Forward { link: link.to_owned(), mac, to: *at }),
    }
}

fn neighbour(view: &View, link: &str, address: IpAddr, mac: Mac) -> Standing {
    let mut entries = view.neighbours.neighbours.iter();
    match entries.find(|(on, of, _)| on == link && *of == address) {
        None => Standing::Absent,
        Some((.., at)) if *at == mac => Standing::Same,
        Some((.., at)) => Standing::Other(Item::Neighbour { link: link.to_owned(), address, mac: *at }),
    }
}

/// The name is ours alone. What the table was before is what we had put there.
fn standing_of_table(table: &Table, found: Option<&Found>, ours: Option<&Item>) -> Standing {
    match found {
        None => Standing::Absent,
        Some(found) if found.is(table) => Standing::Same,
        Some(_) => Standing::Other(ours.cloned().unwrap_or_else(|| Item::Table(table.clone()))),
    }
}
