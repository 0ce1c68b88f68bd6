use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::config;
use crate::link::{COMMANDS_MAX, Instance, REPORTS_MAX, Slot};
use crate::policy::{BalancerInstance, Failure, FailureKind, Observation, Outcome, builtin};

mod first_use;

/// Longer than any change takes.
const SOON: Duration = Duration::from_secs(20);

/// A control that runs on files of its own, with workers that do as they are told and remember it.
pub(super) struct Scene {
    pub(super) control: Control,
    pub(super) metrics: Metrics,
    pub(super) workers: Vec<mpsc::Sender<Command>>,
    reports: mpsc::Sender<Report>,
    seen: watch::Receiver<Seen>,
    dir: TempDir,
}

/// What worker 0 has been told.
#[derive(Debug, Default)]
struct Seen {
    version: u64,
    instances: HashMap<Slot, Instance>,
    /// Slots with a new instance, in the order of their coming.
    delivered: Vec<Slot>,
    replaced: Vec<Slot>,
    quarantined: Vec<Slot>,
    evicted: Vec<Slot>,
    drained: bool,
    exported: Vec<u8>,
}

pub(super) static FLUSHES: AtomicUsize = AtomicUsize::new(0);

impl Scene {
    pub(super) async fn start(config: &str, services: &str) -> Self {
        Self::try_start(config, services, &[]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(config: &str, services: &str, files: &[(&str, &[u8])]) -> Result<Self, StartError> {
        let dir = TempDir::new().unwrap();
        let config_path = dir.path().join("outrigger.yaml");
        fs::write(&config_path, complete(config)).unwrap();
        fs::write(dir.path().join("services.yaml"), services).unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let config = config::load(&config_path).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let metrics = Metrics::new().unwrap();
        let engine = Engine::new(&config.policy_host).unwrap();
        let (reports, received) = mpsc::channel(REPORTS_MAX);
        let (seen, watched) = watch::channel(Seen::default());
        let other = watch::channel(Seen::default()).0;
        let workers = [seen, other].into_iter().enumerate();
        let workers: Vec<_> = workers.map(|(index, seen)| worker(index, seen, reports.clone())).collect();
        let options = Options {
            config_path,
            config,
            engine,
            metrics: metrics.clone(),
            workers: workers.clone(),
            reports: received,
        };
        let control = Control::start(options).await?;
        let scene = Self { control, metrics, workers, reports, seen: watched, dir };
        assert!(scene.control.wait_for_version(1, SOON).await);
        Ok(scene)
    }

    /// Waits until worker 0 has seen what the test waits for.
    async fn until(&self, condition: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let waited = tokio::time::timeout(SOON, seen.wait_for(condition)).await;
        assert!(waited.is_ok(), "not within {SOON:?}: {:?}", self.seen.borrow());
    }

    async fn until_status(&self, condition: impl FnMut(&Arc<Status>) -> bool) {
        let mut status = self.control.status.clone();
        let waited = tokio::time::timeout(SOON, status.wait_for(condition)).await;
        assert!(waited.is_ok(), "not within {SOON:?}: {:#?}", self.control.status().ready);
    }

    async fn fail(&self, slot: &Slot) {
        let digest = match &self.seen.borrow().instances[slot] {
            Instance::Balancer(instance) => instance.digest(),
            Instance::Router(instance) => instance.digest(),
        };
        let failure = Failure { kind: FailureKind::Trap, message: "pick: unreachable".into() };
        self.reports.send(Report::Failed { worker: 0, slot: slot.clone(), digest, failure }).await.unwrap();
    }

    /// By renaming, so that nobody reads a half.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir.path().join("half-written");
        fs::write(&path, bytes).unwrap();
        fs::rename(path, self.dir.path().join(name)).unwrap();
    }
}

fn worker(index: usize, seen: watch::Sender<Seen>, reports: mpsc::Sender<Report>) -> mpsc::Sender<Command> {
    let (sender, mut commands) = mpsc::channel(COMMANDS_MAX);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let mut applied = None;
            seen.send_modify(|seen| applied = obey(seen, command));
            if let Some(version) = applied {
                let _ = reports.send(Report::Applied { worker: index, version }).await;
            }
        }
    });
    sender
}

fn obey(seen: &mut Seen, command: Command) -> Option<u64> {
    match command {
        Command::Deliver { snapshot, instances } => {
            seen.version = snapshot.version;
            seen.delivered.extend(instances.iter().map(|(slot, _)| slot.clone()));
            seen.instances.extend(instances);
            return Some(snapshot.version);
        }
        Command::Replace { slot, instance, .. } => {
            seen.replaced.push(slot.clone());
            seen.instances.insert(slot, instance);
        }
        Command::Quarantine { slot, .. } => seen.quarantined.push(slot),
        Command::Evict { slots } => {
            seen.instances.retain(|slot, _| !slots.contains(slot));
            seen.evicted.extend(slots);
        }
        Command::LastUses { reply } => {
            // In the order of their coming.
            let uses = seen.replaced.iter().cloned().zip(1..).collect();
            let _ = reply.send(uses);
        }
        Command::ExportState { slot, reply } => {
            if let Some(Instance::Balancer(instance)) = seen.instances.get_mut(&slot) {
                if seen.exported.is_empty() {
                    learn(instance);
                }
                seen.exported = instance.export_state().unwrap();
            }
            let _ = reply.send(seen.exported.clone());
        }
        Command::Flush { reply } => {
            FLUSHES.fetch_add(1, Relaxed);
            let _ = reply.send(());
        }
        Command::Drain { .. } => seen.drained = true,
    }
    None
}

/// Something worth handing over.
fn learn(instance: &mut BalancerInstance) {
    let millisecond = 1_000_000;
    let (outcome, status, attempt) = (Outcome::Success, 200, 0);
    let (first_byte, total, now) = (5 * millisecond, 6 * millisecond, 1000 * millisecond);
    let observation = Observation { endpoint: 0, outcome, status, attempt, first_byte, total, now };
    instance.observe(&observation).unwrap();
}

/// With a registry, on a line of its own, and without a cache unless the test says how policies are hosted.
fn complete(config: &str) -> String {
    let host = if config.contains("policy_host") { "" } else { "policy_host: {cache_dir: none}" };
    format!("registry: {{file: services.yaml}}\n{host}\n{config}\n")
}

pub(super) fn component(name: &str) -> Bytes {
    Bytes::from_static(builtin::bytes(name).unwrap())
}

fn balancer(name: &str) -> Slot {
    Slot::Balancer(name.into())
}

const SERVICES: &str = "services:\n  web: {endpoints: [\"10.0.0.1:80\", \"10.0.0.2:80\"]}\n  api: {endpoints: [\"10.0.1.1:80\"]}\n";

#[tokio::test]
async fn starts_with_one_instance_per_worker_and_place() {
    let scene = Scene::start("services: {web: {balancer: maglev}}", SERVICES).await;
    scene.until(|seen| seen.version == 1 && seen.instances.len() == 2).await;
    scene.until_status(|status| status.ready.ready).await;
    let status = scene.control.status();
    assert_eq!((status.ready.version, status.ready.applied), (1, 1));
    assert_eq!(status.ready.problems, Vec::<String>::new());
    let names: Vec<&str> = status.policies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["maglev", "p2c"]);
    let views: Vec<_> = status.policy_views().collect();
    assert_eq!((&*views[0].uses, views[0].uses_total), (&["service web".to_owned()][..], 1));
}

#[tokio::test]
async fn a_start_names_what_is_wrong_and_where() {
    let config = "policies:\n  mine: {file: mine.wasm}\nservices: {web: {balancer: mine}}";
    let missing = Scene::try_start(config, SERVICES, &[]).await.map(drop).unwrap_err().to_string();
    assert!(missing.contains("outrigger.yaml:4:") && missing.contains("mine.wasm"), "{missing}");
    let broken = Scene::try_start(config, SERVICES, &[("mine.wasm", b"junk")]).await.map(drop).unwrap_err();
    assert!(broken.to_string().contains("not WebAssembly"), "{broken}");
    let refused = "services:\n  web:\n    balancer: {policy: maglev, config: {table_size: no}}";
    let refused = Scene::try_start(refused, SERVICES, &[]).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("outrigger.yaml:5:") && refused.contains("maglev"), "{refused}");
    let registry = Scene::try_start("", "services: [", &[]).await.map(drop).unwrap_err().to_string();
    assert!(registry.contains("services.yaml"), "{registry}");
}

#[tokio::test]
async fn a_pushed_policy_serves_on_all_workers_and_can_be_taken_back() {
    let scene = Scene::start("services: {web: {}}", SERVICES).await;
    let before = scene.control.status().policies[0].digest.clone();
    let done = scene.control.put("p2c", component("round-robin")).await.unwrap();
    assert_eq!(done.version, 2);
    scene.until(|seen| seen.version == 2 && seen.delivered.len() == 4).await;
    let status = scene.control.status();
    let policy = &status.policies[0];
    assert_eq!(
        (policy.digest.clone(), policy.source.as_str(), policy.epoch),
        (done.digest.to_string(), "admin", 2)
    );
    assert_eq!(policy.versions[0].digest, before);

    let back = scene.control.rollback("p2c", None).await.unwrap();
    assert_eq!((back.digest.to_string(), back.version), (before.clone(), 3));
    let forth = scene.control.rollback("p2c", Some(done.digest.to_string()[..8].into())).await.unwrap();
    assert_eq!(forth.digest, done.digest);
    let none = scene.control.rollback("p2c", Some("00".into())).await;
    assert!(matches!(none, Err(Denied::NoVersion(_))), "{none:?}");
}

#[tokio::test]
async fn a_refused_policy_changes_nothing_and_is_reported() {
    let scene = Scene::start("services:\n  web: {balancer: p2c}", SERVICES).await;
    let junk = scene.control.put("p2c", Bytes::from_static(b"junk")).await.unwrap_err();
    assert!(matches!(&junk, Denied::Refused(text) if text.contains("not WebAssembly")), "{junk}");
    // A router cannot do a balancer's work: found out by trying it in all its uses.
    let role = scene.control.put("p2c", component("canary")).await.unwrap_err();
    assert!(matches!(&role, Denied::Refused(text) if text.contains("outrigger.yaml:4:")), "{role}");
    let unknown = scene.control.put("nobody", component("p2c")).await.unwrap_err();
    assert_eq!(unknown, Denied::UnknownPolicy("nobody".into()));
    scene.until_status(|status| !status.ready.problems.is_empty()).await;
    let status = scene.control.status();
    assert!(status.ready.ready && status.ready.version == 1, "{:?}", status.ready);
    assert!(status.policies[0].last_refusal.as_ref().unwrap().message.contains("balancer"));
    assert_eq!(scene.metrics.policy_refusals.with_label_values(&["p2c"]).get(), 2);

    scene.control.put("p2c", component("random")).await.unwrap();
    assert_eq!(scene.control.status().ready.problems, Vec::<String>::new());
}

#[tokio::test]
async fn failures_are_replaced_then_quarantined_then_forgiven() {
    let config = "policy_host: {cache_dir: none, quarantine: {failures: 3, window: 1m}}\nservices: {web: {}}";
    let scene = Scene::start(config, SERVICES).await;
    let slot = balancer("web");
    for count in 1..=2 {
        scene.fail(&slot).await;
        scene.until(|seen| seen.replaced.len() == count).await;
    }
    scene.fail(&slot).await;
    // Out of service in all its places, not only where it failed.
    scene.until(|seen| seen.quarantined.len() == 2).await;
    scene.until_status(|status| status.policies[0].quarantined && status.policies[0].failures == 3).await;
    assert!(scene.control.status().ready.problems[0].contains("quarantined"));
    scene.fail(&slot).await;
    scene.until_status(|status| status.policies[0].failures == 4).await;
    assert_eq!(scene.seen.borrow().replaced.len(), 2);
    let gauge = scene.metrics.policy_quarantined.with_label_values(&["p2c"]);
    assert_eq!(gauge.get(), 1);

    let done = scene.control.reset("p2c").await.unwrap();
    assert_eq!(done.version, 2);
    scene.until(|seen| seen.version == 2 && seen.delivered.len() == 4).await;
    assert!(!scene.control.status().policies[0].quarantined);
    assert_eq!(gauge.get(), 0);
}

#[tokio::test]
async fn failures_of_an_earlier_version_do_not_count() {
    let scene = Scene::start("services: {web: {}}", SERVICES).await;
    let digest = Digest::of(b"another");
    let failure = Failure { kind: FailureKind::Deadline, message: "pick".into() };
    scene.reports.send(Report::Failed { worker: 1, slot: balancer("web"), digest, failure }).await.unwrap();
    scene.control.reset("p2c").await.unwrap();
    assert_eq!(scene.control.status().policies[0].failures, 0);
}

#[tokio::test]
async fn state_is_handed_over_to_another_version_of_the_same_policy() {
    let scene = Scene::start("services: {web: {balancer: peak-ewma}}", SERVICES).await;
    let done = scene.control.put("peak-ewma", component("peak-ewma")).await.unwrap();
    scene.until(|seen| seen.version == done.version).await;
    let before = scene.seen.borrow().exported.clone();
    assert!(!before.is_empty());
    let (reply, after) = oneshot::channel();
    scene.workers[0].send(Command::ExportState { slot: balancer("web"), reply }).await.unwrap();
    assert!(after.await.unwrap().starts_with(&before));
}

#[tokio::test]
async fn draining_tells_the_workers_and_the_world() {
    let scene = Scene::start("", SERVICES).await;
    scene.until_status(|status| status.ready.ready).await;
    scene.control.drain().await;
    scene.until(|seen| seen.drained).await;
    scene.until_status(|status| !status.ready.ready && status.ready.draining).await;
}

#[tokio::test]
async fn a_changed_registry_moves_endpoints_and_keeps_instances() {
    let scene = Scene::start("services: {web: {balancer: maglev}}", SERVICES).await;
    scene.write("services.yaml", SERVICES.replace("10.0.0.2", "10.0.0.3"));
    scene.until(|seen| seen.version == 2).await;
    // Maglev asks to be built anew for new endpoints; p2c, which serves `api`, does not.
    assert_eq!(scene.seen.borrow().delivered[2..], [balancer("web")]);
    scene.write("services.yaml", SERVICES.replace("  api", "  new: {endpoints: [\"10.0.2.1:80\"]}\n  api"));
    scene.until(|seen| seen.instances.contains_key(&balancer("new"))).await;

    scene.write("services.yaml", "services: {");
    scene.until_status(|status| !status.ready.registry_valid).await;
    let status = scene.control.status();
    assert!(status.ready.ready && status.ready.problems[0].contains("services.yaml"), "{:?}", status.ready);
    assert_eq!(scene.metrics.registry_valid.get(), 0);
    scene.write("services.yaml", SERVICES);
    scene.until_status(|status| status.ready.registry_valid && status.ready.problems.is_empty()).await;
    assert_eq!(scene.metrics.registry_valid.get(), 1);
}

#[tokio::test]
async fn a_changed_configuration_comes_into_force_or_is_reported() {
    let scene = Scene::start("services: {web: {}}", SERVICES).await;
    scene.write("outrigger.yaml", complete("services: {web: {balancer: maglev}}"));
    scene.until(|seen| seen.version == 2).await;
    assert_eq!(scene.seen.borrow().delivered[2..], [balancer("web")]);

    let refused = "services:\n  web:\n    balancer: {policy: maglev, config: {table_size: no}}";
    scene.write("outrigger.yaml", complete(refused));
    scene.until_status(|status| !status.ready.config_valid).await;
    let problem = scene.control.status().ready.problems[0].clone();
    assert!(problem.contains("outrigger.yaml:5:"), "{problem}");
    assert_eq!((scene.metrics.config_valid.get(), scene.seen.borrow().version), (0, 2));

    scene.write("outrigger.yaml", complete("workers: 7\nservices: {web: {balancer: maglev}}"));
    scene.until_status(|status| status.ready.config_valid).await;
    let status = scene.control.status();
    assert!(status.ready.problems[0].contains("`workers`"), "{:?}", status.ready);
    assert_ne!(status.config.workers, 7);
    assert_eq!(scene.metrics.config_reloads.with_label_values(&["refused"]).get(), 1);
}

#[tokio::test]
async fn a_changed_policy_file_is_swapped_in() {
    let config = "policies:\n  mine: {file: mine.wasm}\nservices:\n  web: {balancer: mine}";
    let files: [(&str, &[u8]); 1] = [("mine.wasm", &component("p2c"))];
    let scene = Scene::try_start(config, SERVICES, &files).await.unwrap();
    let digest = |status: &Status| status.policies.iter().find(|p| p.name == "mine").unwrap().digest.clone();
    let first = digest(&scene.control.status());
    scene.write("mine.wasm", component("random"));
    scene.until_status(|status| digest(status) != first).await;
    assert_eq!(scene.metrics.policy_swaps.with_label_values(&["mine"]).get(), 1);

    scene.write("mine.wasm", b"junk");
    scene.until_status(|status| !status.ready.problems.is_empty()).await;
    assert_ne!(digest(&scene.control.status()), first);
    scene.write("mine.wasm", component("random"));
    scene.until_status(|status| status.ready.problems.is_empty()).await;

    // A policy that leaves the configuration leaves the store.
    scene.write("outrigger.yaml", complete("services: {web: {}}"));
    scene.until_status(|status| status.policies.len() == 1).await;
    assert!(!scene.metrics.encode(std::iter::empty()).unwrap().contains("policy=\"mine\""));
}

#[tokio::test]
async fn a_refused_configuration_is_tried_again_when_its_files_change() {
    let scene = Scene::start("services: {web: {}}", SERVICES).await;
    scene.write(
        "outrigger.yaml",
        complete("policies: {mine: {file: mine.wasm}}\nservices: {web: {balancer: mine}}"),
    );
    scene.until_status(|status| !status.ready.config_valid).await;
    scene.write("mine.wasm", component("random"));
    scene.until_status(|status| status.ready.config_valid).await;
    let status = scene.control.status();
    assert!(status.policy_views().any(|view| view.status.name == "mine" && *view.uses == ["service web"]));
}
