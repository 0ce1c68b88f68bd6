//! `/v1/agent`: what is registered on the registry's own node.

use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use super::ask::{Answer, Ask, Problem, body_of};
use super::views::{Aggregate, agent_service, aggregated, content_hash, mapping};
use super::written::{WrittenCheck, WrittenService, read};
use crate::registry_server::change::{Change, NODE_MAINTENANCE, unknown_check, unknown_service};
use crate::registry_server::keeper::Beat;
use crate::registry_server::model::{Check, Instance, Name, Status};
use crate::registry_server::state::{Node, State};

impl Server {
    pub(super) async fn agent(&self, ask: &Ask, path: &[&str], body: Incoming) -> Result<Answer, Problem> {
        if ask.method == http::Method::PUT {
            return self.agent_change(ask, path, body).await;
        }
        let state = self.registry.state();
        let Some(node) = state.nodes.get(&*self.settings.node) else {
            return Err(Problem::nothing_here(ask));
        };
        match path {
            ["self"] => Ok(self.agent_self(node)),
            ["members"] => Ok(Answer::json(&[self.member(node)])),
            ["services"] => {
                let services = node.instances.iter();
                let dc = &self.settings.datacenter;
                mapping(ask, services.map(|(id, instance)| (id.to_string(), agent_service(instance, dc))))
            }
            ["checks"] => {
                let checks = node.checks.values().filter(|check| *check.id != *"serfHealth");
                let shown = checks.map(|check| (check.id.to_string(), serde_json::to_value(&**check)));
                mapping(ask, shown.map(|(id, value)| (id, value.unwrap_or_default())))
            }
            ["service", id @ ..] if !id.is_empty() => {
                let id = id.join("/");
                let instance = node.instances.get(&*id);
                let instance = instance.ok_or_else(|| Problem::from(unknown_service(&id)))?;
                let mut shown = agent_service(instance, &self.settings.datacenter);
                shown["ContentHash"] = content_hash(&shown).into();
                Ok(Answer::json(&shown))
            }
            ["health", "service", "id", id @ ..] if !id.is_empty() => {
                let instance = node.instances.get(&*id.join("/"));
                self.instance_health(ask, node, instance.map(|instance| &**instance))
            }
            ["health", "service", "name", name @ ..] if !name.is_empty() => {
                self.service_health(ask, &state, &name.join("/"))
            }
            _ => Err(Problem::nothing_here(ask)),
        }
    }

    fn agent_self(&self, node: &Node) -> Answer {
        let settings = &self.settings;
        Answer::json(&json!({
            "Config": {
                "Datacenter": settings.datacenter,
                "NodeName": settings.node,
                "NodeID": node.row.id,
                "Server": true,
                "Revision": "outrigger",
                "Version": env!("CARGO_PKG_VERSION"),
            },
            "DebugConfig": {},
            "Member": self.member(node),
            "Meta": node.row.meta,
        }))
    }

    fn member(&self, node: &Node) -> Value {
        json!({
            "Name": self.settings.node,
            "Addr": node.row.address,
            "Port": self.address.port(),
            "Tags": { "dc": self.settings.datacenter, "role": "consul", "id": node.row.id },
            "Status": 1,
        })
    }

    fn instance_health(
        &self,
        ask: &Ask,
        node: &Node,
        instance: Option<&Instance>,
    ) -> Result<Answer, Problem> {
        let Some(instance) = instance else {
            return Err(Problem::unknown("ServiceId does not exist on this agent"));
        };
        let (aggregate, shown) = self.judged(node, instance);
        let answer = if ask.parameter("format") == Some("text") {
            Answer::text(aggregate.as_str(), "text/plain; charset=utf-8")
        } else {
            Answer::json(&shown)
        };
        Ok(answer.with_status(status_of(aggregate)))
    }

    fn service_health(&self, ask: &Ask, state: &State, name: &str) -> Result<Answer, Problem> {
        let own = state.instances_of(name).filter(|found| *found.node.row.name == *self.settings.node);
        let judged: Vec<(Aggregate, Value)> =
            own.map(|found| self.judged(found.node, found.instance)).collect();
        let rank = |aggregate: &Aggregate| match aggregate {
            Aggregate::Is(status) => *status as u8,
            Aggregate::Maintenance => u8::MAX,
        };
        let Some(worst) = judged.iter().map(|(aggregate, _)| *aggregate).max_by_key(rank) else {
            return Err(Problem::unknown("ServiceName does not exist on this agent"));
        };
        let answer = if ask.parameter("format") == Some("text") {
            Answer::text(worst.as_str(), "text/plain; charset=utf-8")
        } else {
            Answer::json(&judged.into_iter().map(|(_, shown)| shown).collect::<Vec<_>>())
        };
        Ok(answer.with_status(status_of(worst)))
    }

    fn judged(&self, node: &Node, instance: &Instance) -> (Aggregate, Value) {
        let maintenance = node.check(NODE_MAINTENANCE).into_iter();
        let checks: Vec<_> = node.checks_of(&instance.id).chain(maintenance).collect();
        let aggregate = aggregated(checks.iter().copied());
        let checks: Vec<&Check> = checks.iter().map(|check| &***check).collect();
        let service = agent_service(instance, &self.settings.datacenter);
        let shown = json!({ "AggregatedStatus": aggregate.as_str(), "Service": service, "Checks": checks });
        (aggregate, shown)
    }

    async fn agent_change(&self, ask: &Ask, path: &[&str], body: Incoming) -> Result<Answer, Problem> {
        let body = body_of(body, self.settings.limits.body_bytes).await?;
        let node = Name::from(self.settings.node.as_str());
        let change = match path {
            ["service", "register"] => {
                let replace = ask.parameter("replace-existing-checks").is_some_and(|value| value != "false");
                let registration = read::<WrittenService>(&body)?.registration(&self.settings, replace)?;
                Change::Register(Box::new(registration))
            }
            ["service", "deregister", id @ ..] if !id.is_empty() => {
                Change::DeregisterInstance { node, id: id.join("/").into() }
            }
            ["service", "maintenance", id @ ..] if !id.is_empty() => {
                return self.maintenance(ask, Some(&id.join("/"))).await;
            }
            ["maintenance"] => return self.maintenance(ask, None).await,
            ["check", "register"] => {
                Change::Register(Box::new(read::<WrittenCheck>(&body)?.registration(&self.settings)?))
            }
            ["check", "deregister", id @ ..] if !id.is_empty() => {
                Change::DeregisterCheck { node, id: id.join("/").into() }
            }
            ["check", word @ ("pass" | "warn" | "fail"), id @ ..] if !id.is_empty() => {
                let status = match *word {
                    "pass" => Status::Passing,
                    "warn" => Status::Warning,
                    _ => Status::Critical,
                };
                let note = ask.parameter("note").unwrap_or_default().to_owned();
                return self.report(&id.join("/"), status, note).await;
            }
            ["check", "update", id @ ..] if !id.is_empty() => {
                let update: WrittenUpdate = read(&body)?;
                let Some(status) = Status::of(&update.status) else {
                    return Err(Problem::bad(format!("Invalid check status: {:?}", update.status)));
                };
                return self.report(&id.join("/"), status, update.output).await;
            }
            _ => return Err(Problem::nothing_here(ask)),
        };
        self.registry.change(change).await?;
        Ok(Answer::empty())
    }

    /// A sign of life of a TTL check. One that says nothing new is written nowhere.
    async fn report(&self, id: &str, status: Status, output: String) -> Result<Answer, Problem> {
        let state = self.registry.state();
        let node = Name::from(self.settings.node.as_str());
        let check =
            state.nodes.get(&node).and_then(|node| node.check(id)).ok_or_else(|| unknown_check(id))?;
        if check.definition.ttl.is_zero() {
            return Err(Problem::bad(format!("CheckID {id:?} does not have associated TTL")));
        }
        // The keeper is there for as long as we are.
        let _ = self.beats.send(Beat::Check(id.into())).await;
        if check.status != status || check.output != output {
            let change = Change::Report { node, id: id.into(), status, output: Some(output) };
            self.registry.change(change).await?;
        }
        Ok(Answer::empty())
    }
}

#[derive(Deserialize)]
struct WrittenUpdate {
    status: String,
    #[serde(default)]
    output: String,
}

fn status_of(aggregate: Aggregate) -> StatusCode {
    match aggregate {
        Aggregate::Is(Status::Passing) => StatusCode::OK,
        Aggregate::Is(Status::Warning) => StatusCode::TOO_MANY_REQUESTS,
        Aggregate::Is(Status::Critical) | Aggregate::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
    }
}
