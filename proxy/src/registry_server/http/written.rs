//! Bodies of requests, as clients write them.
//!
//! Consul takes names of fields in any case and with or without underscores, so they are made alike before they are
//! read. What this registry does not do is refused where leaving it out would change what happens (other kinds of
//! checks, Connect); unknown fields are ignored, as Consul does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ask::Problem;
use crate::registry_server::change::{Change, Registration};
use crate::registry_server::model::{Check, Instance, Map, Name, NodeRow, ServiceAddress, Weights, duration};
use crate::registry_server::settings::Settings;

mod check;

pub(super) use check::WrittenCheck;

const NAME_BYTES_MAX: usize = 255;
/// As Consul has them.
const META_PAIRS_MAX: usize = 64;
const META_KEY_BYTES_MAX: usize = 128;
const META_VALUE_BYTES_MAX: usize = 512;
/// Mappings whose keys are the client's own.
const OWN_KEYS: [&str; 3] = ["meta", "nodemeta", "header"];

/// The body as a value of this type.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let wrong = |error: serde_json::Error| Problem::bad(format!("Request decode failed: {error}"));
    let value: Value = serde_json::from_slice(body).map_err(wrong)?;
    serde_json::from_value(normal(value)).map_err(wrong)
}

/// Names of fields in lower case, without underscores.
pub(super) fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name.to_lowercase().replace('_', ""), value))
            .map(|(name, value)| {
                let value = match value {
                    value if OWN_KEYS.contains(&name.as_str()) => value,
                    Value::Object(inner) if name == "taggedaddresses" => {
                        inner.into_iter().map(|(key, value)| (key, normal(value))).collect()
                    }
                    value => normal(value),
                };
                (name, value)
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        value => value,
    }
}

/// Of `/v1/agent/service/register`, and the `Service` of the catalogue's.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct WrittenService {
    id: Option<String>,
    #[serde(alias = "service")]
    name: Option<String>,
    tags: Option<Vec<String>>,
    address: Option<String>,
    port: Option<u16>,
    meta: Option<Map>,
    taggedaddresses: Option<BTreeMap<String, ServiceAddress>>,
    weights: Option<Weights>,
    enabletagoverride: bool,
    check: Option<WrittenCheck>,
    checks: Option<Vec<WrittenCheck>>,
    kind: Option<String>,
    connect: Option<Value>,
    proxy: Option<Value>,
}

/// Of `/v1/catalog/register`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct WrittenNode {
    id: Option<String>,
    node: Option<String>,
    address: Option<String>,
    taggedaddresses: Option<Map>,
    nodemeta: Option<Map>,
    service: Option<WrittenService>,
    check: Option<WrittenCheck>,
    checks: Option<Vec<WrittenCheck>>,
    skipnodeupdate: bool,
}

/// Of `/v1/catalog/deregister`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct WrittenDeregistration {
    node: Option<String>,
    serviceid: Option<String>,
    checkid: Option<String>,
}

/// Nanoseconds, or a text with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum WrittenTime {
    Number(u64),
    Text(String),
}

impl WrittenTime {
    /// As Consul reads a lock delay: small numbers are seconds.
    pub(super) fn seconds_or_duration(self) -> Result<Duration, Problem> {
        match self {
            Self::Number(number) if number < 1000 => Ok(Duration::from_secs(number)),
            Self::Number(number) => Ok(Duration::from_nanos(number)),
            Self::Text(text) => duration(&text).ok_or_else(|| not_a_duration(&text)),
        }
    }
}

fn not_a_duration(text: &str) -> Problem {
    Problem::bad(format!("{text:?} is not a duration, as in `10s` or `1m30s`"))
}

impl WrittenService {
    /// Through the agent, for its own node.
    pub(super) fn registration(self, settings: &Settings, replace: bool) -> Result<Registration, Problem> {
        let node = Name::from(settings.node.as_str());
        let (instance, checks) = self.resolve(&node, settings)?;
        Ok(Registration {
            node,
            instance: Some(instance),
            checks,
            replace_checks: replace,
            keep_status: true,
            ..Registration::default()
        })
    }

    fn resolve(mut self, node: &Name, settings: &Settings) -> Result<(Instance, Vec<Check>), Problem> {
        let foreign = [("Connect", &self.connect), ("Proxy", &self.proxy)];
        if let Some((name, _)) = foreign.iter().find(|(_, value)| !is_empty(value.as_ref())) {
            return Err(Problem::bad(format!("`{name}`: this registry knows no service mesh")));
        }
        if self.kind.as_ref().is_some_and(|kind| !kind.is_empty()) {
            return Err(Problem::bad("`Kind`: this registry knows no service mesh"));
        }
        let name = self.name.take().or_else(|| self.id.clone()).unwrap_or_default();
        let service = checked_name(&name, "Missing service name", "a service's name")?;
        let id = self.id.take().filter(|id| !id.is_empty()).unwrap_or(name);
        let id = checked_name(&id, "Missing service ID", "a service's id")?;
        let checks: Vec<WrittenCheck> =
            self.check.take().into_iter().chain(self.checks.take().unwrap_or_default()).collect();
        let many = checks.len() > 1;
        let checks = checks.into_iter().enumerate().map(|(place, mut check)| {
            if check.id.as_ref().is_none_or(String::is_empty) {
                let place = if many { format!(":{}", place + 1) } else { String::new() };
                check.id = Some(format!("service:{id}{place}"));
            }
            if check.name.as_ref().is_none_or(String::is_empty) {
                check.name = Some(format!("Service '{service}' check"));
            }
            check.serviceid = Some(id.to_string());
            check.resolve(node, settings, true)
        });
        let checks = checks.collect::<Result<Vec<Check>, Problem>>()?;
        let instance = Instance {
            id: Name::clone(&id),
            service,
            tags: self.tags.unwrap_or_default(),
            address: self.address.unwrap_or_default(),
            tagged_addresses: self.taggedaddresses.unwrap_or_default(),
            meta: checked_meta(self.meta)?,
            port: self.port.unwrap_or(0),
            weights: self.weights.unwrap_or_default(),
            enable_tag_override: self.enabletagoverride,
            ..Instance::default()
        };
        Ok((instance, checks))
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.values().all(|value| is_empty(Some(value))),
        Some(_) => false,
    }
}

fn checked_name(name: &str, missing: &str, what: &str) -> Result<Name, Problem> {
    if name.is_empty() {
        return Err(Problem::bad(missing));
    }
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::bad(format!(
            "{what} has at most {NAME_BYTES_MAX} bytes, none of them control characters"
        )));
    }
    Ok(name.into())
}

fn checked_meta(meta: Option<Map>) -> Result<Map, Problem> {
    let meta = meta.unwrap_or_default();
    let too_long = |(key, value): (&String, &String)| {
        key.len() > META_KEY_BYTES_MAX || value.len() > META_VALUE_BYTES_MAX
    };
    if meta.len() > META_PAIRS_MAX || meta.iter().any(too_long) {
        return Err(Problem::bad(format!(
            "Invalid metadata: at most {META_PAIRS_MAX} pairs, keys of {META_KEY_BYTES_MAX} bytes and values of \
             {META_VALUE_BYTES_MAX}"
        )));
    }
    Ok(meta)
}

impl WrittenNode {
    pub(super) fn resolve(self, settings: &Settings) -> Result<Registration, Problem> {
        let name = checked_name(&self.node.unwrap_or_default(), "Must provide node", "a node's name")?;
        if name.contains('/') {
            return Err(Problem::bad("a node's name holds no slash"));
        }
        let address = self.address.unwrap_or_default();
        if address.is_empty() && !self.skipnodeupdate {
            return Err(Problem::bad("Must provide address if SkipNodeUpdate is not set"));
        }
        let row = NodeRow {
            id: self.id.unwrap_or_default(),
            name: Name::clone(&name),
            address,
            datacenter: settings.datacenter.clone(),
            tagged_addresses: self.taggedaddresses.unwrap_or_default(),
            meta: checked_meta(self.nodemeta)?,
            ..NodeRow::default()
        };
        // Its own row is the registry's to write.
        let own = *name == *settings.node;
        let (instance, mut checks) = match self.service {
            Some(service) => {
                let (instance, checks) = service.resolve(&name, settings)?;
                (Some(instance), checks)
            }
            None => (None, Vec::new()),
        };
        for check in self.check.into_iter().chain(self.checks.unwrap_or_default()) {
            checks.push(check.resolve(&name, settings, false)?);
        }
        Ok(Registration {
            node: name,
            row: (!own && !self.skipnodeupdate).then_some(row),
            instance,
            checks,
            ..Registration::default()
        })
    }
}

impl WrittenDeregistration {
    pub(super) fn resolve(self, settings: &Settings) -> Result<Change, Problem> {
        let node = checked_name(&self.node.unwrap_or_default(), "Must provide node", "a node's name")?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Name::from);
        match (given(self.serviceid), given(self.checkid)) {
            (Some(id), _) => Ok(Change::DeregisterInstance { node, id }),
            (None, Some(id)) => Ok(Change::DeregisterCheck { node, id }),
            (None, None) if *node == *settings.node => {
                Err(Problem::bad("the registry's own node stays for as long as it runs"))
            }
            (None, None) => Ok(Change::DeregisterNode(node)),
        }
    }
}
