//! Keys of etcd, through its JSON gateway.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ENTRIES_MAX, Entry, Listing, Step};
use crate::config::Etcd;
use crate::etcd::Gateway;
use crate::etcd::wire::{self, KeyValue};
use crate::http_client::Error;

/// Keys fetched at once.
const PAGE: usize = 500;

#[derive(Debug)]
pub struct EtcdKv {
    gateway: Gateway,
}

impl EtcdKv {
    pub(super) fn new(etcd: &Etcd) -> Self {
        Self { gateway: Gateway::new(etcd) }
    }

    pub(super) fn turn(&mut self) {
        self.gateway.turn();
    }

    pub(super) async fn read(&mut self, key: &str) -> Result<Option<Entry>, Error> {
        let answer = self.gateway.range(key.as_bytes(), b"", 1, 0).await?;
        Ok(answer.kvs.into_iter().next().and_then(entry))
    }

    pub(super) async fn list(&mut self, prefix: &str) -> Result<Listing, Error> {
        let (mut from, to) = (prefix.as_bytes().to_vec(), wire::after_prefix(prefix));
        let mut listing = Listing::default();
        loop {
            let revision = listing.revision.and_then(|r| i64::try_from(r).ok()).unwrap_or(0);
            let page = self.gateway.range(&from, to.as_bytes(), PAGE, revision).await?;
            listing.revision = listing.revision.or_else(|| u64::try_from(page.header.revision).ok());
            match page.kvs.last().filter(|_| page.more) {
                Some(last) => from = [&last.key[..], &[0]].concat(),
                None => from.clear(),
            }
            listing.entries.extend(page.kvs.into_iter().filter_map(entry));
            if from.is_empty() {
                return Ok(listing);
            }
            if listing.entries.len() >= ENTRIES_MAX {
                tracing::warn!(prefix, ENTRIES_MAX, "too many keys; the others are not seen");
                return Ok(listing);
            }
        }
    }

    pub(super) async fn keys(&mut self, prefix: &str) -> Result<Vec<String>, Error> {
        let kvs = self.gateway.keys(prefix, &wire::after_prefix(prefix), ENTRIES_MAX).await?.kvs;
        Ok(kvs.into_iter().filter_map(|kv| String::from_utf8(kv.key).ok()).collect())
    }

    pub(super) async fn changed(
        &mut self,
        prefix: &str,
        since: Option<u64>,
        at_most: Duration,
    ) -> Result<(), Error> {
        let next = since.and_then(|since| i64::try_from(since).ok()).map_or(0, |since| since + 1);
        let request = wire::watch_request(1, prefix, &wire::after_prefix(prefix), next);
        let mut lines = self.gateway.watch(request).await?;
        let server = self.gateway.server();
        let ended = |why: String| Error::Nonsense(server.clone(), why);
        let event = async {
            while let Some(line) = lines.next().await? {
                let watched = wire::watched(&line).map_err(ended)?;
                // What has been compacted away since has changed.
                if !watched.events.is_empty() || watched.compact_revision > 0 {
                    return Ok(());
                }
                if watched.canceled {
                    return Err(ended(format!("the watch was cancelled: {}", watched.reason)));
                }
            }
            Err(ended("the watch has ended".to_owned()))
        };
        timeout(at_most, event).await.unwrap_or(Ok(()))
    }

    pub(super) async fn put(&mut self, key: &str, value: &[u8], lease: Option<i64>) -> Result<(), Error> {
        self.gateway.put(key, value, lease.unwrap_or(0)).await
    }

    pub(super) async fn change(&mut self, steps: &[Step]) -> Result<bool, Error> {
        self.gateway.transact(&transaction(steps)).await
    }

    pub(super) async fn grant(&mut self, ttl: Duration) -> Result<i64, Error> {
        self.gateway.grant(ttl.as_secs()).await
    }

    pub(super) async fn renew(&mut self, lease: i64) -> Result<bool, Error> {
        self.gateway.keep_alive(lease).await
    }

    pub(super) async fn end(&mut self, lease: i64) -> Result<(), Error> {
        self.gateway.revoke(lease).await
    }
}

fn entry(kv: KeyValue) -> Option<Entry> {
    let key = String::from_utf8(kv.key).ok()?;
    Some(Entry { key, value: Bytes::from(kv.value), revision: u64::try_from(kv.mod_revision).ok()? })
}

/// For etcd, a key that does not exist has revision 0.
fn transaction(steps: &[Step]) -> Value {
    let encode = |text: &str| wire::encode(text.as_bytes());
    let compare = steps.iter().filter_map(|step| match step {
        Step::Swap { key, revision, .. } => Some(json!({
            "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
        })),
        Step::Delete(_) | Step::DeleteBelow(_) => None,
    });
    let success = steps.iter().map(|step| match step {
        Step::Swap { key, value, .. } => {
            json!({"request_put": { "key": encode(key), "value": wire::encode(value) }})
        }
        Step::Delete(key) => json!({"request_delete_range": { "key": encode(key) }}),
        Step::DeleteBelow(prefix) => json!({"request_delete_range": {
            "key": encode(prefix), "range_end": encode(&wire::after_prefix(prefix)),
        }}),
    });
    json!({ "compare": compare.collect::<Vec<_>>(), "success": success.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_compares_what_it_swaps() {
        let swap = Step::Swap { key: "/a".into(), revision: 7, value: b"x".into() };
        let steps = [swap, Step::Delete("/b".into()), Step::DeleteBelow("/c/".into())];
        let expected = json!({
            "compare": [{"key": "L2E=", "target": "MOD", "result": "EQUAL", "mod_revision": "7"}],
            "success": [
                {"request_put": {"key": "L2E=", "value": "eA=="}},
                {"request_delete_range": {"key": "L2I="}},
                {"request_delete_range": {"key": "L2Mv", "range_end": "L2Mw"}},
            ],
        });
        assert_eq!(transaction(&steps), expected);
    }
}
