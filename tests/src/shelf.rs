//! Registries that keep releases, in one shape, and what other tools do to the keys of releases.

use std::path::Path;

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::etcd::Etcd;
use crate::program::{self, Said};
use crate::proxy::{Proxy, Scene};
use crate::registry::{Home, Registry};
use crate::{etcd, wait};

/// One of the registries, running or not.
#[derive(Debug)]
pub enum Shelf {
    Etcd(Etcd),
    Embedded { address: std::net::SocketAddr, registry: Option<Registry>, home: Option<Home> },
}

impl Shelf {
    /// One of each kind.
    pub fn all() -> Vec<Self> {
        vec![Self::etcd(), Self::embedded()]
    }

    pub fn etcd() -> Self {
        Self::Etcd(Etcd::start())
    }

    pub fn embedded() -> Self {
        let address = etcd::free();
        let registry = Some(Home::new("{}").start_on(address));
        Self::Embedded { address, registry, home: None }
    }

    fn kind_and_address(&self) -> (&'static str, std::net::SocketAddr) {
        match self {
            Self::Etcd(etcd) => ("etcd", etcd.addresses()[0]),
            Self::Embedded { address, .. } => ("consul", *address),
        }
    }

    /// For `registry` in a configuration.
    pub fn yaml(&self) -> String {
        let (kind, address) = self.kind_and_address();
        format!("{{{kind}: {{endpoints: 'http://{address}', timeout: 1s}}}}")
    }

    /// For `--registry`.
    pub fn flag(&self) -> String {
        let (kind, address) = self.kind_and_address();
        format!("{kind}=http://{address}")
    }

    /// Makes an instance of a service.
    pub fn instance(&self, service: &str, id: &str, backend: &Backend) {
        match self {
            Self::Etcd(etcd) => etcd.instance(service, id, backend.address),
            Self::Embedded { registry, .. } => {
                let (ip, port) = (backend.address.ip(), backend.address.port());
                let entry = json!({ "Name": service, "ID": id, "Address": ip, "Port": port });
                let registry = registry.as_ref().expect("it runs");
                registry.put("/v1/agent/service/register", entry.to_string());
            }
        }
    }

    /// Writes a key below those of releases, as any tool may.
    pub fn write(&self, key: &str, value: impl AsRef<[u8]>) {
        match self {
            Self::Etcd(etcd) => etcd.put_bytes(&format!("/outrigger/releases/{key}"), value.as_ref()),
            Self::Embedded { registry, .. } => {
                let path = format!("/v1/kv/outrigger/releases/{key}");
                drop(registry.as_ref().expect("it runs").put(&path, value));
            }
        }
    }

    /// A key that holds JSON.
    pub fn read(&self, key: &str) -> Value {
        match self {
            Self::Etcd(etcd) => etcd.entry(&format!("/outrigger/releases/{key}")).expect("a key").value,
            Self::Embedded { registry, .. } => {
                registry.as_ref().expect("it runs").json(&format!("/v1/kv/outrigger/releases/{key}?raw"))
            }
        }
    }

    /// All releases are gone.
    pub fn wipe(&self) {
        match self {
            Self::Etcd(etcd) => etcd.delete_below("/outrigger/releases/"),
            Self::Embedded { registry, .. } => {
                let registry = registry.as_ref().expect("it runs");
                let gone = registry.ask("DELETE", "/v1/kv/outrigger/releases?recurse", "", "");
                assert_eq!(gone.status, 200, "{}", gone.text());
            }
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.kill(0),
            Self::Embedded { registry, home, .. } => *home = registry.take().map(Registry::kill),
        }
    }

    pub fn start_again(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.start_again(0),
            Self::Embedded { address, registry, home } => {
                *registry = home.take().map(|home| home.start_on(*address));
            }
        }
    }

    /// `outrigger policy …`, about this registry.
    pub fn policy(&self, arguments: &[&str], dir: &Path) -> Said {
        let flag = self.flag();
        let line: Vec<&str> =
            ["policy"].into_iter().chain(arguments.iter().copied()).chain(["--registry", &flag]).collect();
        program::run(&line, dir)
    }

    /// `policy push` of a component under the name `mine`.
    pub fn push(&self, component: &[u8], more: &[&str]) -> Said {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("mine.wasm"), component).unwrap();
        let line: Vec<&str> =
            ["push", "mine.wasm", "--name", "mine"].into_iter().chain(more.iter().copied()).collect();
        self.policy(&line, dir.path())
    }

    /// `policy releases mine`, as JSON.
    pub fn releases(&self) -> Value {
        let said = self.policy(&["releases", "mine", "--json"], program::root()).expect_ok("releases");
        serde_json::from_str(&said.out).unwrap()
    }

    /// A sidecar whose service `web` is balanced by the release `mine`; `more` is said about it.
    pub fn scene(&self, more: &str) -> Scene {
        Scene::new()
            .registry(&self.yaml())
            .set("policies", &format!("{{mine: {{release: mine{more}}}}}"))
            .set("services", "{web: {balancer: mine}}")
    }
}

/// Which version of `mine` a sidecar has in force on all workers.
pub fn version(proxy: &Proxy) -> Option<u64> {
    proxy.ask("/policies/mine")["release"]["version"].as_u64()
}

pub fn wait_for_version(proxy: &Proxy, wanted: u64) {
    wait::until_true(&format!("version {wanted} of the release"), || version(proxy) == Some(wanted));
    let published = proxy.ask("/ready")["version"].as_u64();
    proxy.wait_for_ready("all workers to have it", |ready| ready["applied"].as_u64() >= published);
}

/// Waits until a sidecar says this among its problems.
pub fn wait_for_problem(proxy: &Proxy, text: &str) {
    proxy.wait_for_ready(text, |ready| ready["problems"].to_string().contains(text));
}
