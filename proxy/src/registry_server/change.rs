//! What clients and checks may ask for, decided one at a time and in order by the writer.
//!
//! `apply` works on a copy: a change that is refused leaves no trace, and a transaction is all or nothing.

use std::time::Instant;

use super::edit::{Edit, Touched};
use super::model::{Check, Instance, Name, NodeRow, Session, Status};
use super::settings::Limits;
use super::state::State;

mod kv;

pub(crate) use kv::{KvDone, KvOp, KvVerb};

/// Check ids that maintenance uses.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
pub(crate) const SERVICE_MAINTENANCE: &str = "_service_maintenance:";
/// What a check may say of itself.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) enum Change {
    /// An instance with its checks.
    Register(Box<Registration>),
    DeregisterInstance {
        node: Name,
        id: Name,
    },
    DeregisterCheck {
        node: Name,
        id: Name,
    },
    DeregisterNode(Name),
    Report {
        node: Name,
        id: Name,
        status: Status,
        /// `None` leaves it as it is.
        output: Option<String>,
    },
    /// Of a node, if no instance is named.
    Maintenance {
        node: Name,
        instance: Option<Name>,
        /// The reason; `None` ends it.
        on: Option<String>,
    },
    Kv(KvOp),
    Txn(Vec<KvOp>),
    CreateSession(Session),
    DestroySession(Name),
}

/// What is registered in one go.
#[derive(Debug, Default)]
pub(crate) struct Registration {
    pub(crate) node: Name,
    /// Left as it is if `None`; the node must exist then.
    pub(crate) row: Option<NodeRow>,
    pub(crate) instance: Option<Instance>,
    pub(crate) checks: Vec<Check>,
    /// Checks of the instance that are not among `checks` go.
    pub(crate) replace_checks: bool,
    /// A check that exists keeps its status.
    pub(crate) keep_status: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Done {
    AsAsked,
    /// Of a conditional change: whether it was made.
    Made(bool),
    Txn(Vec<KvDone>),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Invalid(String),
    #[error(
        "the registry is full: {table} may number {max}; raise `limits.{table}`, or move to Consul or etcd"
    )]
    Full { table: &'static str, max: usize },
    /// The operation at fault, by its place, and why.
    #[error("operation {0} of the transaction: {1}")]
    Txn(usize, String),
    #[error("the change could not be written to disk: {0}")]
    Store(String),
    #[error("the registry is ending")]
    Ended,
}

/// Makes one change, or none.
pub(crate) fn apply(
    state: &mut State,
    touched: &mut Touched,
    change: Change,
    limits: &Limits,
) -> Result<Done, Refusal> {
    let mut next = state.clone();
    let index = state.index + 1;
    let mut edit = Edit { state: &mut next, touched, index };
    let done = match change {
        Change::Register(registration) => register(&mut edit, *registration, limits)?,
        Change::DeregisterInstance { node, id } => {
            let known = edit.remove_instance(&node, &id);
            known.then_some(Done::AsAsked).ok_or_else(|| unknown_service(&id))?
        }
        Change::DeregisterCheck { node, id } => {
            let known = edit.remove_check(&node, &id);
            known.then_some(Done::AsAsked).ok_or_else(|| unknown_check(&id))?
        }
        Change::DeregisterNode(node) => {
            edit.remove_node(&node);
            Done::AsAsked
        }
        Change::Report { node, id, status, output } => report(&mut edit, &node, &id, status, output)?,
        Change::Maintenance { node, instance, on } => maintenance(&mut edit, &node, instance, on)?,
        Change::Kv(op) => kv::one(&mut edit, op, limits)?,
        Change::Txn(ops) => kv::all(&mut edit, ops, limits)?,
        Change::CreateSession(session) => {
            full("sessions", edit.state.sessions.len() + 1, limits.sessions)?;
            edit.set_session(session);
            Done::AsAsked
        }
        Change::DestroySession(id) => {
            kv::end_session(&mut edit, &id, Instant::now());
            Done::AsAsked
        }
    };
    *state = next;
    Ok(done)
}

pub(crate) fn unknown_service(id: &str) -> Refusal {
    let advice = "Ensure that the service ID is passed, not the service name.";
    Refusal::Unknown(format!("Unknown service ID {id:?}. {advice}"))
}

pub(crate) fn unknown_check(id: &str) -> Refusal {
    let advice = "Ensure that the check ID is passed, not the check name.";
    Refusal::Unknown(format!("Unknown check ID {id:?}. {advice}"))
}

fn full(table: &'static str, wanted: usize, max: usize) -> Result<(), Refusal> {
    if wanted > max { Err(Refusal::Full { table, max }) } else { Ok(()) }
}

fn register(edit: &mut Edit<'_>, registration: Registration, limits: &Limits) -> Result<Done, Refusal> {
    let Registration { node, row, instance, checks, replace_checks, keep_status } = registration;
    if let Some(row) = row {
        edit.set_node(row);
    }
    let Some(known) = edit.state.nodes.get(&node).cloned() else {
        return Err(Refusal::Unknown(format!("Unknown node {node:?}")));
    };
    if let Some(instance) = instance {
        let renamed = known.instances.get(&instance.id).is_some_and(|old| {
            // Its checks carry the service's name.
            old.service != instance.service || old.tags != instance.tags
        });
        if replace_checks {
            let kept = |id: &Name| checks.iter().any(|check| check.id == *id);
            for check in known.checks_of(&instance.id).filter(|check| !kept(&check.id)) {
                edit.remove_check(&node, &check.id);
            }
        }
        let copy = renamed.then(|| instance.clone());
        edit.set_instance(&node, instance);
        for check in copy.iter().flat_map(|instance| known.checks_of(&instance.id)) {
            let now = edit.state.nodes.get(&node).and_then(|node| node.check(&check.id)).cloned();
            if let (Some(check), Some(instance)) = (now, &copy) {
                edit.set_check(of_instance((*check).clone(), instance));
            }
        }
    }
    for mut check in checks {
        if !check.service_id.is_empty() {
            let Some(node) = edit.state.nodes.get(&node) else { continue };
            let Some(instance) = node.instances.get(&check.service_id) else {
                return Err(Refusal::Unknown(format!(
                    "ServiceID {:?} does not exist on node {:?}",
                    check.service_id, node.row.name
                )));
            };
            check = of_instance(check, instance);
        }
        if keep_status && let Some(old) = known.check(&check.id) {
            check.status = old.status;
            check.output.clone_from(&old.output);
        }
        edit.set_check(check);
    }
    full("nodes", edit.state.nodes.len(), limits.nodes)?;
    full("services", edit.state.services.len(), limits.services)?;
    full("instances", edit.state.counts.instances, limits.instances)?;
    full("checks", edit.state.counts.checks, limits.checks)?;
    Ok(Done::AsAsked)
}

fn of_instance(mut check: Check, instance: &Instance) -> Check {
    check.service_name = Name::clone(&instance.service);
    check.service_tags.clone_from(&instance.tags);
    check
}

fn report(
    edit: &mut Edit<'_>,
    node: &Name,
    id: &Name,
    status: Status,
    output: Option<String>,
) -> Result<Done, Refusal> {
    let known = edit.state.nodes.get(node).and_then(|node| node.check(id));
    let mut check = known.map(|check| (**check).clone()).ok_or_else(|| unknown_check(id))?;
    check.status = status;
    if let Some(output) = output {
        check.output = shortened(output);
    }
    edit.set_check(check);
    Ok(Done::AsAsked)
}

/// To `OUTPUT_BYTES_MAX`, at a character.
fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(OUTPUT_BYTES_MAX));
    text
}

fn maintenance(
    edit: &mut Edit<'_>,
    node: &Name,
    instance: Option<Name>,
    on: Option<String>,
) -> Result<Done, Refusal> {
    let Some(known) = edit.state.nodes.get(node).cloned() else {
        return Err(Refusal::Unknown(format!("Unknown node {node:?}")));
    };
    let (what, id) = match &instance {
        Some(id) => ("Service", Name::from(format!("{SERVICE_MAINTENANCE}{id}"))),
        None => ("Node", Name::from(NODE_MAINTENANCE)),
    };
    let mut check = Check {
        node: Name::clone(node),
        id: Name::clone(&id),
        name: format!("{what} Maintenance Mode"),
        status: Status::Critical,
        kind: "maintenance".into(),
        ..Check::default()
    };
    if let Some(service) = instance {
        let found = known.instances.get(&service).ok_or_else(|| unknown_service(&service))?;
        check.service_id = service;
        check = of_instance(check, found);
    }
    match on {
        Some(reason) if reason.is_empty() => {
            check.notes = format!(
                "Maintenance mode is enabled for this {}, but no reason was provided. This is a default message.",
                what.to_lowercase()
            );
            edit.set_check(check);
        }
        Some(reason) => {
            check.notes = shortened(reason);
            edit.set_check(check);
        }
        // Ending what is not on is no error.
        None => {
            edit.remove_check(node, &id);
        }
    }
    Ok(Done::AsAsked)
}

#[cfg(test)]
mod tests;
