//! How a subnet becomes ours, stays ours, and goes: comparisons and swaps, and nothing that is believed without them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::choose::{Choice, choose, is_same_host};
use super::super::flannel::{Attributes, key, write_attributes};
use super::super::hosts::Standing;
use super::super::source::Source;
use super::super::underlay::Underlay;
use super::super::{Plan, Subnets};
use super::{Before, End, Known, Picture, Task, open};
use crate::etcd::wire;

/// Others may be faster; so often in a row is no chance.
const TRIES_MAX: usize = 64;
const RELEASE_WITHIN: Duration = Duration::from_secs(3);

impl Task {
    /// Sees to it that a subnet is ours, the same as before if possible.
    pub(super) async fn settle(&mut self, plan: &Plan, underlay: &Underlay) -> Result<(), End> {
        let me = plan.attributes(underlay);
        let Some(before) = self.own else {
            self.own = Some(self.acquire(plan, &me, None).await?);
            return Ok(());
        };
        let name = key(&before.subnets);
        let mut is_taken = false;
        match self.hosts.standing(&name, before.lease, plan) {
            Standing::Held if !plan.allows(&before.subnets) => {
                tracing::error!(network = self.name, subnets = %before.subnets, "the plan has no such subnets");
                self.drop_key(&name, before.lease).await?;
                is_taken = true;
            }
            Standing::Held if self.is_alive(before.lease).await? => {
                return self.keep_up(&name, plan, &me).await;
            }
            Standing::Held => {}
            Standing::Missing => self.list(plan).await?,
            Standing::Taken(by) if by == name && self.is_ours(&name, &me) => {
                return self.say_who_we_are(before, &name);
            }
            Standing::Taken(by) => {
                is_taken = self.picture.borrow().is_leased();
                let subnets = before.subnets;
                tracing::error!(network = self.name, %subnets, by, "another host has our subnets now");
            }
        }
        match self.acquire(plan, &me, Some(&before.subnets)).await {
            Ok(own) => self.settled(before, own),
            Err(end) => {
                if is_taken {
                    self.own = None;
                    tracing::error!(
                        network = self.name,
                        "this host has no subnet; its workloads are taken off"
                    );
                    self.tell(|picture| picture.known = Known::Withdrawn);
                }
                return Err(end);
            }
        }
        Ok(())
    }

    /// It has our address, though not our lease, and it is not from before a restart.
    fn is_ours(&self, name: &str, me: &Attributes) -> bool {
        let same = |other: &Attributes| is_same_host(other, me);
        let is_new = matches!(self.picture.borrow().known, Known::NotYet);
        !is_new && self.hosts.get(name).is_some_and(|host| host.attributes.as_ref().is_ok_and(same))
    }

    /// Somebody has made a reservation of our lease, or is another process with our address: then nobody can tell us
    /// apart, and we are the one who gives way.
    fn say_who_we_are(&mut self, before: Before, name: &str) -> Result<(), End> {
        if self.hosts.get(name).is_some_and(|host| host.lease == 0) {
            self.own = Some(Before { lease: 0, ..before });
            return Ok(());
        }
        self.tell(|picture| picture.known = Known::Withdrawn);
        let subnets = before.subnets;
        Err(End::Trouble(format!("another process has leased {subnets} with the address of this host")))
    }

    fn settled(&mut self, before: Before, own: Before) {
        self.own = Some(own);
        if !self.picture.borrow().is_leased() {
            return;
        }
        let (network, was, subnets) = (&self.name, before.subnets, own.subnets);
        if was == subnets {
            tracing::warn!(network, %subnets, "the lease of our subnets had ended; it is had again");
            self.picture.send_modify(|picture| picture.regained += 1);
        } else {
            tracing::error!(network, %was, %subnets, "our subnets are others now: workloads get new addresses");
            self.picture.send_modify(|picture| picture.renumbered += 1);
        }
    }

    async fn is_alive(&mut self, lease: i64) -> Result<bool, End> {
        // A reservation does not end. What has been renewed lately is not asked for with every change of a peer.
        let is_fresh = self.picture.borrow().is_leased();
        Ok(lease == 0 || is_fresh || self.gateway.keep_alive(lease).await?)
    }

    /// The value says how we are reached now.
    async fn keep_up(&mut self, name: &str, plan: &Plan, me: &Attributes) -> Result<(), End> {
        let Some(host) = self.hosts.get(name).cloned() else { return Ok(()) };
        if host.attributes.as_ref() == Ok(me) {
            return Ok(());
        }
        let (modified, lease) = (host.modified, host.lease);
        let whole = format!("{}{name}", self.order.source.subnets());
        let request = swap(&whole, modified, &write_attributes(me, plan.vni), lease);
        if !self.gateway.transact(&request).await? {
            return Err(End::Again("somebody was faster"));
        }
        self.list(plan).await
    }

    async fn acquire(
        &mut self,
        plan: &Plan,
        me: &Attributes,
        before: Option<&Subnets>,
    ) -> Result<Before, End> {
        for _ in 0..TRIES_MAX {
            if !(self.wanted)() {
                return Err(End::Unwanted);
            }
            let random = self.backoff.random();
            let (subnets, request, lease) = match choose(plan, &self.hosts, me, before, random) {
                Choice::Full => {
                    return Err(End::Trouble(format!("no subnet is free in {}", plan.ipv4.whole)));
                }
                Choice::Take { key, subnets, modified, lease } => {
                    // What does not end now, is not to end later.
                    let lease = if lease == 0 { 0 } else { self.grant().await? };
                    let whole = format!("{}{key}", self.order.source.subnets());
                    (subnets, swap(&whole, modified, &write_attributes(me, plan.vni), lease), lease)
                }
                Choice::New(subnets) => {
                    let lease = self.grant().await?;
                    (subnets, self.create(&subnets, &write_attributes(me, plan.vni), lease), lease)
                }
            };
            let is_done = self.gateway.transact(&request).await?;
            self.list(plan).await?;
            // Two keys may have the same IPv6 subnet in them, which no comparison of keys prevents.
            if is_done && self.hosts.standing(&key(&subnets), lease, plan) == Standing::Held {
                tracing::info!(network = self.name, %subnets, "leased");
                return Ok(Before { subnets, lease });
            }
            self.drop_key(&key(&subnets), lease).await?;
        }
        Err(End::Trouble(format!("others were faster {TRIES_MAX} times in a row")))
    }

    async fn grant(&mut self) -> Result<i64, End> {
        Ok(self.gateway.grant(self.order.lease.as_secs()).await?)
    }

    /// Only while no key begins with the subnet of IPv4, whatever follows it.
    fn create(&self, subnets: &Subnets, value: &str, lease: i64) -> Value {
        let prefix = self.order.source.subnets();
        let from = format!("{prefix}{}", key(&Subnets { ipv6: None, ..*subnets }));
        // Behind `&`, with which the subnet of IPv6 begins.
        let to = format!("{from}'");
        let encoded = wire::encode(format!("{prefix}{}", key(subnets)).as_bytes());
        json!({
            "compare": [{
                "key": wire::encode(from.as_bytes()), "range_end": wire::encode(to.as_bytes()),
                "target": "CREATE", "result": "EQUAL", "create_revision": "0",
            }],
            "success": [{"request_put": {
                "key": encoded, "value": wire::encode(value.as_bytes()), "lease": lease.to_string(),
            }}],
        })
    }

    /// Ours goes, and nobody else's.
    async fn drop_key(&mut self, name: &str, lease: i64) -> Result<(), End> {
        if lease == 0 {
            return Ok(());
        }
        let whole = format!("{}{name}", self.order.source.subnets());
        self.gateway.transact(&removal(&whole, lease)).await?;
        // If it does not go now, it goes by itself.
        let _ = self.gateway.revoke(lease).await;
        Ok(())
    }
}

impl Picture {
    pub fn is_leased(&self) -> bool {
        matches!(self.known, Known::Leased(_))
    }
}

/// Only if nobody has changed it since.
fn swap(key: &str, modified: i64, value: &str, lease: i64) -> Value {
    let encoded = wire::encode(key.as_bytes());
    json!({
        "compare": [{
            "key": encoded, "target": "MOD", "result": "EQUAL", "mod_revision": modified.to_string(),
        }],
        "success": [{"request_put": {
            "key": encoded, "value": wire::encode(value.as_bytes()), "lease": lease.to_string(),
        }}],
    })
}

fn removal(key: &str, lease: i64) -> Value {
    let encoded = wire::encode(key.as_bytes());
    json!({
        "compare": [{"key": encoded, "target": "LEASE", "result": "EQUAL", "lease": lease.to_string()}],
        "success": [{"request_delete_range": {"key": encoded}}],
    })
}

/// The network is not wanted on this host any more: others may have its subnet. A reservation stays.
pub async fn release(source: &Source, subnets: &Subnets, lease: i64) -> Result<(), String> {
    if lease == 0 {
        return Ok(());
    }
    let mut gateway = open(source, 0).await?;
    let whole = format!("{}{}", source.subnets(), key(subnets));
    let work = async {
        let mut result = gateway.transact(&removal(&whole, lease)).await;
        for _ in 1..source.servers.len() {
            if result.is_err() {
                gateway.turn();
                result = gateway.transact(&removal(&whole, lease)).await;
            }
        }
        result?;
        gateway.revoke(lease).await
    };
    let released = timeout(RELEASE_WITHIN, work).await;
    match released {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("etcd: no answer within {RELEASE_WITHIN:?}")),
    }
}
