//! Releases on their way into force: what the follower says becomes a version to be proven, and what comes of it is
//! reported and kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Ended, Events};
use crate::control::policies::{self, Source};
use crate::control::reconcile::Reconciler;
use crate::control::releases::follow::{Follower, SAID_MAX, Said, Wanted};
use crate::control::releases::report::{Report, Reporter, sidecar_name};
use crate::control::releases::{self, Fetched};
use crate::metrics::unix_seconds;
use crate::release::{Refused, Running, shortened};

/// What the loop needs for releases.
#[derive(Debug)]
pub(super) struct Releases {
    said: mpsc::Receiver<Said>,
    wanted: watch::Sender<Arc<Wanted>>,
    /// `None`: the end is near.
    report: watch::Sender<Option<Report>>,
    /// Until the reporter has ended.
    pub(super) reporting: watch::Receiver<()>,
    sidecar: String,
    /// Verified, and not in force yet: to be kept once they are.
    proving: HashMap<Arc<str>, Fetched>,
    /// By policy, why the version in force in the registry is not in force here.
    refused: BTreeMap<Arc<str>, Refused>,
}

impl Releases {
    /// `None` with a file, which keeps no releases.
    pub(super) fn start(state: &Reconciler) -> Option<Self> {
        let (sender, said) = mpsc::channel(SAID_MAX);
        let (wanted, wants) = watch::channel(Arc::new(Wanted::new()));
        let (report, reported) = watch::channel(Some(Report::new()));
        let follower = Follower::new(&state.config, wants, sender, &state.metrics)?;
        let reporting = Reporter::start(&state.config.registry.source, reported, &state.metrics)?;
        tokio::spawn(follower.run());
        let (proving, refused) = (HashMap::new(), BTreeMap::new());
        Some(Self { said, wanted, report, reporting, sidecar: sidecar_name(), proving, refused })
    }
}

/// The next word; for ever without a network.
pub(super) async fn said(releases: &mut Option<Releases>) -> Said {
    match releases {
        Some(releases) => match releases.said.recv().await {
            Some(said) => said,
            // The follower does not end before us.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Events {
    /// Follows what the configuration names now.
    pub(super) fn follow_releases(&mut self) {
        let Some(releases) = &mut self.releases else { return };
        let named = self.state.config.releases();
        let wanted: Wanted = named.map(|(name, release)| (name.into(), release.clone())).collect();
        releases.refused.retain(|policy, _| wanted.contains_key(policy));
        releases.proving.retain(|policy, _| wanted.contains_key(policy));
        if wanted.is_empty() {
            self.state.faults.releases = None;
        }
        releases.wanted.send_if_modified(|known| {
            let differs = **known != wanted;
            *known = Arc::new(wanted);
            differs
        });
    }

    pub(super) fn release_said(&mut self, said: Said) {
        match said {
            Said::Trouble(trouble) => {
                if let Some(problem) = trouble.as_ref().filter(|_| self.state.faults.releases.is_none()) {
                    tracing::error!(problem, "releases cannot be followed; what is in force stays");
                }
                self.state.faults.releases = trouble;
            }
            Said::Release { policy, fetched } => self.release_fetched(policy, *fetched),
            Said::Unfit { policy, version: Some(version), reason } => {
                self.state.metrics.policy_refusals.with_label_values(&[&policy]).inc();
                self.release_wanted(&policy, version);
                self.release_refused(&policy, Some(version), &reason);
                self.refused(&policy, reason, None);
            }
            Said::Unfit { policy, version: None, reason } => {
                tracing::warn!(policy = &*policy, reason, "no release to follow; what is in force stays");
                self.release_refused(&policy, None, &reason);
                self.state.faults.missing(&policy, reason);
            }
        }
    }

    fn release_fetched(&mut self, policy: Arc<str>, fetched: Fetched) {
        let Some(releases) = &mut self.releases else { return };
        let released = Arc::clone(&fetched.released);
        let serves = self.state.policies.entry(&policy).filter(|entry| !entry.quarantined);
        let in_force = serves.is_some_and(|entry| entry.current.source == Source::Release(released.clone()));
        let component = fetched.component.clone();
        releases.proving.insert(Arc::clone(&policy), fetched);
        self.release_wanted(&policy, released.version);
        if in_force {
            // What had been wanted meanwhile is no longer.
            self.state.faults.accepted(&policy);
            return;
        }
        let engine = self.state.engine.clone();
        self.slowly(async move {
            let version = policies::load_release(engine, released, component).await.map(Some);
            Ended::Policy { policy, version, reply: None }
        });
    }

    fn release_wanted(&self, policy: &str, version: u64) {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        self.state.metrics.policy_release_wanted.with_label_values(&[policy]).set(version);
    }

    fn release_refused(&mut self, policy: &Arc<str>, version: Option<u64>, reason: &str) {
        let Some(releases) = &mut self.releases else { return };
        releases.proving.remove(policy);
        releases.refused.insert(Arc::clone(policy), Refused { version, reason: shortened(reason) });
    }

    /// A version that was being proven is not in force.
    pub(super) fn release_unproven(&mut self, policy: &Arc<str>, reason: &str) {
        let proving = self.releases.as_ref().and_then(|releases| releases.proving.get(policy));
        if let Some(version) = proving.map(|fetched| fetched.released.version) {
            self.release_refused(policy, Some(version), reason);
        }
    }

    /// After each event: keeps what has come into force, and reports what serves if that has changed.
    pub(super) fn settle_releases(&mut self) {
        let Some(releases) = &mut self.releases else { return };
        let (state, mut settled) = (&self.state, Vec::new());
        releases.proving.retain(|policy, fetched| {
            let current = state.policies.entry(policy).map(|entry| &entry.current.source);
            let in_force = current == Some(&Source::Release(Arc::clone(&fetched.released)));
            if in_force {
                releases.refused.remove(policy);
                settled.push((releases::kept_path(&state.config, policy), fetched.clone()));
            }
            !in_force
        });
        for (path, fetched) in settled {
            let Some(path) = path else { continue };
            tokio::spawn(async move { releases::keep(&path, &fetched).await });
        }
        let report = (!state.draining).then(|| releases.report(state));
        releases.report.send_if_modified(|known| {
            let differs = *known != report;
            *known = report;
            differs
        });
    }
}

impl Releases {
    fn report(&self, state: &Reconciler) -> Report {
        let running = |(policy, release): (&str, &crate::config::Release)| {
            let current = state.policies.entry(policy).map(|entry| &entry.current);
            let released = current.and_then(|current| match &current.source {
                Source::Release(released) if released.name == release.name => Some(released.version),
                _ => None,
            });
            let running = Running {
                sidecar: self.sidecar.clone(),
                service: state.config.node.service.clone(),
                version: released,
                digest: current.map(|current| current.digest().to_string()).unwrap_or_default(),
                since: current.map_or(0, |current| unix_seconds(current.since) as u64),
                refused: self.refused.get(policy).cloned(),
            };
            (release.name.clone(), running)
        };
        state.config.releases().map(running).collect()
    }
}
