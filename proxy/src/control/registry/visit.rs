//! A visit to a registry over the network, for an operator who wants to know: can each of its servers be reached, does
//! it let us in, and what does it hold?
//!
//! `outrigger check --connect` pays it. It uses what a sidecar uses, one server after the other, and changes nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;

use super::consul;
use super::instance::{Instance, service_name};
use crate::config::{Consul, Etcd, Registry, RegistrySource, Server};
use crate::etcd::Gateway;
use crate::http_client::Error;

/// Keys fetched at once.
const PAGE: usize = 2_000;
/// Entries that cannot be read, shown at most.
const BAD_SHOWN_MAX: usize = 10;

/// What one server has said.
#[derive(Debug)]
pub struct Visit {
    pub server: Server,
    pub found: Result<Found, Error>,
}

/// What it holds of what sidecars ask for.
#[derive(Debug, Default)]
pub struct Found {
    pub services: BTreeSet<String>,
    /// Of all services; `None` where counting them takes a question for each.
    pub instances: Option<usize>,
    /// Entries that sidecars will leave out, and why: the first ones.
    pub bad: Vec<String>,
}

/// Every server is asked; nothing for a file.
pub async fn visit(registry: &Registry) -> Vec<Visit> {
    let mut visits = Vec::new();
    match &registry.source {
        RegistrySource::File(_) => {}
        RegistrySource::Etcd(all) => {
            for server in &all.servers {
                let one = Etcd { servers: vec![server.clone()], ..all.clone() };
                visits.push(Visit { server: server.clone(), found: etcd(&one).await });
            }
        }
        RegistrySource::Consul(all) => {
            for server in &all.servers {
                let one = Consul { servers: vec![server.clone()], ..all.clone() };
                visits.push(Visit { server: server.clone(), found: consul(&one).await });
            }
        }
    }
    visits
}

async fn etcd(etcd: &Etcd) -> Result<Found, Error> {
    let mut gateway = Gateway::new(etcd);
    let prefix = format!("{}/services/", etcd.prefix);
    let end = crate::etcd::wire::after_prefix(&prefix);
    let (mut found, mut instances, mut from) = (Found::default(), 0, prefix.clone().into_bytes());
    loop {
        let page = gateway.range(&from, end.as_bytes(), PAGE, 0).await?;
        for kv in &page.kvs {
            let key = String::from_utf8_lossy(&kv.key);
            // Keys of another form are somebody else's.
            let Some((service, _)) = key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) else {
                continue;
            };
            match service_name(service).and_then(|()| Instance::read(&kv.value, kv.mod_revision)) {
                Ok(_) => {
                    found.services.insert(service.to_owned());
                    instances += 1;
                }
                Err(reason) => found.note(format!("{key}: {reason}")),
            }
        }
        match page.kvs.last().filter(|_| page.more) {
            Some(last) => from = [&last.key[..], &[0]].concat(),
            None => break,
        }
    }
    found.instances = Some(instances);
    Ok(found)
}

async fn consul(consul: &Consul) -> Result<Found, Error> {
    let mut client = consul::client(consul);
    let datacenter = consul.datacenter.as_ref().map(|dc| format!("?dc={dc}")).unwrap_or_default();
    let path = format!("/v1/catalog/services{datacenter}");
    let answer = client.exchange(Method::GET, &path, Bytes::new(), consul.timeout).await?;
    let names = consul::wire::services(&answer.body);
    let names = names.map_err(|error| Error::Nonsense(client.server(), error.to_string()))?;
    let mut found = Found::default();
    for name in names {
        match service_name(&name) {
            Ok(()) => drop(found.services.insert(name)),
            Err(reason) => found.note(reason),
        }
    }
    Ok(found)
}

impl Found {
    fn note(&mut self, reason: String) {
        if self.bad.len() < BAD_SHOWN_MAX {
            self.bad.push(reason);
        }
    }
}
