//! The kernel of every place that a plan is about: looks, and carries single changes out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use super::firewall::Table;
use super::firewall::capture;
use super::firewall::kernel::{Found, Netfilter};
use super::firewall::publish::LOOPBACK_ADDRESS;
use super::item::{Change, Item, Place};
use super::links::offload::Offload;
use super::links::tunnel::{Neighbours, Tunnel};
use super::links::{Cable, LOOPBACK, Links, Route, Steering, part_with};
use super::namespace::Namespace;
use super::observe::View;

const SYSCTLS: &str = "/proc/sys";
/// Whether captured connections are left is looked at so often.
const DRAINED_LOOK: Duration = Duration::from_millis(100);

/// One namespace, with a socket of each kind that was opened in it.
#[derive(Debug)]
struct Kernel {
    namespace: Namespace,
    links: Links,
    netfilter: Netfilter,
}

/// All places that could be reached.
#[derive(Debug, Default)]
pub struct Kernels {
    places: BTreeMap<Place, Kernel>,
}

/// How long a removal of a link takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Until the kernel has forgotten all about it.
    Whole,
    /// Until it is gone from both namespaces: for a process that ends soon (see `links::part_with`). A capture goes when
    /// no connection by it is left, or after this time.
    Brief { drain: Duration },
}

impl Parting {
    /// Nothing is waited for.
    pub const AT_ONCE: Self = Self::Brief { drain: Duration::ZERO };
}

impl Kernels {
    /// Opens sockets in the namespace; it stays for as long as they do.
    pub fn add(&mut self, place: Place, namespace: Namespace) -> io::Result<()> {
        self.places.insert(place, Kernel::open(namespace)?);
        Ok(())
    }

    /// The same places by new sockets: one that has failed serves nobody any more.
    pub fn renewed(&self) -> io::Result<Self> {
        let renew = |(place, kernel): (&Place, &Kernel)| {
            Ok((place.clone(), Kernel::open(kernel.namespace.try_clone()?)?))
        };
        Ok(Self { places: self.places.iter().map(renew).collect::<io::Result<_>>()? })
    }

    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.keys()
    }

    pub fn namespace(&self, place: &Place) -> io::Result<Namespace> {
        self.at(place)?.namespace.try_clone()
    }

    /// What is there now, and the values of these settings.
    pub async fn view(&self, place: &Place) -> io::Result<View> {
        let kernel = self.at(place)?;
        let dump = kernel.links.dump().await?;
        Ok(View { dump, table: kernel.netfilter.found()?, ..View::default() })
    }

    pub async fn neighbours(&self, place: &Place) -> io::Result<Neighbours> {
        self.at(place)?.links.neighbours().await
    }

    pub async fn steering(&self, place: &Place) -> io::Result<Steering> {
        self.at(place)?.links.steering().await
    }

    /// Those of these links whose checksums are left to hardware.
    pub fn offloads(&self, place: &Place, links: &BTreeSet<String>) -> io::Result<BTreeSet<String>> {
        if links.is_empty() {
            return Ok(BTreeSet::new());
        }
        let offload = self.at(place)?.namespace.enter(Offload::open)?;
        // A link that has gone has no features.
        Ok(links.iter().filter(|link| offload.is_on(link).unwrap_or(false)).cloned().collect())
    }

    /// Those of these settings that exist.
    pub fn sysctls(&self, place: &Place, names: &BTreeSet<String>) -> io::Result<BTreeMap<String, String>> {
        let kernel = self.at(place)?;
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        kernel.namespace.enter(|| {
            let read = |name: &String| Some((name.clone(), fs::read_to_string(sysctl(name).ok()?).ok()?));
            Ok(names.iter().filter_map(read).map(|(name, text)| (name, text.trim().to_owned())).collect())
        })
    }

    /// One step. What it removes may have gone already. `seen` is the table that was there a moment ago.
    pub async fn apply(&self, change: &Change, parting: Parting, seen: Option<&Found>) -> io::Result<()> {
        let kernel = match self.at(&change.place) {
            Ok(kernel) => kernel,
            // With its namespace, everything in it has gone.
            Err(_) if change.to.is_none() => return Ok(()),
            Err(error) => return Err(error),
        };
        match (&change.from, &change.to) {
            (_, Some(Item::Table(table))) => kernel.table(seen, change.from.as_ref(), Some(table)),
            (Some(Item::Table(_)), None) => {
                if let (Parting::Brief { drain }, Place::Inside(_)) = (parting, &change.place)
                    && !drain.is_zero()
                {
                    kernel.drain(drain).await?;
                }
                kernel.table(seen, change.from.as_ref(), None)
            }
            (from, Some(to)) => self.make(kernel, from.as_ref(), to).await,
            (Some(from), None) => kernel.remove(from, parting).await,
            (None, None) => Ok(()),
        }
    }

    /// All changes before this one have reached the kernels, or it is an error.
    pub async fn prove(&self) -> io::Result<()> {
        for kernel in self.places.values() {
            kernel.links.prove().await?;
        }
        Ok(())
    }

    async fn make(&self, kernel: &Kernel, from: Option<&Item>, to: &Item) -> io::Result<()> {
        let links = &kernel.links;
        match to {
            Item::Bridge { name, mac, mtu } if from.is_some() => links.set_bridge(name, *mac, *mtu).await,
            Item::Bridge { name, mac, mtu } => links.add_bridge(name, *mac, *mtu).await,
            Item::Cable { .. } => self.cable(kernel, from, to).await,
            Item::Up { link } => links.set_up(link).await,
            Item::Address { link, address } => links.add_address(link, *address).await,
            Item::Route { to, via, link, onlink } => {
                let route = Route::new(*to, *via, link, *onlink);
                links.add_route(&route, from.is_some()).await
            }
            Item::Vxlan { .. } => kernel.vxlan(from, to).await,
            Item::Forward { link, mac, to } => {
                if let Some(Item::Forward { link, mac, to }) = from {
                    links.remove_forward(link, *mac, *to).await?;
                }
                links.set_forward(link, *mac, *to).await
            }
            Item::Neighbour { link, address, mac } => links.set_neighbour(link, *address, *mac).await,
            Item::Checksums { link } => kernel.namespace.enter(Offload::open)?.set(link, false),
            Item::MarkRule(rule) => links.add_mark_rule(rule).await,
            Item::WayIn { family, table } => links.add_way_in(*family, *table).await,
            Item::Sysctl { name, value } => kernel.set(name, value),
            // Done by the caller.
            Item::Table(_) => Ok(()),
        }
    }

    /// A cable whose both ends are where they should be is put right as it hangs; otherwise it is made anew.
    async fn cable(&self, kernel: &Kernel, from: Option<&Item>, to: &Item) -> io::Result<()> {
        let Item::Cable { name, bridge, peer, at, mac, mtu } = to else { return Ok(()) };
        let cable = Cable { name, bridge, peer, workload: &at.workload, mac: *mac, mtu: *mtu };
        let inside = self.at(&Place::Inside(at.clone()))?;
        let hangs = match from {
            Some(Item::Cable { peer: had, at: was, .. }) if had == peer && was == at => {
                inside.links.index(peer).await.is_ok() && kernel.links.index(name).await.is_ok()
            }
            _ => false,
        };
        if hangs {
            kernel.links.set_cable(&cable).await?;
        } else {
            if from.is_some() {
                kernel.links.remove_link(name).await?;
            }
            kernel.links.add_cable(&cable, inside.namespace.descriptor()).await?;
        }
        inside.links.set_ethernet(peer, *mac, *mtu).await
    }

    fn at(&self, place: &Place) -> io::Result<&Kernel> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the namespace of {place} is gone"));
        self.places.get(place).ok_or_else(missing)
    }
}

impl Kernel {
    fn open(namespace: Namespace) -> io::Result<Self> {
        let (connection, links, netfilter) = namespace.enter(|| {
            let (connection, links) = Links::open()?;
            Ok((connection, links, Netfilter::open()?))
        })?;
        tokio::spawn(connection);
        Ok(Self { namespace, links, netfilter })
    }

    async fn remove(&self, item: &Item, parting: Parting) -> io::Result<()> {
        match item {
            Item::Bridge { name, .. } | Item::Cable { name, .. } | Item::Vxlan { name, .. } => {
                self.remove_link(name, parting).await
            }
            Item::Forward { link, mac, to } => self.links.remove_forward(link, *mac, *to).await,
            Item::Neighbour { link, address, .. } => self.links.remove_neighbour(link, *address).await,
            Item::Checksums { link } => match self.links.index(link).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => self.namespace.enter(Offload::open)?.set(link, true),
            },
            Item::Up { link } => {
                // The kernel gave it when the link first came up. It goes first: once the link is down, nothing tells
                // the next run that there is something left to do.
                if link == LOOPBACK {
                    self.links.remove_address(LOOPBACK, LOOPBACK_ADDRESS).await?;
                }
                self.links.set_down(link).await
            }
            Item::Address { link, address } => self.links.remove_address(link, *address).await,
            Item::Route { to, via, link, onlink } => {
                self.links.remove_route(&Route::new(*to, *via, link, *onlink)).await
            }
            Item::MarkRule(rule) => self.links.remove_mark_rule(rule).await,
            Item::WayIn { family, table } => self.links.remove_way_in(*family, *table).await,
            // There is no value to go back to: it came with a link.
            Item::Sysctl { .. } | Item::Table(_) => Ok(()),
        }
    }

    async fn remove_link(&self, name: &str, parting: Parting) -> io::Result<()> {
        if parting != Parting::Whole
            && let Ok(index) = self.links.index(name).await
            && self.namespace.enter(|| part_with(index)).is_ok()
        {
            return Ok(());
        }
        // It is gone already, or nobody else can do it, or the news was lost: this tells.
        self.links.remove_link(name).await
    }

    /// What a device is made for cannot be changed: then it is another one.
    async fn vxlan(&self, from: Option<&Item>, to: &Item) -> io::Result<()> {
        let Item::Vxlan { name, vni, port, local, below, mac, mtu } = to else { return Ok(()) };
        let stays = matches!(from, Some(Item::Vxlan { vni: was_vni, port: was_port, local: was_local, below: was_below, .. })
            if (was_vni, was_port, was_local, was_below) == (vni, port, local, below));
        if stays && self.links.index(name).await.is_ok() {
            return self.links.set_tunnel(name, *mac, *mtu).await;
        }
        if from.is_some() {
            self.links.remove_link(name).await?;
        }
        let (vni, port, local, mac, mtu) = (*vni, *port, *local, *mac, *mtu);
        self.links.add_tunnel(&Tunnel { name, vni, port, local, below, mac, mtu }).await
    }

    /// What begins from now on goes past the sidecar; what it carries has this long to end.
    async fn drain(&self, at_most: Duration) -> io::Result<()> {
        self.netfilter.replace(Some(&capture::draining())).map_err(lacking)?;
        let end = Instant::now() + at_most;
        while Instant::now() < end && self.netfilter.has_captured()? {
            tokio::time::sleep(DRAINED_LOOK).await;
        }
        Ok(())
    }

    /// The table first, then the flows that were decided under the other one.
    fn table(&self, seen: Option<&Found>, from: Option<&Item>, to: Option<&Table>) -> io::Result<()> {
        let from = match from {
            Some(Item::Table(table)) => Some(table),
            _ => None,
        };
        self.netfilter.change(seen, from, to).map_err(lacking)?;
        self.netfilter.forget_flows(&Table::stale(from, to))
    }

    /// The file belongs to the namespace of the thread that opens it.
    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let path = sysctl(name)?;
        let file = self.namespace.enter(|| fs::OpenOptions::new().write(true).open(&path));
        let in_words =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        file.map_err(in_words)?.write_all(value.as_bytes()).map_err(in_words)
    }
}

/// What it says of a kind of chain or of rule that it does not have.
fn lacking(error: io::Error) -> io::Error {
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) {
        return error;
    }
    let says =
        format!("{error}: this kernel lacks something that the table needs; `outrigger doctor` says what");
    io::Error::new(error.kind(), says)
}

/// Names come from the store, too, so they are kept from leading elsewhere.
fn sysctl(name: &str) -> io::Result<PathBuf> {
    let path = Path::new(name);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is not the name of a sysctl"),
        ));
    }
    Ok(Path::new(SYSCTLS).join(path))
}
