//! Rows in the forms in which clients expect them.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::ask::{Answer, Ask, Problem};
use super::filter;
use crate::registry_server::model::{Check, Instance, NodeRow, Status};
use crate::registry_server::state::Found;

/// One entry of `/v1/health/service`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Health<'a> {
    node: &'a NodeRow,
    service: &'a Instance,
    checks: Vec<&'a Check>,
}

impl<'a> Health<'a> {
    pub(super) fn of(found: Found<'a>) -> Self {
        let checks = found.checks().into_iter().map(|check| &**check).collect();
        Self { node: &found.node.row, service: found.instance, checks }
    }

    pub(super) fn is_passing(&self) -> bool {
        self.checks.iter().all(|check| check.status == Status::Passing)
    }
}

/// One entry of `/v1/catalog/service`: node and service side by side.
pub(super) fn catalog_service(found: Found<'_>) -> Value {
    let (node, instance) = (&found.node.row, found.instance);
    json!({
        "ID": node.id,
        "Node": node.name,
        "Address": node.address,
        "Datacenter": node.datacenter,
        "TaggedAddresses": node.tagged_addresses,
        "NodeMeta": node.meta,
        "ServiceKind": "",
        "ServiceID": instance.id,
        "ServiceName": instance.service,
        "ServiceTags": instance.tags,
        "ServiceAddress": instance.address,
        "ServiceTaggedAddresses": instance.tagged_addresses,
        "ServiceWeights": instance.weights,
        "ServiceMeta": instance.meta,
        "ServicePort": instance.port,
        "ServiceEnableTagOverride": instance.enable_tag_override,
        "CreateIndex": instance.create_index,
        "ModifyIndex": instance.modify_index,
    })
}

/// An instance as its agent shows it.
pub(super) fn agent_service(instance: &Instance, datacenter: &str) -> Value {
    json!({
        "ID": instance.id,
        "Service": instance.service,
        "Tags": instance.tags,
        "Meta": instance.meta,
        "Port": instance.port,
        "Address": instance.address,
        "TaggedAddresses": instance.tagged_addresses,
        "Weights": instance.weights,
        "EnableTagOverride": instance.enable_tag_override,
        "Datacenter": datacenter,
    })
}

/// The same number for the same content.
pub(super) fn content_hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The worst of all.
pub(super) fn aggregated<'a>(checks: impl Iterator<Item = &'a Arc<Check>>) -> Aggregate {
    let mut worst = Aggregate::Is(Status::Passing);
    for check in checks {
        worst = match worst {
            _ if check.kind == "maintenance" => return Aggregate::Maintenance,
            Aggregate::Is(status) => Aggregate::Is(status.max(check.status)),
            Aggregate::Maintenance => worst,
        };
    }
    worst
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Is(Status),
    Maintenance,
}

impl Aggregate {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Is(status) => status.as_str(),
            Self::Maintenance => "maintenance",
        }
    }
}

/// A list, less what `filter` leaves out.
pub(super) fn list<T: Serialize>(ask: &Ask, items: Vec<T>) -> Result<Answer, Problem> {
    let Some(filter) = filter::of(ask)? else { return Ok(Answer::compact(&items)) };
    let mut kept = Vec::new();
    for item in items {
        let value = serde_json::to_value(item).unwrap_or_default();
        if filter.holds(&value).map_err(Problem::bad)? {
            kept.push(value);
        }
    }
    Ok(Answer::json(&kept))
}

/// The same for a mapping by id.
pub(super) fn mapping(ask: &Ask, items: impl Iterator<Item = (String, Value)>) -> Result<Answer, Problem> {
    let filter = filter::of(ask)?;
    let mut kept = Map::new();
    for (id, value) in items {
        let holds = filter.as_ref().map_or(Ok(true), |filter| filter.holds(&value));
        if holds.map_err(Problem::bad)? {
            kept.insert(id, value);
        }
    }
    Ok(Answer::json(&kept))
}
