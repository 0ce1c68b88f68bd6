//! Where in a registry releases are kept. All keys of one policy name it, so that rights can be given by prefix.

use crate::config::RegistrySource;

/// Keys of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Ends with a slash.
    root: String,
}

impl Layout {
    /// `None` for a file, which keeps no releases.
    pub fn of(source: &RegistrySource) -> Option<Self> {
        match source {
            RegistrySource::File(_) => None,
            RegistrySource::Etcd(etcd) => Some(Self { root: format!("{}/releases/", etcd.prefix) }),
            RegistrySource::Consul(_) => Some(Self { root: "outrigger/releases/".to_owned() }),
        }
    }

    /// Which version of each policy is in force; all of them lie together, so that one watch sees them.
    pub fn currents(&self) -> String {
        format!("{}current/", self.root)
    }

    pub fn current(&self, policy: &str) -> String {
        format!("{}{policy}", self.currents())
    }

    pub fn manifests(&self, policy: &str) -> String {
        format!("{}manifests/{policy}/", self.root)
    }

    pub fn manifest(&self, policy: &str, version: u64) -> String {
        format!("{}{version:010}", self.manifests(policy))
    }

    pub fn components(&self, policy: &str) -> String {
        format!("{}parts/{policy}/", self.root)
    }

    pub fn parts(&self, policy: &str, digest: &str) -> String {
        format!("{}{digest}/", self.components(policy))
    }

    pub fn part(&self, policy: &str, digest: &str, index: usize) -> String {
        format!("{}{index:04}", self.parts(policy, digest))
    }

    pub fn changes(&self, policy: &str) -> String {
        format!("{}history/{policy}/", self.root)
    }

    pub fn change(&self, policy: &str, change: u64) -> String {
        format!("{}{change:010}", self.changes(policy))
    }

    pub fn runnings(&self, policy: &str) -> String {
        format!("{}running/{policy}/", self.root)
    }

    pub fn running(&self, policy: &str, sidecar: &str) -> String {
        format!("{}{sidecar}", self.runnings(policy))
    }
}
