//! `/v1/health`: services, checks and nodes with their status.

use super::Server;
use super::ask::{Answer, Ask, Problem};
use super::views::{Health, list};
use crate::registry_server::model::{Check, Map, NodeRow, Status};
use crate::registry_server::state::{Found, State, Topic};

impl Server {
    pub(super) async fn health(&self, ask: &Ask, path: &[&str]) -> Result<Answer, Problem> {
        self.own_datacenter(ask)?;
        match path {
            ["service", service @ ..] if !service.is_empty() => {
                let service = service.join("/");
                let index = |state: &State| state.service_index(&service);
                let view = |state: &State| service_health(ask, state, &service);
                self.read(ask, Topic::Service(service.as_str().into()), index, view).await
            }
            ["checks", service @ ..] if !service.is_empty() => {
                let service = service.join("/");
                let index = |state: &State| state.service_index(&service);
                let view = |state: &State| {
                    let instances = state.instances_of(&service).filter(|found| on_wanted_node(ask, found));
                    let checks = instances.flat_map(|found| found.node.checks_of(&found.instance.id));
                    list(ask, checks.map(|check| &**check).collect::<Vec<&Check>>())
                };
                self.read(ask, Topic::Service(service.as_str().into()), index, view).await
            }
            ["node", node] => {
                let view = |state: &State| {
                    let checks = state.nodes.get(*node).into_iter().flat_map(|node| node.checks.values());
                    list(ask, checks.map(|check| &**check).collect::<Vec<&Check>>())
                };
                let index = |state: &State| state.node_index(node);
                self.read(ask, Topic::Node((*node).into()), index, view).await
            }
            ["state", wanted] => {
                let status = Status::of(wanted);
                if status.is_none() && *wanted != "any" {
                    let message = "a state is one of any, passing, warning, critical";
                    return Err(Problem::bad(format!("{message}, not {wanted:?}")));
                }
                let view = |state: &State| {
                    let fits = |check: &&Check| status.is_none_or(|status| check.status == status);
                    list(ask, state.checks().map(|check| &**check).filter(fits).collect::<Vec<_>>())
                };
                self.read(ask, Topic::Checks, |state| state.indexes.checks, view).await
            }
            _ => Err(Problem::nothing_here(ask)),
        }
    }

    /// There is only one.
    pub(super) fn own_datacenter(&self, ask: &Ask) -> Result<(), Problem> {
        match ask.parameter("dc") {
            Some(dc) if !dc.is_empty() && dc != self.settings.datacenter => {
                // As Consul says it; 500 is what it answers, too.
                Err(Problem {
                    status: http::StatusCode::INTERNAL_SERVER_ERROR,
                    ..Problem::bad(format!("No path to datacenter {dc:?}"))
                })
            }
            _ => Ok(()),
        }
    }
}

fn service_health(ask: &Ask, state: &State, service: &str) -> Result<Answer, Problem> {
    let found = state.instances_of(service);
    let found = found.filter(|found| on_wanted_node(ask, found) && has_tags(ask, &found.instance.tags));
    let healthy = match ask.parameter("passing") {
        None => false,
        Some("" | "1" | "true") => true,
        Some("0" | "false") => false,
        Some(other) => return Err(Problem::bad(format!("Invalid value for ?passing: {other:?}"))),
    };
    let shown = found.map(Health::of).filter(|health| !healthy || health.is_passing());
    list(ask, shown.collect())
}

/// All that are given.
pub(super) fn has_tags(ask: &Ask, tags: &[String]) -> bool {
    let has = |tag: &str| tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    ask.parameters("tag").filter(|tag| !tag.is_empty()).all(has)
}

pub(super) fn on_wanted_node(ask: &Ask, found: &Found<'_>) -> bool {
    is_wanted_node(ask, &found.node.row)
}

/// All of `node-meta=KEY:VALUE`.
pub(super) fn is_wanted_node(ask: &Ask, row: &NodeRow) -> bool {
    let has = |meta: &Map, pair: &str| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        meta.get(key).is_some_and(|own| own == value)
    };
    ask.parameters("node-meta").all(|pair| has(&row.meta, pair))
}
