//! Keys and values of a registry, in one shape for etcd and Consul: what releases are kept in.
//!
//! A change of several keys is made as a whole or not at all, and only if a key is still as it was read. Waiting tells
//! that something may have changed, not what: whoever waits reads again. Nothing is repeated here.

use std::time::Duration;

use bytes::Bytes;

use crate::config::RegistrySource;
use crate::http_client::Error;
use consul::ConsulKv;
use etcd::EtcdKv;

mod consul;
mod etcd;

/// Entries below one prefix; what lies beyond is not seen, and said in the log.
const ENTRIES_MAX: usize = 100_000;

/// The keys of one registry.
#[derive(Debug)]
pub enum Kv {
    Etcd(Box<EtcdKv>),
    Consul(Box<ConsulKv>),
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// Of its last change.
    pub revision: u64,
}

/// All below a prefix, as of a revision.
#[derive(Debug, Default)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// `None`: there is nothing that could be waited for.
    pub revision: Option<u64>,
}

/// Part of a change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Only if the key's revision is this one; 0: if it does not exist.
    Swap {
        key: String,
        revision: u64,
        value: Vec<u8>,
    },
    Delete(String),
    /// All keys that begin so; ends with a slash.
    DeleteBelow(String),
}

/// What keys can hang on: they vanish when it has not been renewed for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    Etcd(i64),
    Consul(String),
}

impl Listing {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

impl Kv {
    /// `None` for a file.
    pub fn of(source: &RegistrySource) -> Option<Self> {
        match source {
            RegistrySource::File(_) => None,
            RegistrySource::Etcd(etcd) => Some(Self::Etcd(Box::new(EtcdKv::new(etcd)))),
            RegistrySource::Consul(consul) => Some(Self::Consul(Box::new(ConsulKv::new(consul)))),
        }
    }

    /// The next call goes to another server.
    pub fn turn(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.turn(),
            Self::Consul(consul) => consul.turn(),
        }
    }

    pub async fn read(&mut self, key: &str) -> Result<Option<Entry>, Error> {
        match self {
            Self::Etcd(etcd) => etcd.read(key).await,
            Self::Consul(consul) => consul.read(key).await,
        }
    }

    /// All below a prefix that ends with a slash, in order of keys.
    pub async fn list(&mut self, prefix: &str) -> Result<Listing, Error> {
        match self {
            Self::Etcd(etcd) => etcd.list(prefix).await,
            Self::Consul(consul) => consul.list(prefix).await,
        }
    }

    /// The keys alone.
    pub async fn keys(&mut self, prefix: &str) -> Result<Vec<String>, Error> {
        match self {
            Self::Etcd(etcd) => etcd.keys(prefix).await,
            Self::Consul(consul) => consul.keys(prefix).await,
        }
    }

    /// Returns when something below the prefix may differ from the listing, and after `at_most` in any case.
    pub async fn changed(
        &mut self,
        prefix: &str,
        since: Option<u64>,
        at_most: Duration,
    ) -> Result<(), Error> {
        match self {
            Self::Etcd(etcd) => etcd.changed(prefix, since, at_most).await,
            Self::Consul(consul) => consul.changed(prefix, since, at_most).await,
        }
    }

    pub async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        match self {
            Self::Etcd(etcd) => etcd.put(key, value, None).await,
            Self::Consul(consul) => consul.put(key, value).await,
        }
    }

    /// All steps or none; false: a key is no longer what it was.
    pub async fn change(&mut self, steps: &[Step]) -> Result<bool, Error> {
        match self {
            Self::Etcd(etcd) => etcd.change(steps).await,
            Self::Consul(consul) => consul.change(steps).await,
        }
    }

    pub async fn grant(&mut self, ttl: Duration) -> Result<Lease, Error> {
        match self {
            Self::Etcd(etcd) => etcd.grant(ttl).await.map(Lease::Etcd),
            Self::Consul(consul) => consul.grant(ttl).await.map(Lease::Consul),
        }
    }

    /// Whether it still lives.
    pub async fn renew(&mut self, lease: &Lease) -> Result<bool, Error> {
        match (self, lease) {
            (Self::Etcd(etcd), Lease::Etcd(id)) => etcd.renew(*id).await,
            (Self::Consul(consul), Lease::Consul(id)) => consul.renew(id).await,
            // Of another registry.
            _ => Ok(false),
        }
    }

    /// Writes a key that goes with the lease, whoever had it before.
    pub async fn put_leased(&mut self, key: &str, value: &[u8], lease: &Lease) -> Result<(), Error> {
        match (self, lease) {
            (Self::Etcd(etcd), Lease::Etcd(id)) => etcd.put(key, value, Some(*id)).await,
            (Self::Consul(consul), Lease::Consul(id)) => consul.put_leased(key, value, id).await,
            _ => Ok(()),
        }
    }

    /// Everything that hangs on the lease goes with it.
    pub async fn end(&mut self, lease: &Lease) -> Result<(), Error> {
        match (self, lease) {
            (Self::Etcd(etcd), Lease::Etcd(id)) => etcd.end(*id).await,
            (Self::Consul(consul), Lease::Consul(id)) => consul.end(id).await,
            _ => Ok(()),
        }
    }
}
