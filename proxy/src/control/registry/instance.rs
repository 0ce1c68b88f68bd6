//! One instance as registries write it down, and what is known about all of them.
//!
//! The JSON form is the one documented for etcd, which other tools may write; the saved catalogue has it, too.
//! Invariant: one entry that cannot be read costs that instance alone, and is counted and logged once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::resolve::check;
use crate::metrics::Metrics;
use crate::snapshot::{EndpointRecord, EndpointStatus, Records};

const WEIGHT_MAX: u32 = 65_535;
/// Utilisation in thousandths; more says nothing more.
const LOAD_MAX: u32 = 10_000;
/// Unreadable entries that are remembered, so that each is logged once.
const BAD_MAX: usize = 1_000;

/// The value of an instance's key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Short for a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `ready`, `draining` or `down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Utilisation, 0 to 1 and beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
}

/// An instance with what is not part of its endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub record: EndpointRecord,
    /// Orders instances that claim the same address: the later one has it.
    pub revision: i64,
    /// In thousandths.
    pub load: Option<u32>,
}

/// Utilisation that an instance reports about itself, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub service: Arc<str>,
    pub address: SocketAddr,
    pub load: u32,
}

impl Written {
    pub fn of(record: &EndpointRecord) -> Self {
        Self {
            address: record.address.to_string(),
            weight: Some(record.weight),
            zone: record.zone.clone(),
            labels: record.labels.clone(),
            version: None,
            status: Some(status_name(record.status).to_owned()),
            load: None,
        }
    }

    pub fn record(self) -> Result<EndpointRecord, String> {
        let address: SocketAddr =
            self.address.parse().map_err(|_| format!("`{}` is not IP:port", self.address))?;
        if !check::is_reachable(address) {
            return Err(format!("nothing can be reached at {address}"));
        }
        let weight = self.weight.unwrap_or(1);
        if !(1..=WEIGHT_MAX).contains(&weight) {
            return Err(format!("weight {weight} is out of range: 1 to {WEIGHT_MAX}"));
        }
        let status = match self.status.as_deref() {
            None | Some("ready") => EndpointStatus::Ready,
            Some("draining") => EndpointStatus::Draining,
            Some("down") => EndpointStatus::Down,
            Some(other) => return Err(format!("`{other}` is not a status: ready, draining or down")),
        };
        let mut labels = self.labels;
        labels.extend(self.version.map(|version| ("version".to_owned(), version)));
        Ok(EndpointRecord { address, weight, zone: self.zone, labels, status })
    }
}

pub fn status_name(status: EndpointStatus) -> &'static str {
    match status {
        EndpointStatus::Ready => "ready",
        EndpointStatus::Draining => "draining",
        EndpointStatus::Down => "down",
    }
}

/// In thousandths, if it is a number at all.
pub fn load_of(utilisation: f64) -> Option<u32> {
    let usable = utilisation.is_finite() && utilisation >= 0.0;
    usable.then(|| (utilisation * 1000.0).min(f64::from(LOAD_MAX)) as u32)
}

impl Instance {
    pub fn read(value: &[u8], revision: i64) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let load = written.load.and_then(load_of);
        Ok(Self { record: written.record()?, revision, load })
    }
}

/// A name under which a service can be known.
pub fn service_name(name: &str) -> Result<(), String> {
    if check::is_dns_label(name) {
        return Ok(());
    }
    Err(format!("`{name}` cannot be the name of a service"))
}

/// All instances that a registry has told.
#[derive(Debug, Default)]
pub struct Directory {
    services: BTreeMap<Arc<str>, BTreeMap<String, Instance>>,
}

impl Directory {
    pub fn get(&self, service: &str, id: &str) -> Option<&Instance> {
        self.services.get(service)?.get(id)
    }

    pub fn put(&mut self, service: &str, id: &str, instance: Instance) {
        let name = match self.services.get_key_value(service) {
            Some((name, _)) => Arc::clone(name),
            None => service.into(),
        };
        self.services.entry(name).or_default().insert(id.to_owned(), instance);
    }

    pub fn remove(&mut self, service: &str, id: &str) {
        if let Some(instances) = self.services.get_mut(service) {
            instances.remove(id);
            if instances.is_empty() {
                self.services.remove(service);
            }
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    /// The endpoints of a service, in order of address; `None` if it has no instance.
    pub fn records(&self, service: &str) -> Option<Records> {
        let mut latest: BTreeMap<SocketAddr, &Instance> = BTreeMap::new();
        for instance in self.services.get(service)?.values() {
            let place = latest.entry(instance.record.address).or_insert(instance);
            if place.revision <= instance.revision {
                *place = instance;
            }
        }
        Some(latest.into_values().map(|instance| instance.record.clone()).collect())
    }

    pub fn loads(&self) -> Vec<Load> {
        let all = self.services.iter().flat_map(|(name, all)| all.values().map(move |i| (name, i)));
        all.filter_map(|(service, instance)| instance.load_at(service)).collect()
    }
}

impl Instance {
    pub fn load_at(&self, service: &Arc<str>) -> Option<Load> {
        Some(Load { service: Arc::clone(service), address: self.record.address, load: self.load? })
    }
}

/// Entries that could not be read: logged once each, counted every time.
#[derive(Debug, Default)]
pub struct BadEntries {
    known: HashMap<String, String>,
}

impl BadEntries {
    pub fn note(&mut self, metrics: &Metrics, key: &str, reason: String) {
        metrics.registry_bad_entries.inc();
        if self.known.get(key) == Some(&reason) || self.known.len() >= BAD_MAX {
            return;
        }
        tracing::warn!(key, reason, "an entry of the registry cannot be read; the others serve");
        self.known.insert(key.to_owned(), reason);
    }

    pub fn good(&mut self, key: &str) {
        self.known.remove(key);
    }
}

/// Whether a service is to be followed.
pub fn is_wanted(services: Option<&BTreeSet<String>>, name: &str) -> bool {
    services.is_none_or(|names| names.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Instance, String> {
        Instance::read(text.as_bytes(), 1)
    }

    #[test]
    fn reads_what_other_tools_may_write() {
        let full = r#"{"address": "10.0.0.7:80", "weight": 3, "zone": "b", "labels": {"a": "b"}, "version": "v2",
            "status": "draining", "load": 0.42, "unknown": [1]}"#;
        let instance = read(full).unwrap();
        assert_eq!((instance.record.weight, instance.load), (3, Some(420)));
        assert_eq!(instance.record.labels["version"], "v2");
        assert_eq!(instance.record.status, EndpointStatus::Draining);
        assert_eq!(Written::of(&instance.record).record().unwrap(), instance.record);
        assert_eq!(read(r#"{"address": "[::1]:80"}"#).unwrap().record.weight, 1);
        for bad in [
            "",
            "{",
            "[]",
            r#"{"address": "web:80"}"#,
            r#"{"address": "10.0.0.1:0"}"#,
            r#"{"address": "10.0.0.1:1", "weight": 0}"#,
            r#"{"address": "10.0.0.1:1", "weight": -1}"#,
            r#"{"address": "10.0.0.1:1", "status": "well"}"#,
            r#"{"address": "10.0.0.1:1", "labels": 7}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_later_instance_has_an_address() {
        let mut directory = Directory::default();
        let at = |address: &str, weight, revision| {
            let text = format!(r#"{{"address": "{address}", "weight": {weight}}}"#);
            Instance { revision, ..read(&text).unwrap() }
        };
        directory.put("web", "new", at("10.0.0.1:80", 2, 9));
        directory.put("web", "old", at("10.0.0.1:80", 1, 3));
        directory.put("web", "other", at("10.0.0.2:80", 1, 1));
        let records = directory.records("web").unwrap();
        assert_eq!((records.len(), records[0].weight), (2, 2));
        for id in ["new", "old", "other", "nobody"] {
            directory.remove("web", id);
        }
        assert!(directory.records("web").is_none() && directory.names().next().is_none());
    }
}
