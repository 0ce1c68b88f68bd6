//! What Consul says about services, and what it wants to hear about one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Register;
use crate::control::registry::instance::{Instance, Written, load_of};

/// Where a check's output tells the load.
const LOAD: &str = "load=";
/// The shortest that Consul takes.
const DEREGISTER_AFTER: &str = "1m";

/// One element of `/v1/health/service/<name>`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    node: Option<Node>,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u32,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
    #[serde(default)]
    modify_index: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID", default)]
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    output: String,
}

/// The names in an answer of `/v1/catalog/services`, without Consul's own.
pub fn services(body: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let all: BTreeMap<String, Value> = serde_json::from_slice(body)?;
    Ok(all.into_keys().filter(|name| name != "consul").collect())
}

/// An entry of a wrong form costs itself, not the rest.
pub fn entries(body: &[u8]) -> Result<Vec<Known>, serde_json::Error> {
    let all: Vec<Value> = serde_json::from_slice(body)?;
    Ok(all.into_iter().map(Known).collect())
}

/// An element of an answer.
#[derive(Debug)]
pub struct Known(Value);

impl Known {
    pub fn id(&self) -> &str {
        self.0["Service"]["ID"].as_str().unwrap_or("?")
    }

    pub fn instance(&self) -> Result<Instance, String> {
        Entry::deserialize(&self.0).map_err(|error| error.to_string())?.instance()
    }
}

impl Entry {
    fn instance(self) -> Result<Instance, String> {
        let Self { node, service, checks } = self;
        let host = match service.address.is_empty() {
            true => node.map(|node| node.address).unwrap_or_default(),
            false => service.address,
        };
        let ip: std::net::IpAddr =
            host.parse().map_err(|_| format!("`{host}` is no IP address, and names are not looked up"))?;
        let port = u16::try_from(service.port).map_err(|_| format!("{} is not a port", service.port))?;
        let mut labels = service.meta.unwrap_or_default();
        let zone = labels.remove("zone").unwrap_or_default();
        labels.extend(service.tags.into_iter().flatten().map(|tag| (format!("tag-{tag}"), String::new())));
        let checks = checks.unwrap_or_default();
        let critical = |check: &&Check| check.status == "critical" || check.status == "maintenance";
        let maintenance =
            |id: &str| id == "_node_maintenance" || id == format!("_service_maintenance:{}", service.id);
        let status = match checks.iter().find(critical) {
            None => "ready",
            Some(_) if checks.iter().any(|c| critical(&c) && maintenance(&c.id)) => "draining",
            Some(_) => "down",
        };
        let weight = service.weights.map_or(1, |weights| weights.passing.clamp(1, 65_535));
        let written = Written {
            address: std::net::SocketAddr::new(ip, port).to_string(),
            weight: u32::try_from(weight).ok(),
            zone,
            labels,
            status: Some(status.to_owned()),
            ..Written::default()
        };
        let load = checks.iter().find_map(|check| check.output.strip_prefix(LOAD)?.trim().parse().ok());
        let load = load.and_then(load_of);
        Ok(Instance { record: written.record()?, revision: service.modify_index, load })
    }
}

/// The body of `/v1/agent/service/register`. The entry is critical until the first update of its check says otherwise.
pub fn registration(register: &Register) -> Value {
    let mut meta = register.labels.clone();
    if !register.zone.is_empty() {
        meta.insert("zone".to_owned(), register.zone.clone());
    }
    json!({
        "ID": register.id,
        "Name": register.service,
        "Address": register.address.ip().to_string(),
        "Port": register.address.port(),
        "Meta": meta,
        "Weights": { "Passing": register.weight, "Warning": 1 },
        "Check": {
            "CheckID": check_id(register),
            "Name": "outrigger",
            "TTL": format!("{}s", register.ttl.as_secs()),
            "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
        },
    })
}

/// The body of `/v1/agent/check/update/<id>`.
pub fn update(healthy: bool, load: Option<f64>) -> Value {
    let status = if healthy { "passing" } else { "critical" };
    json!({ "Status": status, "Output": load.map(|load| format!("{LOAD}{load:.3}")).unwrap_or_default() })
}

pub fn check_id(register: &Register) -> String {
    format!("service:{}", register.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::EndpointStatus;

    fn one(text: &str) -> Result<Instance, String> {
        entries(format!("[{text}]").as_bytes()).unwrap()[0].instance()
    }

    #[test]
    fn maps_an_instance_to_an_endpoint() {
        let full = r#"{"Node": {"Node": "n1", "Address": "10.0.0.9"},
            "Service": {"ID": "web-1", "Service": "web", "Tags": ["blue"], "Address": "10.0.0.7", "Port": 80,
                "Meta": {"zone": "b", "version": "v2"}, "Weights": {"Passing": 3, "Warning": 1}, "ModifyIndex": 12},
            "Checks": [{"CheckID": "serfHealth", "Status": "passing", "Output": "Agent alive"},
                {"CheckID": "service:web-1", "Status": "passing", "Output": "load=0.250"}]}"#;
        let instance = one(full).unwrap();
        let record = &instance.record;
        assert_eq!(
            (record.address.to_string(), record.weight, &*record.zone),
            ("10.0.0.7:80".into(), 3, "b")
        );
        let labels: Vec<_> = record.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("tag-blue", ""), ("version", "v2")]);
        assert_eq!((record.status, instance.load, instance.revision), (EndpointStatus::Ready, Some(250), 12));
        let plain = r#"{"Node": {"Address": "10.0.0.9"},
            "Service": {"Address": "", "Port": 80, "Tags": null, "Meta": null}, "Checks": CHECKS}"#;
        let status = |checks: &str| one(&plain.replace("CHECKS", checks)).unwrap().record.status;
        assert_eq!(one(&plain.replace("CHECKS", "null")).unwrap().record.address.to_string(), "10.0.0.9:80");
        assert_eq!(status(r#"[{"CheckID": "a", "Status": "warning"}]"#), EndpointStatus::Ready);
        assert_eq!(status(r#"[{"CheckID": "a", "Status": "critical"}]"#), EndpointStatus::Down);
        let maintenance = r#"[{"CheckID": "_node_maintenance", "Status": "critical"}]"#;
        assert_eq!(status(maintenance), EndpointStatus::Draining);
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        for bad in [
            "7",
            "{}",
            r#"{"Service": {"Address": "web.internal", "Port": 80}}"#,
            r#"{"Service": {"Address": "10.0.0.1", "Port": 0}}"#,
            r#"{"Service": {"Address": "10.0.0.1", "Port": 70000}}"#,
        ] {
            assert!(one(bad).is_err(), "{bad}");
        }
        assert_eq!(services(br#"{"consul": [], "web": ["a"]}"#).unwrap(), ["web"]);
        assert!(services(b"[]").is_err() && entries(b"{").is_err());
    }
}
