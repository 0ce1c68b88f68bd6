//! Releases: a policy's component and its configuration, published once in a registry, each under a version.
//!
//! Pure, and shared by the sidecar, which follows releases, and by `outrigger policy push`, which makes them. Invariant:
//! a component comes out of `Manifest::assemble` only as the one whose digest the manifest names, and a manifest
//! passes `Manifest::verify` only under the name and version that it was published under.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::snapshot::Digest;

mod keys;
mod layout;

pub use keys::{KeyError, PublicKey, SigningKey};
pub use layout::Layout;

/// Of one part of a component. Consul takes values of 512 KiB, and in transactions they grow by a third.
pub const PART_BYTES_MAX: usize = 256 << 10;
/// Of a component that can be published.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Of a configuration, as JSON text. It is part of the manifest, and travels with it in one transaction.
pub const CONFIGURATION_BYTES_MAX: usize = 64 << 10;
/// Of what is written by people: who, and why.
pub const WORDS_BYTES_MAX: usize = 500;
/// Versions kept of each policy, the one in force among them.
pub const VERSIONS_MAX: usize = 16;
/// Entries kept of each policy's audit trail.
pub const CHANGES_MAX: u64 = 1_000;
/// Ten digits, so that keys sort as numbers do.
pub const VERSION_MAX: u64 = 9_999_999_999;

const PARTS_MAX: usize = COMPONENT_BYTES_MAX / PART_BYTES_MAX;

/// What is published under one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub policy: String,
    pub version: u64,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
    /// Of the component, in bytes.
    pub size: usize,
    pub parts: usize,
    /// The WIT package that it was built against.
    pub contract: String,
    /// JSON text, an object: what is given to the policy where a use of it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// In seconds since 1970.
    pub published_at: u64,
    pub published_by: String,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// Ed25519, over `Manifest::signed_text`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// `PublicKey::id` of the key that made it.
    pub key: String,
    /// In base64.
    pub value: String,
}

/// Which version is in force. Whoever moves it compares first, so that two who push at once do not undo each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    pub version: u64,
    /// Number of the entry in the audit trail that put it in force.
    pub change: u64,
}

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub change: u64,
    pub action: Action,
    /// In seconds since 1970.
    pub at: u64,
    pub by: String,
    /// In force before; `None`: none was.
    pub from: Option<u64>,
    pub to: u64,
    pub digest: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Push,
    Rollback,
}

/// What one sidecar says about one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub sidecar: String,
    /// That the sidecar serves for, as far as it knows.
    #[serde(default)]
    pub service: String,
    /// What serves there. `None`: no version of this release does.
    pub version: Option<u64>,
    #[serde(default)]
    pub digest: String,
    /// In seconds since 1970.
    pub since: u64,
    /// Why the version in force in the registry is not in force there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// `None`: it is not known.
    pub version: Option<u64>,
    pub reason: String,
}

/// What whoever uses a release insists on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The lowest version that is accepted: what keeps old releases from being played back.
    pub at_least: u64,
    /// One of them must have signed; empty: nobody need have.
    pub keys: Arc<[PublicKey]>,
}

/// Why a release is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("its manifest cannot be read: {0}")]
    Unreadable(String),
    #[error("its manifest is missing")]
    NoManifest,
    #[error("it was published as version {version} of `{policy}`: its manifest has been moved here")]
    Moved { policy: String, version: u64 },
    #[error("version {at_least} is the lowest that is accepted here (`at_least`)")]
    TooOld { at_least: u64 },
    #[error("it is not signed, and only signed releases are accepted here: push it with `--sign`")]
    Unsigned,
    #[error("it is signed with key {0}, which is not among the trusted keys")]
    UnknownKey(String),
    #[error("its signature with key {0} is wrong: what is in the registry is not what was signed")]
    BadSignature(String),
    #[error("{bytes} bytes, of which {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("part {0} of its component is missing")]
    MissingPart(usize),
    #[error("the parts of its component have {found} bytes in all, and its manifest says {size}")]
    WrongSize { found: usize, size: usize },
    #[error("its component has the digest {0}, and its manifest names another")]
    WrongDigest(Digest),
    #[error("its configuration is not a JSON object of at most {CONFIGURATION_BYTES_MAX} bytes")]
    Configuration,
}

impl Manifest {
    pub fn read(json: &[u8]) -> Result<Self, Unfit> {
        serde_json::from_slice(json).map_err(|error| Unfit::Unreadable(error.to_string()))
    }

    /// What a signature is over: everything that decides what runs, one field a line. No field can hold a line's end:
    /// names are DNS labels, digests are digits, and `verify` checks the contract.
    pub fn signed_text(&self) -> String {
        let Self { policy, version, digest, size, contract, configuration, .. } = self;
        let configuration = configuration.as_ref().map(|text| Digest::of(text.as_bytes()).to_string());
        format!(
            "outrigger release 1\npolicy {policy}\nversion {version}\ncomponent {digest}\nsize {size}\n\
             contract {contract}\nconfiguration {}\n",
            configuration.as_deref().unwrap_or("none")
        )
    }

    pub fn sign(&mut self, key: &SigningKey) {
        self.signature = Some(Signature { key: key.public().id(), value: key.sign(&self.signed_text()) });
    }

    /// Whether this is the version of the policy that it was looked up as, and whoever uses it may trust it.
    pub fn verify(&self, policy: &str, version: u64, trust: &Trust, bytes_max: usize) -> Result<(), Unfit> {
        if self.policy != policy || self.version != version {
            return Err(Unfit::Moved { policy: self.policy.clone(), version: self.version });
        }
        if version < trust.at_least {
            return Err(Unfit::TooOld { at_least: trust.at_least });
        }
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !plain(&self.contract) || !plain(&self.digest) {
            return Err(Unfit::Unreadable("a field holds what it cannot hold".to_owned()));
        }
        if !trust.keys.is_empty() {
            let signature = self.signature.as_ref().ok_or(Unfit::Unsigned)?;
            let key = trust.keys.iter().find(|key| key.id() == signature.key);
            let key = key.ok_or_else(|| Unfit::UnknownKey(shortened(&signature.key)))?;
            if !key.has_signed(&self.signed_text(), &signature.value) {
                return Err(Unfit::BadSignature(key.id()));
            }
        }
        let max = bytes_max.min(COMPONENT_BYTES_MAX);
        if self.size > max {
            return Err(Unfit::TooLarge { bytes: self.size, max });
        }
        if self.parts > PARTS_MAX {
            return Err(Unfit::TooLarge { bytes: self.parts.saturating_mul(PART_BYTES_MAX), max });
        }
        match &self.configuration {
            Some(text) if !is_configuration(text) => Err(Unfit::Configuration),
            _ => Ok(()),
        }
    }

    /// The component out of its parts, in order.
    pub fn assemble(&self, parts: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, Unfit> {
        let found: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        if found != self.size {
            return Err(Unfit::WrongSize { found, size: self.size });
        }
        let component: Vec<u8> = parts.iter().flat_map(|part| part.as_ref().iter().copied()).collect();
        let digest = Digest::of(&component);
        if digest.to_string() != self.digest {
            return Err(Unfit::WrongDigest(digest));
        }
        Ok(component)
    }
}

/// A JSON object that is not too long.
pub fn is_configuration(text: &str) -> bool {
    text.len() <= CONFIGURATION_BYTES_MAX
        && serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

/// What others have written, as it can be shown: on one line, and not too long.
pub fn shortened(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(WORDS_BYTES_MAX)];
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
