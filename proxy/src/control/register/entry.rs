//! How an entry is written, in each kind of registry.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::config::{self, Register};
use crate::control::registry::consul;
use crate::control::registry::instance::Written;
use crate::etcd::Gateway;
use crate::http_client::{Client, Error};

/// What the entry says beyond what is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub healthy: bool,
    pub draining: bool,
    /// Utilisation of the machine, 0 to 1.
    pub load: Option<f64>,
}

/// The entry, as far as this process knows.
#[derive(Debug)]
pub enum Entry {
    Etcd(Box<EtcdEntry>),
    Consul(Box<ConsulEntry>),
}

#[derive(Debug)]
pub struct EtcdEntry {
    gateway: Gateway,
    key: String,
    register: Register,
    lease: Option<i64>,
}

#[derive(Debug)]
pub struct ConsulEntry {
    client: Client,
    register: Register,
    registered: bool,
    draining: bool,
}

impl Entry {
    pub fn etcd(etcd: &config::Etcd, register: &Register) -> Self {
        let key = format!("{}/services/{}/{}", etcd.prefix, register.service, register.id);
        Self::Etcd(Box::new(EtcdEntry {
            gateway: Gateway::new(etcd),
            key,
            register: register.clone(),
            lease: None,
        }))
    }

    pub fn consul(consul: &config::Consul, register: &Register) -> Self {
        Self::Consul(Box::new(ConsulEntry {
            client: consul::client(consul),
            register: register.clone(),
            registered: false,
            draining: false,
        }))
    }

    /// Sees to it that the registry has the entry and goes on having it. Answers whether it was written anew.
    pub async fn announce(&mut self, state: &State) -> Result<bool, Error> {
        match self {
            Self::Etcd(entry) => entry.announce(state).await,
            Self::Consul(entry) => entry.announce(state).await,
        }
    }

    pub async fn leave(&mut self) -> Result<(), Error> {
        match self {
            Self::Etcd(entry) => match entry.lease.take() {
                Some(lease) => entry.gateway.revoke(lease).await,
                None => Ok(()),
            },
            Self::Consul(entry) => {
                entry.put(&format!("/v1/agent/service/deregister/{}", entry.register.id), None).await
            }
        }
    }

    /// The next call goes to another server.
    pub fn turn(&mut self) {
        match self {
            Self::Etcd(entry) => entry.gateway.turn(),
            Self::Consul(entry) => entry.client.turn(),
        }
    }
}

impl EtcdEntry {
    async fn announce(&mut self, state: &State) -> Result<bool, Error> {
        let value = value(&self.register, state);
        if let Some(lease) = self.lease
            && self.gateway.keep_alive(lease).await?
        {
            // Somebody may have deleted or overwritten it.
            let found = self.gateway.range(self.key.as_bytes(), b"", 1, 0).await?;
            match found.kvs.first() {
                Some(kv) if kv.lease == lease && kv.value == value => return Ok(false),
                Some(kv) if kv.lease == lease => {
                    return self.gateway.put(&self.key, &value, lease).await.map(|()| false);
                }
                _ => {}
            }
        } else {
            self.lease = None;
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => self.gateway.grant(self.register.ttl.as_secs()).await?,
        };
        self.lease = Some(lease);
        self.gateway.put(&self.key, &value, lease).await.inspect_err(|_| self.lease = None)?;
        Ok(true)
    }
}

impl ConsulEntry {
    async fn announce(&mut self, state: &State) -> Result<bool, Error> {
        if self.registered && self.update(state).await? {
            return Ok(false);
        }
        let body = consul::wire::registration(&self.register);
        self.put("/v1/agent/service/register?replace-existing-checks=true", Some(body)).await?;
        (self.registered, self.draining) = (true, false);
        self.registered = self.update(state).await?;
        Ok(true)
    }

    /// False if the registry knows nothing of the entry.
    async fn update(&mut self, state: &State) -> Result<bool, Error> {
        if state.draining && !self.draining {
            let id = &self.register.id;
            let path = format!("/v1/agent/service/maintenance/{id}?enable=true&reason=draining");
            self.draining = self.put(&path, None).await.is_ok();
        }
        let path = format!("/v1/agent/check/update/{}", consul::wire::check_id(&self.register));
        match self.put(&path, Some(consul::wire::update(state.healthy, state.load))).await {
            Ok(()) => Ok(true),
            // Older servers say so with 500.
            Err(Error::Refused(_, StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&mut self, path: &str, body: Option<Value>) -> Result<(), Error> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let within = self.client.timeout;
        self.client.exchange(Method::PUT, path, body, within).await.map(drop)
    }
}

/// What stands at the entry's key.
fn value(register: &Register, state: &State) -> Vec<u8> {
    let status = match state {
        State { draining: true, .. } => "draining",
        State { healthy: true, .. } => "ready",
        State { healthy: false, .. } => "down",
    };
    let written = Written {
        address: register.address.to_string(),
        weight: Some(register.weight),
        zone: register.zone.clone(),
        labels: register.labels.clone(),
        version: None,
        status: Some(status.to_owned()),
        // Three digits tell enough.
        load: state.load.map(|load| (load * 1000.0).round() / 1000.0),
    };
    // Text and numbers: it cannot fail.
    serde_json::to_vec(&written).unwrap_or_default()
}
