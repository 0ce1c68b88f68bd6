//! What the task asks etcd, and what it makes of the answers.

use tokio::time::Instant;

use super::super::Plan;
use super::super::flannel::{key, read_plan, write_plan};
use super::super::hosts::Hosts;
use super::{End, Task};
use crate::etcd::wire::{self, Event, Watched};
use crate::http_client::{Error, Lines};

/// Keys fetched at once.
const PAGE: usize = 1_000;

impl Task {
    pub(super) fn ended(&self, why: &str) -> Error {
        Error::Nonsense(self.gateway.server(), why.to_owned())
    }

    /// What all hosts agree on; founded if nobody has, and the file says how.
    pub(super) async fn read_plan(&mut self) -> Result<Plan, End> {
        let key = self.order.source.config_key();
        let mut found = self.gateway.range(key.as_bytes(), b"", 1, 0).await?.kvs;
        if found.is_empty() {
            let Some(plan) = &self.order.founding else {
                let hint = "write it there, as for flannel, or give `ranges` in the network file";
                return Err(End::Trouble(format!("etcd has no plan of the network at {key}; {hint}")));
            };
            let value = wire::encode(write_plan(plan).as_bytes());
            let encoded = wire::encode(key.as_bytes());
            let request = serde_json::json!({
                "compare": [{"key": encoded, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
                "success": [{"request_put": {"key": encoded, "value": value}}],
            });
            // Whoever was first has founded it.
            if self.gateway.transact(&request).await? {
                tracing::info!(network = self.name, key, "the network is founded");
            }
            found = self.gateway.range(key.as_bytes(), b"", 1, 0).await?.kvs;
        }
        let Some(kv) = found.first() else { return Err(End::Again("the plan has gone")) };
        let plan = read_plan(&kv.value).map_err(|why| End::Trouble(format!("the plan at {key}: {why}")))?;
        if self.order.founding.as_ref().is_some_and(|founding| *founding != plan) && self.plan.is_none() {
            tracing::warn!(network = self.name, "etcd has another plan than the file; etcd's holds");
        }
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    /// All hosts, page by page and all of one revision.
    pub(super) async fn list(&mut self, plan: &Plan) -> Result<(), End> {
        let prefix = self.order.source.subnets();
        let (mut from, to) = (prefix.clone().into_bytes(), wire::after_prefix(&prefix));
        self.hosts = Hosts::default();
        let mut revision = 0;
        loop {
            let page = self.gateway.range(&from, to.as_bytes(), PAGE, revision).await?;
            if revision == 0 {
                revision = page.header.revision;
            }
            for kv in &page.kvs {
                self.put(kv, plan);
            }
            match page.kvs.last().filter(|_| page.more) {
                Some(last) => from = [&last.key[..], &[0]].concat(),
                None => break,
            }
        }
        self.revision = revision;
        Ok(())
    }

    fn put(&mut self, kv: &wire::KeyValue, plan: &Plan) {
        let prefix = self.order.source.subnets();
        let Some(name) = std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(&prefix)) else {
            return;
        };
        if let Err(reason) = self.hosts.put(name, kv, plan.vni) {
            tracing::warn!(network = self.name, key = name, reason, "a key in etcd is ignored");
        }
    }

    /// Everything of the network, from the next revision on.
    pub(super) async fn watch(&mut self) -> Result<Lines, End> {
        let prefix = format!("{}/", self.order.source.prefix);
        let request = wire::watch_request(1, &prefix, &wire::after_prefix(&prefix), self.revision + 1);
        Ok(self.gateway.watch(request).await?)
    }

    /// Whether hosts have changed.
    pub(super) fn take(&mut self, line: &[u8], plan: &Plan) -> Result<bool, End> {
        let watched: Watched = wire::watched(line).map_err(|why| self.ended(&why))?;
        if watched.compact_revision > 0 {
            return Err(End::Again("what was missed has been compacted"));
        }
        if watched.canceled {
            return Err(self.ended(&format!("the watch was cancelled: {}", watched.reason)).into());
        }
        let (subnets, config) = (self.order.source.subnets(), self.order.source.config_key());
        let mut changed = false;
        for event in &watched.events {
            let kv = event.kv();
            self.revision = self.revision.max(kv.mod_revision);
            if kv.key == config.as_bytes() {
                return Err(End::Again("the plan has changed"));
            }
            let name = std::str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(&subnets));
            let Some(name) = name.map(str::to_owned) else { continue };
            match event {
                Event::Put(kv) => self.put(kv, plan),
                Event::Delete(_) => self.hosts.remove(&name),
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Asks the quorum about our own key. Whether it is otherwise than it was here.
    pub(super) async fn confirm(&mut self, plan: &Plan) -> Result<bool, End> {
        let Some(own) = self.own else { return Ok(true) };
        let name = key(&own.subnets);
        let whole = format!("{}{name}", self.order.source.subnets());
        let answer = self.gateway.range(whole.as_bytes(), b"", 1, 0).await?;
        if answer.header.revision < self.revision {
            return Err(End::Again("etcd is not the one it was"));
        }
        let before = self.hosts.get(&name).cloned();
        match answer.kvs.first() {
            Some(kv) => self.put(kv, plan),
            None => self.hosts.remove(&name),
        }
        let differs = self.hosts.get(&name) != before.as_ref();
        // No news: nobody is woken for it.
        self.picture.send_if_modified(|picture| {
            picture.confirmed = Some(Instant::now());
            false
        });
        Ok(differs)
    }

    pub(super) async fn renew(&mut self) -> Result<(), End> {
        match self.own {
            Some(own) if own.lease != 0 && !self.gateway.keep_alive(own.lease).await? => {
                Err(End::Again("the lease has ended"))
            }
            _ => Ok(()),
        }
    }
}
