//! The task that talks to etcd for one network: gets a subnet, keeps it, and follows the other hosts.
//!
//! A session lists what there is, settles which subnet is ours, and watches from that revision on. Whatever ends it,
//! the next one begins soon, and until then all stays as it is: a network does not depend on etcd being there. Only
//! when another host has our subnet, ours is given up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::flannel::key;
use super::hosts::Hosts;
use super::source::Source;
use super::underlay::Underlay;
use super::{Plan, State, Subnets};
use crate::backoff::Backoff;
use crate::etcd::Gateway;
use crate::http_client::Error;

mod acquire;
mod conversation;

pub use acquire::release;

/// How often etcd is asked whether the subnet is still ours.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// A lease is renewed three times in its life, and this often at least.
const RENEW_EVERY_MAX: Duration = Duration::from_secs(60);
/// A watch is begun anew after this: one that has died without a sign does no lasting harm.
const WATCH_AGE_MAX: Duration = Duration::from_secs(600);
/// Before what has changed is read anew.
const AGAIN_WITHIN: Duration = Duration::from_millis(50);
/// Lines of a watch taken together.
const LINES_MAX: usize = 64;

/// What a task is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub source: Source,
    /// Written if etcd has no plan.
    pub founding: Option<Plan>,
    pub lease: Duration,
    /// As the store remembers it.
    pub before: Option<Before>,
}

impl Order {
    /// The same order, but for what has been remembered since.
    pub fn is_as(&self, other: &Self) -> bool {
        let before = self.before;
        *self == Self { before, ..other.clone() }
    }
}

/// A subnet that this host had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub subnets: Subnets,
    /// 0 if it has ended.
    pub lease: i64,
}

/// What a task has found out.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub known: Known,
    /// When etcd last said that all is as it is here.
    pub confirmed: Option<Instant>,
    /// Why it cannot be asked, or will not do.
    pub trouble: Option<String>,
    /// Hosts in etcd that are no peers.
    pub left_out: BTreeMap<String, String>,
    /// How often the subnet was lost: had again, and given to another host.
    pub regained: u64,
    pub renumbered: u64,
}

#[derive(Debug, Clone, Default)]
pub enum Known {
    /// What the store remembers holds.
    #[default]
    NotYet,
    Leased(Box<State>),
    /// Another host has our subnet, and we have none.
    Withdrawn,
}

/// Whether the network is still wanted on this host; asked before a subnet is leased.
pub type Wanted = Box<dyn Fn() -> bool + Send>;

/// One network on its way.
pub struct Task {
    name: String,
    order: Order,
    gateway: Gateway,
    underlay: watch::Receiver<Option<Underlay>>,
    wanted: Wanted,
    picture: watch::Sender<Picture>,
    bell: Arc<Notify>,
    own: Option<Before>,
    /// What is said of it now; sessions keep it up to date.
    plan: Option<Plan>,
    hosts: Hosts,
    revision: i64,
    backoff: Backoff,
    failures: usize,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    Failed(Error),
    /// Something that only people can change.
    Trouble(String),
    /// Something has changed; said is what.
    Again(&'static str),
    /// Nobody wants the network here any more.
    Unwanted,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a task is connected with.
pub struct Ties {
    pub underlay: watch::Receiver<Option<Underlay>>,
    pub picture: watch::Sender<Picture>,
    /// Rung when the picture has changed.
    pub bell: Arc<Notify>,
    pub wanted: Wanted,
}

/// Until the network is not wanted any more.
pub async fn run(name: String, order: Order, ties: Ties) {
    let Ties { underlay, picture, bell, wanted } = ties;
    let (mut backoff, mut failures) = (Backoff::default(), 0);
    let own = order.before;
    let gateway = loop {
        match open(&order.source, failures).await {
            Ok(gateway) => break gateway,
            Err(trouble) => {
                tracing::error!(network = name, trouble, "etcd cannot be asked");
                picture.send_modify(|picture| picture.trouble = Some(trouble));
                bell.notify_one();
                failures += 1;
                sleep(backoff.pause()).await;
            }
        }
    };
    let (hosts, plan) = (Hosts::default(), None);
    let task = Task {
        name,
        order,
        gateway,
        underlay,
        wanted,
        picture,
        bell,
        own,
        plan,
        hosts,
        revision: 0,
        backoff,
        failures,
    };
    task.sessions().await;
}

/// The files of secrets may have been replaced since. The next server is another one after each failure.
async fn open(source: &Source, failures: usize) -> Result<Gateway, String> {
    let source = source.clone();
    let opened = tokio::task::spawn_blocking(move || source.open()).await;
    let mut gateway = Gateway::new(&opened.map_err(|error| error.to_string())??);
    (0..failures % 16).for_each(|_| gateway.turn());
    Ok(gateway)
}

impl Task {
    async fn sessions(mut self) {
        loop {
            let Err(end) = self.session().await;
            match end {
                End::Unwanted => return,
                End::Again(why) => {
                    tracing::info!(network = self.name, why, "the network is read anew");
                    sleep(self.backoff.within(AGAIN_WITHIN)).await;
                    continue;
                }
                End::Trouble(trouble) => {
                    tracing::error!(network = self.name, trouble, "the network cannot be joined as it is");
                    self.tell(|picture| picture.trouble = Some(trouble));
                }
                End::Failed(error) => {
                    tracing::warn!(network = self.name, %error, "etcd cannot be asked; all stays as it is");
                    self.tell(|picture| picture.trouble = Some(format!("etcd: {error}")));
                    self.failures += 1;
                }
            }
            sleep(self.backoff.pause()).await;
            if let Ok(gateway) = open(&self.order.source, self.failures).await {
                self.gateway = gateway;
            }
        }
    }

    async fn session(&mut self) -> Result<Infallible, End> {
        let underlay = self.underlay().await;
        let plan = self.read_plan().await?;
        self.list(&plan).await?;
        self.settle(&plan, &underlay).await?;
        self.publish(&plan, &underlay);
        let mut watch = self.watch().await?;
        let mut ends = Instant::now() + self.backoff.about(WATCH_AGE_MAX);
        let mut confirm_at = Instant::now() + self.backoff.about(CONFIRM_EVERY);
        let renew_every = (self.order.lease / 3).min(RENEW_EVERY_MAX);
        let mut renew_at = Instant::now() + self.backoff.about(renew_every);
        loop {
            tokio::select! {
                line = watch.next() => {
                    let Some(line) = line? else { return Err(self.ended("the watch has ended").into()) };
                    let mut changed = self.take(&line, &plan)?;
                    let mut lines = 1;
                    while lines < LINES_MAX
                        && let Ok(Ok(Some(line))) = timeout(Duration::ZERO, watch.next()).await
                    {
                        changed |= self.take(&line, &plan)?;
                        lines += 1;
                    }
                    if changed {
                        self.settle(&plan, &underlay).await?;
                        self.publish(&plan, &underlay);
                    }
                }
                () = sleep_until(confirm_at) => {
                    if self.confirm(&plan).await? {
                        self.settle(&plan, &underlay).await?;
                        self.publish(&plan, &underlay);
                    }
                    // What holds for a while has not been won by chance.
                    self.backoff.reset();
                    confirm_at = Instant::now() + self.backoff.about(CONFIRM_EVERY);
                }
                () = sleep_until(renew_at) => {
                    self.renew().await?;
                    renew_at = Instant::now() + self.backoff.about(renew_every);
                }
                // From where this one is: nothing is lost between the two.
                () = sleep_until(ends) => {
                    watch = self.watch().await?;
                    ends = Instant::now() + self.backoff.about(WATCH_AGE_MAX);
                }
                Ok(()) = self.underlay.changed() => {
                    if self.underlay.borrow().as_ref().is_some_and(|now| *now != underlay) {
                        return Err(End::Again("what is below has changed"));
                    }
                }
            }
        }
    }

    /// Waits until it is known.
    async fn underlay(&mut self) -> Underlay {
        loop {
            if let Some(underlay) = self.underlay.borrow_and_update().clone() {
                return underlay;
            }
            if self.underlay.changed().await.is_err() {
                // The process is ending, and this task with it.
                std::future::pending::<()>().await;
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Picture)) {
        self.picture.send_modify(change);
        self.bell.notify_one();
    }

    /// What is known now becomes what holds.
    fn publish(&mut self, plan: &Plan, underlay: &Underlay) {
        let Some(Before { subnets, lease }) = self.own else { return };
        let (peers, left_out) = self.hosts.peers(&key(&subnets), plan, underlay);
        let known = self.picture.borrow().left_out.clone();
        for (host, reason) in left_out.iter().filter(|(host, why)| known.get(*host) != Some(*why)) {
            tracing::warn!(network = self.name, host, reason, "a host in etcd is left out");
        }
        let (plan, underlay) = (plan.clone(), underlay.clone());
        let state = Box::new(State { plan, subnets, lease, underlay, peers });
        self.tell(|picture| {
            picture.known = Known::Leased(state);
            picture.confirmed = Some(Instant::now());
            picture.trouble = None;
            picture.left_out = left_out;
        });
    }
}
