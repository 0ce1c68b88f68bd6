//! Policies of the operator's own, and uses of policies by name.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::super::builtin::{BUILTIN_POLICIES, PolicyKind, builtin_kind};
use super::super::diagnostic::{FieldPath, Problems, did_you_mean};
use super::super::resolved::{NamedPolicy, PolicyOrigin, PolicyUse, RegistrySource, Release};
use super::super::written;
use super::{check, file};
use crate::release::{PublicKey, Trust, VERSION_MAX};

const POLICIES_MAX: usize = 256;
const KEYS_MAX: usize = 16;
const KEY_BYTES_MAX: u64 = 4096;

/// Policies by name. `trusted` keys are those of releases that name none.
pub(super) fn named(
    written: &BTreeMap<String, written::Policy>,
    trusted: &Arc<[PublicKey]>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, NamedPolicy> {
    check::count(written.len(), POLICIES_MAX, at, problems);
    let mut policies = BTreeMap::new();
    for (name, policy) in written {
        let at = &at.field(name);
        check::dns_label_key(name, at, problems);
        if builtin_kind(name).is_some() {
            problems.report_key(at, format!("`{name}` is a built-in policy; choose another name"));
        }
        let (origin, field) = match &policy.release {
            Some(release) => {
                let release = self::release(release, policy, trusted, (base, at), problems);
                (PolicyOrigin::Release(release), "release")
            }
            None => {
                let foreign = [("at_least", policy.at_least.is_some()), ("keys", policy.keys.is_some())];
                for (field, _) in foreign.iter().filter(|(_, given)| *given) {
                    problems.report(&at.field(field), format!("`{field}` goes with `release`"));
                }
                (PolicyOrigin::File(file(policy.file.as_deref(), base, &at.field("file"), problems)), "file")
            }
        };
        policies.insert(name.clone(), NamedPolicy { origin, place: problems.place(&at.field(field)) });
    }
    policies
}

fn release(
    name: &str,
    written: &written::Policy,
    trusted: &Arc<[PublicKey]>,
    (base, at): (&Path, &FieldPath<'_>),
    problems: &mut Problems,
) -> Release {
    check::dns_label(name, &at.field("release"), problems);
    if written.file.is_some() {
        problems.report(&at.field("file"), "`file` and `release` exclude each other");
    }
    let at_least = check::range(written.at_least, 0, 0..=VERSION_MAX, &at.field("at_least"), problems);
    let keys = keys(written.keys.as_ref(), base, &at.field("keys"), problems);
    let keys = keys.unwrap_or_else(|| Arc::clone(trusted));
    Release { name: name.to_owned(), trust: Trust { at_least, keys } }
}

/// Public keys in files; `None` if nothing is written.
pub(super) fn keys(
    written: Option<&written::OneOrMany>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<Arc<[PublicKey]>> {
    let written::OneOrMany(files) = written?;
    if files.is_empty() {
        // Nobody who writes this wants everything to be taken.
        problems.report_with(at, "an empty list", "leave it out where releases need no signature");
    }
    check::count(files.len(), KEYS_MAX, at, problems);
    let read = |(index, file): (usize, &String)| {
        let path = base.join(file);
        let mut text = String::new();
        let opened = std::fs::File::open(&path);
        let read = opened.and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text));
        let key = read.map_err(|error| error.to_string());
        let key = key.and_then(|_| PublicKey::parse(&text).map_err(|error| error.to_string()));
        key.inspect_err(|error| problems.report(&at.item(index), format!("{}: {error}", path.display()))).ok()
    };
    Some(files.iter().enumerate().filter_map(read).collect())
}

/// A file keeps no releases.
pub(super) fn refuse_releases_from_files(
    policies: &BTreeMap<String, NamedPolicy>,
    source: &RegistrySource,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) {
    if !matches!(source, RegistrySource::File(_)) {
        return;
    }
    for (name, policy) in policies {
        if matches!(policy.origin, PolicyOrigin::Release(_)) {
            let message = "releases are kept by `etcd` and `consul` registries, not by a services file";
            let hint = "give the component as a `file`, which is watched";
            problems.report_with(&at.field(name).field("release"), message, hint);
        }
    }
}

pub(super) fn resolve(
    written: &written::Short<written::PolicyUse>,
    kind: PolicyKind,
    policies: &BTreeMap<String, NamedPolicy>,
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
    let config = config.map(|config| serde_json::Value::from(config.clone()).to_string());
    PolicyUse { policy: name, config, place }
}

fn check_name(
    name: &str,
    kind: PolicyKind,
    policies: &BTreeMap<String, NamedPolicy>,
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
