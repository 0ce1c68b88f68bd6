//! `/v1/catalog`: what is there, regardless of health; and registration for nodes without an agent.

use std::collections::{BTreeMap, BTreeSet};

use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::Server;
use super::ask::{Answer, Ask, Problem, body_of};
use super::health::{has_tags, is_wanted_node, on_wanted_node};
use super::views::{agent_service, catalog_service, list};
use super::written::{WrittenDeregistration, WrittenNode, read};
use crate::registry_server::change::Change;
use crate::registry_server::model::NodeRow;
use crate::registry_server::state::{State, Topic};

impl Server {
    pub(super) async fn catalog(&self, ask: &Ask, path: &[&str], body: Incoming) -> Result<Answer, Problem> {
        if ask.method == http::Method::PUT {
            return self.catalog_change(ask, path, body).await;
        }
        self.own_datacenter(ask)?;
        match path {
            ["datacenters"] => Ok(Answer::json(&[&self.settings.datacenter])),
            ["nodes"] => {
                let view = |state: &State| {
                    let rows = state.nodes.values().map(|node| &*node.row);
                    list(ask, rows.filter(|row| is_wanted_node(ask, row)).collect::<Vec<&NodeRow>>())
                };
                self.read(ask, Topic::Nodes, |state| state.indexes.nodes, view).await
            }
            ["services"] => {
                let index = |state: &State| state.indexes.services;
                self.read(ask, Topic::Services, index, |state| Ok(services(ask, state))).await
            }
            ["service", service @ ..] if !service.is_empty() => {
                let service = service.join("/");
                let view = |state: &State| {
                    let found = state.instances_of(&service);
                    let found = found
                        .filter(|found| on_wanted_node(ask, found) && has_tags(ask, &found.instance.tags));
                    list(ask, found.map(catalog_service).collect())
                };
                let index = |state: &State| state.service_index(&service);
                self.read(ask, Topic::Service(service.as_str().into()), index, view).await
            }
            ["node", node] => {
                let index = |state: &State| state.node_index(node);
                let view = |state: &State| Ok(self.catalog_node(state, node));
                self.read(ask, Topic::Node((*node).into()), index, view).await
            }
            ["node-services", node] => {
                let index = |state: &State| state.node_index(node);
                let view = |state: &State| {
                    let node = state.nodes.get(*node);
                    let services = node.into_iter().flat_map(|node| node.instances.values());
                    let dc = &self.settings.datacenter;
                    let services: Vec<Value> = services.map(|instance| agent_service(instance, dc)).collect();
                    Ok(Answer::json(&json!({ "Node": node.map(|node| &*node.row), "Services": services })))
                };
                self.read(ask, Topic::Node((*node).into()), index, view).await
            }
            _ => Err(Problem::nothing_here(ask)),
        }
    }

    fn catalog_node(&self, state: &State, name: &str) -> Answer {
        // As Consul does: `null`, not 404.
        let Some(node) = state.nodes.get(name) else { return Answer::json(&Value::Null) };
        let dc = &self.settings.datacenter;
        let services: Map<String, Value> = node
            .instances
            .iter()
            .map(|(id, instance)| (id.to_string(), agent_service(instance, dc)))
            .collect();
        Answer::json(&json!({ "Node": &*node.row, "Services": services }))
    }

    async fn catalog_change(&self, ask: &Ask, path: &[&str], body: Incoming) -> Result<Answer, Problem> {
        let body = body_of(body, self.settings.limits.body_bytes).await?;
        match path {
            ["register"] => {
                let written: WrittenNode = read(&body)?;
                let registration = written.resolve(&self.settings)?;
                self.registry.change(Change::Register(Box::new(registration))).await?;
            }
            ["deregister"] => {
                let change = read::<WrittenDeregistration>(&body)?.resolve(&self.settings)?;
                // What is not there is gone already, says Consul.
                match self.registry.change(change).await {
                    Ok(_) | Err(crate::registry_server::change::Refusal::Unknown(_)) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            _ => return Err(Problem::nothing_here(ask)),
        }
        Ok(Answer::json(&true))
    }
}

/// Names with all tags of their instances.
fn services(ask: &Ask, state: &State) -> Answer {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in state.services.iter().map(|(name, _)| name) {
        for found in state.instances_of(name).filter(|found| on_wanted_node(ask, found)) {
            names.entry(name).or_default().extend(found.instance.tags.iter().map(String::as_str));
        }
    }
    Answer::compact(&names)
}
