//! Hears what happens in the namespaces that concern us: notifications of rtnetlink and nftables, as they come.
//!
//! Each place has two sockets, opened in it, and a task for each, which lets through what may be about something of
//! ours and drops the rest. Only "may have changed" is said: whoever hears it looks. A place's sockets keep its
//! namespace, so a place that is no longer named is let go at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::firewall::kernel::Netfilter;
use super::super::firewall::notice;
use super::super::item::Place;
use super::super::links::notice::{GROUPS, Interest, concerns};
use super::super::namespace::Namespace;
use super::super::run::Ground;

/// Places that wait to be looked at; beyond it they are one anyway, since a look sees all.
pub(super) const HEARD_MAX: usize = 64;
/// Of one notification; what does not fit is cut, and its beginning says enough.
const NOTICE_BYTES: usize = 8 * 1024;
/// The kernel's queue: a flush of many rules comes at once.
const QUEUE_BYTES: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Ears {
    heard: mpsc::Sender<Place>,
    by_place: BTreeMap<Place, Ear>,
}

#[derive(Debug)]
struct Ear {
    /// Kept open, so that the kernel does not give its number to another file.
    _namespace: Namespace,
    interest: watch::Sender<Interest>,
    netfilter: Netfilter,
    holds_flows: bool,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Ears {
    pub(super) fn new(heard: mpsc::Sender<Place>) -> Self {
        Self { heard, by_place: BTreeMap::new() }
    }

    /// Listens in these places, and nowhere else. Where it cannot, the regular look has to do.
    pub(super) fn follow(&mut self, grounds: Vec<Ground>) {
        let named: BTreeSet<&Place> = grounds.iter().map(|ground| &ground.place).collect();
        self.by_place.retain(|place, ear| named.contains(place) && !ear.has_ended());
        for Ground { place, namespace, interest, has_table } in grounds {
            let ear = match self.by_place.remove(&place) {
                Some(ear) => Ok(ear),
                None => Ear::open(&place, namespace, self.heard.clone()),
            };
            match ear {
                Ok(mut ear) => {
                    ear.interest.send_replace(interest);
                    ear.hold_flows(&place, has_table);
                    self.by_place.insert(place, ear);
                }
                Err(error) => tracing::warn!(%place, %error, "cannot listen to what happens here"),
            }
        }
    }

    /// By workload, how many flows of UDP have passed its table untouched.
    pub(super) fn passed(&self) -> BTreeMap<String, u64> {
        let captured = self.by_place.iter().filter(|(_, ear)| ear.holds_flows);
        let counted = captured.filter_map(|(place, ear)| match place {
            Place::Host => None,
            Place::Inside(inside) => Some((inside.workload.clone(), ear.netfilter.counted().ok()?)),
        });
        counted.collect()
    }
}

impl Ear {
    fn open(place: &Place, namespace: Namespace, heard: mpsc::Sender<Place>) -> io::Result<Self> {
        let (links, rules, netfilter) = namespace.enter(|| {
            let links = socket(protocols::NETLINK_ROUTE, &GROUPS)?;
            Ok((links, socket(protocols::NETLINK_NETFILTER, &[notice::GROUP])?, Netfilter::open()?))
        })?;
        let interest = watch::Sender::new(Interest::default());
        let about = interest.subscribe();
        let concerned = move |notices: &[u8]| concerns(notices, &about.borrow());
        let of_links = listen(links, place.clone(), heard.clone(), concerned);
        let of_rules = listen(rules, place.clone(), heard, notice::concerns);
        let tasks = [of_links, of_rules];
        Ok(Self { _namespace: namespace, interest, netfilter, holds_flows: false, tasks })
    }

    fn has_ended(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    fn hold_flows(&mut self, place: &Place, has_table: bool) {
        if !has_table || self.holds_flows {
            return;
        }
        self.holds_flows = true;
        if let Err(error) = self.netfilter.hold(*place != Place::Host) {
            // An older kernel: a flush of the rules may cost connections.
            tracing::info!(%place, %error, "flows are not held while the rules are away");
        }
    }
}

fn socket(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    let inner = socket.socket_ref();
    inner.set_rx_buf_sz(QUEUE_BYTES)?;
    groups.iter().try_for_each(|group| inner.add_membership(*group))?;
    Ok(socket)
}

/// Tells of a place whenever there is something in what was read that concerns us.
fn listen(
    socket: TokioSocket,
    place: Place,
    heard: mpsc::Sender<Place>,
    concerns: impl Fn(&[u8]) -> bool + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut bytes = Vec::with_capacity(NOTICE_BYTES);
        loop {
            bytes.clear();
            let is_news = match socket.recv(&mut bytes).await {
                Ok(()) => concerns(&bytes),
                // More came than the queue holds: something is lost.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => true,
                Err(error) => {
                    tracing::warn!(%place, %error, "notifications have ended");
                    let _ = heard.try_send(place);
                    return;
                }
            };
            // A full queue says that a look is due; it will see this, too.
            if is_news && heard.try_send(place.clone()).is_err() && heard.is_closed() {
                return;
            }
        }
    })
}
