//! Where control learns what the operator and the registry want: files, read off the loop, and the components they
//! name.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::policies::{self, LoadError, Origin, Version};
use super::prepare::Refused;
use super::reconcile::place_of;
use super::{registry, releases};
use crate::config::{self, Config, Diagnostic, PolicyOrigin, RegistrySource};
use crate::policy::Engine;
use crate::snapshot::Catalogue;
use crate::tls::{self, ClientConfig};

/// A configuration with the policies that are new in it.
#[derive(Debug)]
pub(super) struct Reloaded {
    pub(super) config: Config,
    pub(super) versions: Versions,
}

/// A configuration that cannot come into force.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) problems: Vec<String>,
    /// When one of these changes, it may be another matter.
    pub(super) files: BTreeSet<PathBuf>,
    pub(super) refused: Vec<Refused>,
}

/// By policy name.
pub(super) type Versions = HashMap<Arc<str>, Version>;

/// Every file that the configuration rests on, itself included.
pub(super) fn files(config_path: &Path, config: &Config) -> BTreeSet<PathBuf> {
    let registry = match &config.registry.source {
        RegistrySource::File(path) => Some(path.clone()),
        RegistrySource::Etcd(_) | RegistrySource::Consul(_) => None,
    };
    let policies = config.policies.values().filter_map(|policy| match &policy.origin {
        PolicyOrigin::File(file) => Some(file.clone()),
        PolicyOrigin::Release(_) => None,
    });
    let tls = config.tls_clients().flat_map(|(_, client)| client.files().map(Path::to_owned));
    policies.chain([config_path.to_owned()]).chain(registry).chain(tls).collect()
}

pub(super) async fn config(path: PathBuf) -> Result<Config, Vec<Diagnostic>> {
    let file = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
    read.unwrap_or_else(|_| Err(vec![Diagnostic::of_file(&file, READING_PANICKED)]))
}

pub(super) async fn catalogue(path: PathBuf) -> Result<Catalogue, Vec<Diagnostic>> {
    let file = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || registry::file::load(&path)).await;
    read.unwrap_or_else(|_| Err(vec![Diagnostic::of_file(&file, READING_PANICKED)]))
}

pub(super) async fn tls(client: tls::Client) -> Result<Arc<ClientConfig>, String> {
    let read = tokio::task::spawn_blocking(move || client.read()).await;
    read.map_err(|_| READING_PANICKED.to_owned())?.map_err(|error| error.to_string())
}

/// What a start has to go by: the services file, or the catalogue that was saved, with its age.
pub(super) async fn first_catalogue(
    config: &Config,
) -> Result<Option<(Catalogue, Duration)>, Vec<Diagnostic>> {
    if let RegistrySource::File(path) = &config.registry.source {
        return Ok(Some((catalogue(path.clone()).await?, Duration::ZERO)));
    }
    let Some(path) = registry::saved::path(config) else { return Ok(None) };
    // Without it, the start is one without a saved catalogue.
    Ok(tokio::task::spawn_blocking(move || registry::saved::load(&path)).await.ok().flatten())
}

/// Reads the configuration, and loads the policies that are new in it or come from elsewhere now.
pub(super) async fn reload(
    path: PathBuf,
    before: Arc<Config>,
    known: BTreeSet<Arc<str>>,
    engine: Engine,
) -> Result<Box<Reloaded>, Broken> {
    let broken = |problems, files| Broken { problems, files, refused: Vec::new() };
    let config = config(path.clone())
        .await
        .map_err(|problems| broken(problems.iter().map(ToString::to_string).collect(), BTreeSet::new()))?;
    let mut names = needed(&config);
    names.retain(|name| {
        !known.contains(name) || policies::origin_of(&before, name) != policies::origin_of(&config, name)
    });
    let config = Arc::new(config);
    let versions = load_all(&engine, Arc::clone(&config), names);
    let versions = versions.await.map_err(|problems| broken(problems, files(&path, &config)))?;
    Ok(Box::new(Reloaded { config: Arc::unwrap_or_clone(config), versions }))
}

/// All that the configuration uses, and all that it gives a file for.
pub(super) fn needed(config: &Config) -> BTreeSet<Arc<str>> {
    let used = config.policy_uses().map(|used| &used.policy);
    used.chain(config.policies.keys()).map(|name| name.as_str().into()).collect()
}

/// Side by side: the blocking pool has a thread for each.
pub(super) async fn load_all(
    engine: &Engine,
    config: Arc<Config>,
    names: BTreeSet<Arc<str>>,
) -> Result<Versions, Vec<String>> {
    let mut loading = JoinSet::new();
    for name in names {
        let (engine, config) = (engine.clone(), Arc::clone(&config));
        loading.spawn(async move { (Arc::clone(&name), load(engine, &config, name).await) });
    }
    let mut versions = HashMap::new();
    let mut problems = Vec::new();
    while let Some(ended) = loading.join_next().await {
        match ended {
            Ok((name, Ok(version))) => versions.extend(version.map(|version| (name, version))),
            // It is followed, and comes into force when it can.
            Ok((name, Err(error @ (LoadError::NotHeard(_) | LoadError::Release(..))))) => {
                tracing::warn!(policy = &*name, %error, "a release is not there yet; the fallback serves");
            }
            Ok((name, Err(error))) => {
                let place = place_of(&config, &name).unwrap_or_default();
                problems.push(format!("{place}: policy `{name}`: {error}"));
            }
            Err(_) => problems.push(LoadError::Panicked.to_string()),
        }
    }
    problems.sort();
    if problems.is_empty() { Ok(versions) } else { Err(problems) }
}

/// From where the configuration says.
async fn load(engine: Engine, config: &Config, name: Arc<str>) -> Result<Option<Version>, LoadError> {
    let limit = config.policy_host.component_bytes_max;
    match policies::origin_of(config, &name) {
        Some(Origin::Builtin) => policies::load_builtin(engine, name).await.map(Some),
        Some(Origin::File(path)) => policies::load_file(engine, path, limit, None).await,
        Some(Origin::Release(release)) => {
            let fetched = releases::first(config, &release).await.map_err(LoadError::NotHeard)?;
            policies::load_release(engine, fetched.released, fetched.component).await.map(Some)
        }
        None => Err(LoadError::Unknown),
    }
}

/// Takes over what cannot change while the process runs, and names the fields that wait.
pub(super) fn keep_until_restart(now: &Config, next: &mut Config) -> Vec<&'static str> {
    let mut waiting = Vec::new();
    macro_rules! keep {
        ($($field:ident),*) => {$(
            if next.$field != now.$field {
                waiting.push(stringify!($field));
            }
            // What is equal may still be shared with tasks that run.
            next.$field.clone_from(&now.$field);
        )*};
    }
    keep!(node, workers, outbound, capture, admin, registry, state_dir, log, dns, forwarded, limits);
    keep!(policy_host);
    waiting
}

const READING_PANICKED: &str = "reading it ended in a panic, which is a fault of this program";
