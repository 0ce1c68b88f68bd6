//! The control loop: one event after the other, each to its end.
//!
//! Slow work (reading, compiling) runs in tasks that report back as events, so that a component which takes seconds
//! to compile holds up neither a changed registry nor a failed instance. Results that a later change has overtaken
//! are thrown away.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::addresses::AddressBook;
use super::policies::{self, LoadError, Source, Version};
use super::reconcile::{ApplyError, Change, Made, Reconciler, place_of, send};
use super::register::Registration;
use super::registry::guard::Key;
use super::sources::{self, Broken, Reloaded};
use super::{Ask, Control, Denied, Done, Options, Reply, StartError};
use crate::config::{Diagnostic, PolicyOrigin, RegistrySource};
use crate::link::{Command, Report};
use crate::snapshot::Catalogue;
use crate::tls::ClientConfig;
use crate::watch::Watcher;
use catalogue::Network;
use releases::Releases;

mod catalogue;
mod releases;
mod reload;

/// Requests to change something that may wait.
const ASKS_MAX: usize = 16;
/// Results of slow work that may wait.
const RESULTS_MAX: usize = 16;
/// How long an answer waits for all workers to serve what was asked for.
const APPLY_WAIT: Duration = Duration::from_secs(10);

/// The running loop.
#[derive(Debug)]
struct Events {
    state: Reconciler,
    config_path: PathBuf,
    watcher: Watcher,
    /// What it watches.
    files: BTreeSet<PathBuf>,
    results: mpsc::Sender<Slow>,
    status: watch::Sender<Arc<super::Status>>,
    /// Number of the slow work started last.
    started: u64,
    /// By subject, the number of the latest work that took effect.
    effective: HashMap<Subject, u64>,
    /// With a registry over the network.
    network: Option<Network>,
    releases: Option<Releases>,
}

/// What slow work is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Config,
    Registry,
    Policy(Arc<str>),
    /// The field that says what TLS is set up with.
    Tls(&'static str),
}

/// Slow work that has ended.
#[derive(Debug)]
struct Slow {
    number: u64,
    what: Ended,
}

#[derive(Debug)]
enum Ended {
    Config(Result<Box<Reloaded>, Broken>),
    Registry(Result<Catalogue, Vec<Diagnostic>>),
    /// Of the endpoints kept in spite of the registry, those that are silent.
    Probed(Vec<Key>),
    /// After how long.
    Saved(Duration, std::io::Result<()>),
    /// Instances that workers wanted.
    Made(Made),
    Tls {
        field: &'static str,
        read: Result<Arc<ClientConfig>, String>,
    },
    /// `None`: what is in force already.
    Policy {
        policy: Arc<str>,
        version: Result<Option<Version>, LoadError>,
        reply: Option<Reply>,
    },
}

/// See `Control::start`.
pub(super) async fn start(options: Options) -> Result<Control, StartError> {
    let Options { config_path, config, engine, metrics, workers, reports } = options;
    let config = Arc::new(config);
    // Before anything is read, so that no change goes unseen.
    let files = sources::files(&config_path, &config);
    let watcher = Watcher::new(files.clone());
    let names = sources::needed(&config);
    let (catalogue, versions) = tokio::join!(
        sources::first_catalogue(&config),
        sources::load_all(&engine, Arc::clone(&config), names)
    );
    let catalogue = catalogue.map_err(StartError::Registry)?;
    let versions = versions.map_err(|errors| StartError::Policy(errors.join("\n")))?;

    let (snapshots, snapshots_seen) = watch::channel(None);
    let (applied_by_all, applied) = watch::channel(0);
    let config = Arc::clone(&config);
    let mut state = Reconciler::new((engine, metrics, config), workers, snapshots, applied_by_all);
    state.addresses = AddressBook::open(&state.config).await;
    state.note_confirmed();
    state.metrics.config_valid.set(1);
    let change = Change { config: Some(Arc::clone(&state.config)), versions };
    match catalogue {
        Some((catalogue, age)) => {
            state.catalogue = catalogue;
            state.confirmed.before_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            state.apply_sparing(change, true).await?;
        }
        None => state.waiting = Some(change),
    }
    let registration = Registration::start(&state.config, &state.metrics);
    let network = Network::start(&mut state);
    let releases = Releases::start(&state);
    let reporting = releases.as_ref().map(|releases| releases.reporting.clone());
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (results, ended) = mpsc::channel(RESULTS_MAX);
    let (status, status_seen) = watch::channel(Arc::new(state.status()));
    let effective = HashMap::new();
    let mut events = Events {
        state,
        config_path,
        watcher,
        files,
        results,
        status,
        started: 0,
        effective,
        network,
        releases,
    };
    // It was read before it was watched, and so were the files that it names.
    events.config_changed();
    events.certificates_changed(|_| true);
    events.follow_releases();
    tokio::spawn(events.run(reports, ended, asked));
    Ok(Control { asks, snapshots: snapshots_seen, status: status_seen, applied, registration, reporting })
}

impl Events {
    async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut ended: mpsc::Receiver<Slow>,
        mut asked: mpsc::Receiver<Ask>,
    ) {
        loop {
            tokio::select! {
                Some(report) = reports.recv() => self.report(report).await,
                Some(slow) = ended.recv() => self.ended(slow).await,
                batch = catalogue::heard(&mut self.network) => self.heard(batch).await,
                said = releases::said(&mut self.releases) => self.release_said(said),
                () = self.state.gone.due() => self.state.gone.forget(&self.state.metrics),
                files = self.watcher.changed() => files.iter().for_each(|file| self.changed(file)),
                ask = asked.recv() => match ask {
                    Some(ask) => self.asked(ask).await,
                    None => return,
                },
            }
            if let Some(work) = self.state.make_wanted().await {
                self.slowly(async move { Ended::Made(work.await) });
            }
            self.settle_releases();
            self.status.send_replace(Arc::new(self.state.status()));
        }
    }

    async fn report(&mut self, report: Report) {
        match report {
            Report::Applied { worker, version } => self.state.note_applied(worker, version),
            Report::Failed { worker, slot, digest, failure } => {
                self.state.failed(worker, slot, digest, &failure).await;
            }
            Report::Wanted { worker, slot, digest } => self.state.want(worker, slot, digest).await,
            Report::Retired(instance) => drop(instance),
        }
    }

    /// A file may have changed: read it again, elsewhere.
    fn changed(&mut self, file: &Path) {
        if *file == *self.config_path || !self.state.faults.config.is_empty() {
            self.config_changed();
        }
        let config = Arc::clone(&self.state.config);
        if config.registry.source == RegistrySource::File(file.to_owned()) {
            let path = file.to_owned();
            self.slowly(async move { Ended::Registry(sources::catalogue(path).await) });
        }
        self.certificates_changed(|own| own == file);
        let origin = PolicyOrigin::File(file.to_owned());
        for (name, _) in config.policies.iter().filter(|(_, policy)| policy.origin == origin) {
            self.load_file(name, file);
        }
    }

    fn config_changed(&mut self) {
        let (path, before, engine) =
            (self.config_path.clone(), Arc::clone(&self.state.config), self.state.engine.clone());
        let known = self.state.policies.iter().map(|(name, _)| Arc::clone(name)).collect();
        self.slowly(async move { Ended::Config(sources::reload(path, before, known, engine).await) });
    }

    async fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Put { policy, component, reply } => {
                if !policies::is_known(&self.state.config, &policy) {
                    answer(reply, Err(Denied::UnknownPolicy(policy)));
                    return;
                }
                let engine = self.state.engine.clone();
                self.slowly(async move {
                    let version = policies::load_pushed(engine, component).await.map(Some);
                    Ended::Policy { policy, version, reply: Some(reply) }
                });
            }
            Ask::Rollback { policy, to, reply } => match self.state.policies.entry(&policy) {
                None => answer(reply, Err(Denied::UnknownPolicy(policy))),
                Some(_) => match self.state.policies.earlier(&policy, to.as_deref()) {
                    Ok(version) => self.put_in_force(policy, version, Some(reply)).await,
                    Err(none) => answer(reply, Err(none.into())),
                },
            },
            Ask::Reset { policy, reply } => match self.state.policies.entry(&policy) {
                None => answer(reply, Err(Denied::UnknownPolicy(policy))),
                Some(entry) => {
                    let version = entry.current.clone();
                    self.put_in_force(policy, version, Some(reply)).await;
                }
            },
            Ask::Leave => self.state.draining = true,
            Ask::Drain { patient } => {
                for worker in &self.state.workers {
                    send(worker, Command::Drain { patient }).await;
                }
            }
        }
    }

    async fn ended(&mut self, slow: Slow) {
        let Slow { number, what } = slow;
        let subject = match &what {
            Ended::Config(_) => Subject::Config,
            Ended::Registry(_) => Subject::Registry,
            Ended::Policy { policy, .. } => Subject::Policy(Arc::clone(policy)),
            Ended::Probed(_) | Ended::Saved(..) | Ended::Made(_) => Subject::Registry,
            Ended::Tls { field, .. } => Subject::Tls(field),
        };
        let overtaken = self.effective.get(&subject).is_some_and(|&latest| latest > number);
        match what {
            Ended::Probed(silent) => self.probed(silent).await,
            Ended::Saved(took, result) => self.saved(took, result),
            Ended::Made(made) => self.state.link(made).await,
            Ended::Policy { reply, .. } if overtaken => {
                reply.into_iter().for_each(|r| answer(r, Err(Denied::Overtaken)))
            }
            _ if overtaken => {}
            Ended::Config(loaded) => {
                self.effective.insert(subject, number);
                self.config_loaded(loaded).await;
            }
            Ended::Registry(read) => {
                self.effective.insert(subject, number);
                self.registry_read(read).await;
            }
            Ended::Tls { field, read } => {
                self.effective.insert(subject, number);
                self.certificates_read(field, read);
            }
            Ended::Policy { policy, version, reply } => match version {
                Ok(None) => self.state.faults.accepted(&policy),
                Ok(Some(version)) => {
                    self.effective.insert(subject, number);
                    self.put_in_force(policy, version, reply).await;
                }
                Err(error) => self.not_loaded(&policy, &error, reply),
            },
        }
    }

    /// Proves and publishes a version; the answer waits for the workers, the loop does not.
    async fn put_in_force(&mut self, policy: Arc<str>, version: Version, reply: Option<Reply>) {
        if !policies::is_known(&self.state.config, &policy) {
            reply
                .into_iter()
                .for_each(|reply| answer(reply, Err(Denied::UnknownPolicy(Arc::clone(&policy)))));
            return;
        }
        let digest = version.digest();
        let released = match &version.source {
            Source::Release(released) => format!("{released}: "),
            Source::Builtin | Source::File(_) | Source::Admin => String::new(),
        };
        let versions = HashMap::from([(Arc::clone(&policy), version)]);
        match self.state.apply(Change { versions, ..Change::default() }).await {
            Ok(version) => {
                let Some(reply) = reply else { return };
                let mut applied = self.state.applied_by_all.subscribe();
                tokio::spawn(async move {
                    let wait = applied.wait_for(|by_all| *by_all >= version);
                    let in_force = matches!(tokio::time::timeout(APPLY_WAIT, wait).await, Ok(Ok(_)));
                    answer(
                        reply,
                        if in_force {
                            Ok(Done { digest, version })
                        } else {
                            Err(Denied::NotApplied(version))
                        },
                    );
                });
            }
            Err(error) => {
                if let ApplyError::Refused(refused) = &error {
                    self.state.note_refusals(refused);
                }
                self.refused(&policy, format!("{released}{error}"), reply);
            }
        }
    }

    fn not_loaded(&mut self, policy: &Arc<str>, error: &LoadError, reply: Option<Reply>) {
        self.state.metrics.policy_refusals.with_label_values(&[policy]).inc();
        let reason = match place_of(&self.state.config, policy).filter(|_| reply.is_none()) {
            Some(place) => format!("{place}: {error}"),
            None => error.to_string(),
        };
        self.refused(policy, reason, reply);
    }

    fn refused(&mut self, policy: &Arc<str>, reason: String, reply: Option<Reply>) {
        if reply.is_none() {
            self.release_unproven(policy, &reason);
        }
        tracing::error!(policy = &**policy, reason, "policy refused, the version before stays in force");
        self.state.faults.refused(policy, reason.clone());
        reply.into_iter().for_each(|reply| answer(reply, Err(Denied::Refused(reason.clone()))));
    }

    fn is_in_force(&self, policy: &str, version: &Version) -> bool {
        self.state.policies.entry(policy).is_some_and(|entry| {
            !entry.quarantined
                && entry.current.digest() == version.digest()
                && entry.current.source == version.source
        })
    }

    fn load_file(&mut self, policy: &str, file: &Path) {
        let (engine, limit) = (self.state.engine.clone(), self.state.config.policy_host.component_bytes_max);
        let (policy, file) = (Arc::<str>::from(policy), file.to_owned());
        // In quarantine, even the same component gets another chance.
        let serves = self.state.policies.entry(&policy).filter(|entry| !entry.quarantined);
        let in_force = serves.map(|entry| entry.current.digest());
        self.slowly(async move {
            let version = policies::load_file(engine, file, limit, in_force).await;
            Ended::Policy { policy, version, reply: None }
        });
    }

    fn slowly(&mut self, work: impl Future<Output = Ended> + Send + 'static) {
        self.started += 1;
        let (number, results) = (self.started, self.results.clone());
        tokio::spawn(async move {
            // If the loop has ended, nobody wants the result.
            let _ = results.send(Slow { number, what: work.await }).await;
        });
    }
}

/// Who asked may have gone.
fn answer(reply: Reply, result: Result<Done, Denied>) {
    let _ = reply.send(result);
}
