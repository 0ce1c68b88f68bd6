//! Uses of policies, by name.

use std::collections::BTreeMap;

use super::super::builtin::{BUILTIN_POLICIES, PolicyKind, builtin_kind};
use super::super::diagnostic::{FieldPath, Problems, did_you_mean};
use super::super::resolved::{PolicyFile, PolicyUse};
use super::super::written;

pub(super) fn resolve(
    written: &written::Short<written::PolicyUse>,
    kind: PolicyKind,
    policies: &BTreeMap<String, PolicyFile>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> PolicyUse {
    let (name, config) = match written {
        written::Short::Text(name) => {
            check_name(name, kind, policies, at, problems);
            (name.clone(), None)
        }
        written::Short::Full(used) => {
            let name_at = &at.field("policy");
            match &used.policy {
                Some(name) => check_name(name, kind, policies, name_at, problems),
                None => problems.report(name_at, "field `policy` is missing"),
            }
            (used.policy.clone().unwrap_or_default(), used.config.as_ref())
        }
    };
    let place = match config {
        Some(_) => problems.place(&at.field("config")),
        None => problems.place(at),
    };
    let config =
        config.map_or_else(|| "{}".to_owned(), |config| serde_json::Value::from(config.clone()).to_string());
    PolicyUse { policy: name, config, place }
}

fn check_name(
    name: &str,
    kind: PolicyKind,
    policies: &BTreeMap<String, PolicyFile>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) {
    let kind_name = |kind| match kind {
        PolicyKind::Balancer => "balancer",
        PolicyKind::Router => "router",
    };
    match builtin_kind(name) {
        Some(found) if found == kind => return,
        Some(found) => {
            let (found, needed) = (kind_name(found), kind_name(kind));
            problems.report(at, format!("`{name}` is a {found}; a {needed} is needed here"));
            return;
        }
        None => {}
    }
    // One whose entry was refused still counts as there.
    let root = FieldPath::Root;
    if policies.contains_key(name) || problems.written(&root.field("policies").field(name)) {
        return;
    }
    let builtin = BUILTIN_POLICIES.iter().filter(|(_, of)| *of == kind).map(|(name, _)| *name);
    let known = builtin.chain(policies.keys().map(String::as_str));
    let hint = did_you_mean(name, known).unwrap_or_default();
    problems.report_with(at, format!("unknown {} `{name}`", kind_name(kind)), hint);
}
