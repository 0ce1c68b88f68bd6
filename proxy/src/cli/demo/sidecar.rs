//! The sidecar of the demo: a directory with the configuration it would have anywhere, the proxy itself in this
//! process, and its admin interface as any other client sees it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::backends::{Backend, COUNT};
use super::readings::Readings;
use crate::app::{self, Running};
use crate::cli::admin::Address;
use crate::config;
use crate::policy::builtin;

/// What requests ask for.
pub(super) const SERVICE: &str = "shop";
/// The configured policy whose component is swapped.
pub(super) const POLICY: &str = "demo";

/// A proxy with all that belongs to it.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) running: Running,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) directory: Directory,
}

/// What the sidecar says about itself at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Word {
    pub(super) readings: Readings,
    /// Of the component in force.
    pub(super) digest: String,
    pub(super) quarantined: bool,
    /// `ready`, `ejected` and so on, in the order of the backends.
    pub(super) states: [String; COUNT],
}

/// Removed when it goes.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Sidecar {
    pub(super) async fn start(
        backends: &[Arc<Backend>],
        workers: usize,
        first: &str,
    ) -> anyhow::Result<Self> {
        let directory = Directory::create()?;
        directory.write("outrigger.yaml", configuration(workers, first).as_bytes())?;
        directory.write("services.yaml", services(backends).as_bytes())?;
        for policy in builtin::names().chain(["traps"]) {
            directory.write(&format!("{policy}.wasm"), component(policy)?)?;
        }
        let path = directory.path("outrigger.yaml");
        let config = config::load(&path).map_err(|problems| {
            anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let running = app::start(path, config, Some(PathBuf::from("/proc/self/exe")), None).await?;
        let outbound = *running.outbound.first().context("the sidecar listens nowhere")?;
        let admin = running.admin.context("the admin interface listens nowhere")?;
        Ok(Self { running, outbound, admin, directory })
    }

    /// Puts a component in force; all workers use it on return.
    pub(super) async fn put(&self, policy: &str) -> anyhow::Result<()> {
        let path = format!("/policies/{POLICY}");
        self.ask(Method::PUT, &path, Bytes::from_static(component(policy)?)).await.map(drop)
    }

    pub(super) async fn word(&self, backends: &[Arc<Backend>]) -> anyhow::Result<Word> {
        let metrics = self.ask(Method::GET, "/metrics", Bytes::new()).await?;
        let policy = self.json(&format!("/policies/{POLICY}")).await?;
        let endpoints = self.json("/endpoints").await?;
        let state = |backend: &Arc<Backend>| {
            let address = backend.address.to_string();
            let all = endpoints[SERVICE].as_array().into_iter().flatten();
            let own = all.into_iter().find(|endpoint| endpoint["address"] == address.as_str());
            own.and_then(|endpoint| endpoint["status"].as_str()).unwrap_or("?").to_owned()
        };
        Ok(Word {
            readings: Readings::of(&String::from_utf8_lossy(&metrics), POLICY, SERVICE),
            digest: policy["digest"].as_str().unwrap_or_default().chars().take(12).collect(),
            quarantined: policy["quarantined"] == true,
            states: std::array::from_fn(|i| backends.get(i).map(state).unwrap_or_default()),
        })
    }

    async fn json(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.ask(Method::GET, path, Bytes::new()).await?)?)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let what = format!("{method} {path}");
        let (status, body) = Address::Tcp(self.admin).ask(method, path, None, body).await?;
        if !status.is_success() {
            bail!("{what}: {status}: {}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    }
}

impl Directory {
    /// Below the system's directory for such things, and for this user alone.
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("outrigger-demo-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn base(&self) -> &Path {
        &self.0
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path(name);
        let written: io::Result<()> = std::fs::write(&path, bytes);
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is small and lies where such things are swept.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn configuration(workers: usize, first: &str) -> String {
    format!(
        "# Written by `outrigger demo`; change it while the demo runs, and see what happens.
workers: {workers}
outbound: 127.0.0.1:0
admin:
  listen: 127.0.0.1:0
registry:
  file: services.yaml
policy_host:
  cache_dir: none
policies:
  {POLICY}:
    file: {first}.wasm
services:
  {SERVICE}:
    balancer: {POLICY}
    retry:
      attempts: 3
      statuses: [500]
    ejection:
      consecutive_failures: 3
      time: 500ms
      time_max: 1s
"
    )
}

fn services(backends: &[Arc<Backend>]) -> String {
    let endpoint = |backend: &Arc<Backend>| format!("      - {} # {}\n", backend.address, backend.name);
    let endpoints: String = backends.iter().map(endpoint).collect();
    format!("services:\n  {SERVICE}:\n    endpoints:\n{endpoints}")
}

fn component(policy: &str) -> anyhow::Result<&'static [u8]> {
    match policy {
        "traps" => Ok(TRAPS),
        name => builtin::bytes(name).with_context(|| format!("there is no built-in policy `{name}`")),
    }
}

include!(concat!(env!("OUT_DIR"), "/demo.rs"));
