//! What control tells about itself: one value, replaced whole after each change, that the admin interface reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::policies::{Entry, Source, Version};
use super::prepare;
use super::publish::World;
use super::reconcile::{Confirmed, Reconciler};
use super::releases::Released;
use crate::config::{Config, RegistrySource};
use crate::link::Slot;
use crate::metrics::unix_seconds;
use crate::policy::PolicyMetrics;

/// Places of use that `/policies` lists for one policy.
const USES_MAX: usize = 100;

/// The state of control and of all it has published.
#[derive(Debug, Clone)]
pub struct Status {
    pub ready: Ready,
    pub config: Arc<Config>,
    pub world: Option<Arc<World>>,
    pub policies: Vec<PolicyStatus>,
    /// What policies count for themselves.
    pub policy_metrics: Vec<Arc<PolicyMetrics>>,
    /// `None`: it confirms itself, as a file does that is watched and good.
    pub confirmed: Option<Confirmed>,
}

/// The answer to `/ready`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ready {
    /// Every worker serves a snapshot, and the process is not about to end.
    pub ready: bool,
    pub draining: bool,
    /// Published last.
    pub version: u64,
    /// In force on all workers.
    pub applied: u64,
    pub config_valid: bool,
    pub registry_valid: bool,
    /// What the operator should know; not ready to serve is none of these.
    pub problems: Vec<String>,
}

/// One entry of `/policies`.
#[derive(Debug, Serialize)]
pub struct PolicyView<'a> {
    #[serde(flatten)]
    pub status: &'a PolicyStatus,
    /// The first `USES_MAX` places in which it works.
    pub uses: Vec<String>,
    pub uses_total: usize,
}

/// What is known about a policy without looking where it works.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyStatus {
    pub name: String,
    pub source: String,
    pub digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseStatus>,
    pub epoch: u64,
    /// In force since, in seconds since 1970.
    pub since: f64,
    pub roles: Vec<&'static str>,
    /// Kept for a rollback, newest first.
    pub versions: Vec<VersionStatus>,
    pub quarantined: bool,
    pub failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<RefusalStatus>,
}

/// Where a policy comes from the registry.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseStatus {
    pub name: String,
    pub version: u64,
    /// That signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct VersionStatus {
    pub digest: String,
    pub source: String,
    pub since: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct RefusalStatus {
    pub message: String,
    /// In seconds since 1970.
    pub at: f64,
}

/// What is wrong now, with the last good state in force in its stead.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) config: Vec<String>,
    pub(super) registry: Vec<String>,
    /// The registry has been silent for too long.
    pub(super) stale: Option<String>,
    /// Certificates and keys that cannot be used, by the field that names them.
    pub(super) tls: BTreeMap<&'static str, String>,
    /// Releases cannot be followed.
    pub(super) releases: Option<String>,
    /// Fields of the configuration that wait for a restart.
    pub(super) restart: Vec<&'static str>,
    /// Versions that are wanted and not in force, by policy.
    policies: BTreeMap<Arc<str>, String>,
    /// The latest of each policy, whatever came after it.
    refusals: BTreeMap<Arc<str>, RefusalStatus>,
}

impl Faults {
    /// A version is wanted that the policy's host or one of its uses refused.
    pub(super) fn refused(&mut self, policy: &str, message: String) {
        self.note_refusal(policy, message.clone());
        self.policies.insert(policy.into(), message);
    }

    /// A version is wanted, and there is none.
    pub(super) fn missing(&mut self, policy: &str, message: String) {
        self.policies.insert(policy.into(), message);
    }

    /// A refusal that is reported in another place already.
    pub(super) fn note_refusal(&mut self, policy: &str, message: String) {
        self.refusals.insert(policy.into(), RefusalStatus { message, at: unix_seconds(SystemTime::now()) });
    }

    /// What is wanted is in force.
    pub(super) fn accepted(&mut self, policy: &str) {
        self.policies.remove(policy);
    }

    /// The policy has left the configuration.
    pub(super) fn forget(&mut self, policy: &str) {
        self.policies.remove(policy);
        self.refusals.remove(policy);
    }

    fn problems(&self) -> impl Iterator<Item = String> {
        let config = self.config.iter().map(|text| format!("configuration: {text}"));
        let registry = self.registry.iter().chain(&self.stale).map(|text| format!("registry: {text}"));
        let tls = self.tls.iter().map(|(field, text)| format!("{field}: {text}"));
        let releases = self.releases.iter().map(|text| format!("releases: {text}"));
        let policies = self.policies.iter().map(|(name, message)| format!("policy {name}: {message}"));
        let restart =
            self.restart.iter().map(|field| format!("configuration: `{field}` changes at the next start"));
        config.chain(registry).chain(tls).chain(releases).chain(policies).chain(restart)
    }
}

impl Status {
    /// Made when somebody asks: the cost follows the number of places.
    pub fn policy_views(&self) -> impl Iterator<Item = PolicyView<'_>> {
        self.policies.iter().map(|status| {
            let all = self.world.iter().flat_map(|world| prepare::uses(world));
            let mut uses = all.filter(|(policy, _)| ***policy == *status.name);
            let first: Vec<String> = uses.by_ref().take(USES_MAX).map(|(_, slot)| described(&slot)).collect();
            PolicyView { status, uses_total: first.len() + uses.count(), uses: first }
        })
    }
}

impl Reconciler {
    pub(super) fn status(&self) -> Status {
        let world = self.world.clone();
        let version = world.as_ref().map_or(0, |world| world.snapshot.version);
        let applied = self.applied.iter().copied().min().unwrap_or_default();
        let is_file = matches!(self.config.registry.source, RegistrySource::File(_));
        let out_of_service = self.policies.iter().filter(|(_, entry)| entry.quarantined);
        let out_of_service = out_of_service.map(|(name, entry)| {
            format!(
                "policy {name}: quarantined: {}",
                entry.last_failure.as_deref().unwrap_or("it failed too often")
            )
        });
        let ready = Ready {
            ready: applied > 0 && !self.draining,
            draining: self.draining,
            version,
            applied,
            config_valid: self.faults.config.is_empty(),
            registry_valid: self.faults.registry.is_empty(),
            problems: self.faults.problems().chain(out_of_service).collect(),
        };
        Status {
            ready,
            config: Arc::clone(&self.config),
            policies: self.policies.iter().map(|(name, entry)| self.policy_status(name, entry)).collect(),
            policy_metrics: self.policies.iter().map(|(_, entry)| Arc::clone(&entry.metrics)).collect(),
            world,
            confirmed: (!is_file || !self.faults.registry.is_empty()).then_some(self.confirmed),
        }
    }

    fn policy_status(&self, name: &str, entry: &Entry) -> PolicyStatus {
        let roles = entry.current.compiled.roles();
        let roles = [(roles.balancer, "balancer"), (roles.router, "router")];
        let current = VersionStatus::of(&entry.current);
        PolicyStatus {
            name: name.to_string(),
            source: current.source,
            digest: current.digest,
            release: ReleaseStatus::of(&entry.current.source),
            epoch: entry.epoch,
            since: current.since,
            roles: roles.into_iter().filter(|(has, _)| *has).map(|(_, role)| role).collect(),
            versions: entry.previous.iter().map(VersionStatus::of).collect(),
            quarantined: entry.quarantined,
            failures: entry.failures_total,
            last_failure: entry.last_failure.clone(),
            last_refusal: self.faults.refusals.get(name).cloned(),
        }
    }
}

impl ReleaseStatus {
    fn of(source: &Source) -> Option<Self> {
        let Source::Release(released) = source else { return None };
        let Released { name, version, key, configuration: _ } = &**released;
        Some(Self { name: name.clone(), version: *version, key: key.clone() })
    }
}

impl VersionStatus {
    fn of(version: &Version) -> Self {
        let (digest, source) = (version.digest().to_string(), version.source.to_string());
        Self { digest, source, since: unix_seconds(version.since) }
    }
}

fn described(slot: &Slot) -> String {
    match slot {
        Slot::Balancer(pool) => format!("service {pool}"),
        Slot::Router(route) => format!("route {route}"),
    }
}
