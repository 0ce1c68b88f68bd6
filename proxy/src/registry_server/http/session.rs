//! `/v1/session`: holders of locks.

use std::time::Duration;

use hyper::body::Incoming;
use serde::Deserialize;

use super::Server;
use super::ask::{Answer, Ask, Problem, body_of};
use super::views::list;
use super::written::{WrittenTime, read};
use crate::registry_server::change::{Change, Refusal};
use crate::registry_server::keeper::Beat;
use crate::registry_server::model::{Name, Session, duration};
use crate::registry_server::state::{State, Topic};
use crate::registry_server::uuid;

const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);
const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
const TTL_MIN: Duration = Duration::from_secs(10);
const TTL_MAX: Duration = Duration::from_secs(86_400);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Written {
    name: Option<String>,
    node: Option<String>,
    lockdelay: Option<WrittenTime>,
    behavior: Option<String>,
    ttl: Option<String>,
    checks: Option<Vec<String>>,
    nodechecks: Option<Vec<String>>,
    servicechecks: Option<Vec<serde_json::Value>>,
}

impl Server {
    pub(super) async fn session(&self, ask: &Ask, path: &[&str], body: Incoming) -> Result<Answer, Problem> {
        self.own_datacenter(ask)?;
        match (ask.method.as_str(), path) {
            ("PUT", ["create"]) => {
                let body = body_of(body, self.settings.limits.body_bytes).await?;
                let written = if body.is_empty() { Written::default() } else { read(&body)? };
                let session = written.resolve(&self.registry.state(), &self.settings.node)?;
                let id = Name::clone(&session.id);
                self.registry.change(Change::CreateSession(session)).await?;
                Ok(Answer::json(&serde_json::json!({ "ID": id })))
            }
            ("PUT", ["destroy", id]) => {
                match self.registry.change(Change::DestroySession((*id).into())).await {
                    Ok(_) | Err(Refusal::Unknown(_)) => Ok(Answer::json(&true)),
                    Err(refusal) => Err(refusal.into()),
                }
            }
            ("PUT", ["renew", id]) => {
                let Some(session) = self.registry.state().sessions.get(*id).cloned() else {
                    return Err(Problem::unknown(format!("Session id {id:?} not found")));
                };
                // The keeper is there for as long as we are.
                let _ = self.beats.send(Beat::Session((*id).into())).await;
                Ok(Answer::json(&[&*session]))
            }
            ("GET" | "HEAD", ["info", id]) => {
                let view =
                    |state: &State| list(ask, state.sessions.get(*id).map(|s| &**s).into_iter().collect());
                self.read(ask, Topic::Sessions, |state| state.indexes.sessions, view).await
            }
            ("GET" | "HEAD", ["list"]) => {
                let view = |state: &State| {
                    list(ask, state.sessions.values().map(|session| &**session).collect::<Vec<_>>())
                };
                self.read(ask, Topic::Sessions, |state| state.indexes.sessions, view).await
            }
            ("GET" | "HEAD", ["node", node]) => {
                let view = |state: &State| {
                    let sessions = state.sessions.values().map(|session| &**session);
                    list(ask, sessions.filter(|session| &*session.node == *node).collect::<Vec<&Session>>())
                };
                self.read(ask, Topic::Sessions, |state| state.indexes.sessions, view).await
            }
            _ => Err(Problem::nothing_here(ask)),
        }
    }
}

impl Written {
    fn resolve(self, state: &State, own_node: &str) -> Result<Session, Problem> {
        let node = self.node.filter(|node| !node.is_empty()).unwrap_or_else(|| own_node.to_owned());
        if !state.nodes.contains(&*node) {
            return Err(Problem::bad(format!("Missing node registration: {node:?}")));
        }
        let checks = self.nodechecks.or(self.checks).unwrap_or_else(|| vec!["serfHealth".into()]);
        let bound = checks.iter().find(|check| !check.is_empty() && *check != "serfHealth");
        if bound.is_some() || self.servicechecks.is_some_and(|checks| !checks.is_empty()) {
            return Err(Problem::bad("sessions here are bound to no check but `serfHealth`; give a `TTL`"));
        }
        let behavior = self.behavior.filter(|text| !text.is_empty()).unwrap_or_else(|| "release".into());
        if !["release", "delete"].contains(&behavior.as_str()) {
            return Err(Problem::bad(format!("Invalid Behavior setting {behavior:?}")));
        }
        let ttl = self.ttl.unwrap_or_default();
        if !ttl.is_empty() {
            let valid = duration(&ttl).is_some_and(|ttl| (TTL_MIN..=TTL_MAX).contains(&ttl));
            if !valid {
                return Err(Problem::bad(format!(
                    "Invalid Session TTL {ttl:?}, must be between [10s=24h0m0s]"
                )));
            }
        }
        let delay = self.lockdelay.map(WrittenTime::seconds_or_duration).transpose()?;
        Ok(Session {
            id: uuid::random().into(),
            name: self.name.unwrap_or_default(),
            node: node.into(),
            lock_delay: delay.unwrap_or(LOCK_DELAY_DEFAULT).min(LOCK_DELAY_MAX),
            behavior,
            ttl,
            node_checks: checks,
            ..Session::default()
        })
    }
}
