//! How a release gets into a registry: parts first, then everything that makes it one in a single transaction.
//!
//! The transaction compares the pointer to the version in force with what was read before. So two who push at once do
//! not undo each other, and whoever is interrupted leaves parts that no version refers to, which the next push
//! removes. They are removed by the transaction as well: a push whose parts are taken away beneath it finds the
//! pointer moved, and begins anew.

use std::collections::BTreeSet;
use std::time::SystemTime;

use anyhow::bail;
use bytes::Bytes;

use super::registry::manifests;
use crate::control::registry::kv::{Kv, Step};
use crate::control::releases;
use crate::metrics::unix_seconds;
use crate::release::{
    Action, CHANGES_MAX, Change, Current, Layout, Manifest, PART_BYTES_MAX, SigningKey, VERSION_MAX,
    VERSIONS_MAX,
};
use crate::snapshot::Digest;

/// Others may move the pointer so often meanwhile.
const CONFLICTS_MAX: usize = 8;
/// Components and versions removed at once; etcd and Consul take 128 steps in a transaction.
const GARBAGE_MAX: usize = 48;

/// What is to be published.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) component: Bytes,
    pub(super) contract: String,
    pub(super) configuration: Option<String>,
    pub(super) by: String,
    pub(super) message: String,
    /// `None`: the one after the highest.
    pub(super) version: Option<u64>,
    pub(super) key: Option<SigningKey>,
}

pub(super) enum Published {
    Anew(Manifest),
    /// It was in force already, and nothing was published.
    Same(Manifest),
}

/// Which version is in force, and where the audit trail has got to.
pub(super) struct Pointer {
    pub(super) current: Option<Current>,
    revision: u64,
    /// Number of the last entry of the audit trail.
    change: u64,
}

/// What moves a pointer, for the audit trail.
pub(super) struct Move<'a> {
    pub(super) action: Action,
    pub(super) to: &'a Manifest,
    pub(super) by: &'a str,
    pub(super) message: &'a str,
}

pub(super) async fn publish(kv: &mut Kv, layout: &Layout, draft: &Draft) -> anyhow::Result<Published> {
    for _ in 0..CONFLICTS_MAX {
        let pointer = Pointer::read(kv, layout, &draft.name).await?;
        let kept = manifests(kv, layout, &draft.name).await?;
        let in_force = kept.iter().find(|manifest| Some(manifest.version) == pointer.version());
        if let Some(manifest) = in_force.filter(|manifest| draft.is_same(manifest)) {
            return Ok(Published::Same(manifest.clone()));
        }
        let manifest = draft.manifest(&kept)?;
        for (index, part) in draft.component.chunks(PART_BYTES_MAX).enumerate() {
            kv.put(&layout.part(&draft.name, &manifest.digest, index), part).await?;
        }
        let (action, by, message) = (Action::Push, draft.by.as_str(), draft.message.as_str());
        let mut steps = pointer.moved(layout, &Move { action, to: &manifest, by, message })?;
        let key = layout.manifest(&draft.name, manifest.version);
        steps.push(Step::Swap { key, revision: 0, value: serde_json::to_vec(&manifest)? });
        let stored = kv.keys(&layout.components(&draft.name)).await?;
        steps.extend(garbage(layout, &manifest, (&kept, pointer.version()), &stored));
        if kv.change(&steps).await? {
            return Ok(Published::Anew(manifest));
        }
    }
    bail!("others move release `{}` all the time; try again", draft.name)
}

/// Versions beyond those that are kept, and components that no version that stays refers to.
fn garbage(
    layout: &Layout,
    new: &Manifest,
    (kept, in_force): (&[Manifest], Option<u64>),
    stored: &[String],
) -> Vec<Step> {
    // The new one, the one that was in force until now, and the newest of the others.
    let (now, others): (Vec<&Manifest>, Vec<&Manifest>) =
        kept.iter().partition(|manifest| Some(manifest.version) == in_force);
    let room = VERSIONS_MAX.saturating_sub(1 + now.len());
    let (stays, goes) = others.split_at(room.min(others.len()));
    let digests: BTreeSet<&str> =
        stays.iter().chain(&now).map(|m| m.digest.as_str()).chain([new.digest.as_str()]).collect();
    let components = layout.components(&new.policy);
    let of_part = |key: &String| Some(key.strip_prefix(&components)?.split_once('/')?.0.to_owned());
    let stored: BTreeSet<String> = stored.iter().filter_map(of_part).collect();
    let versions = goes.iter().rev().map(|m| Step::Delete(layout.manifest(&new.policy, m.version)));
    let parts = stored.iter().filter(|digest| !digests.contains(digest.as_str()));
    let parts = parts.map(|digest| Step::DeleteBelow(layout.parts(&new.policy, digest)));
    versions.take(GARBAGE_MAX).chain(parts.take(GARBAGE_MAX)).collect()
}

impl Draft {
    fn is_same(&self, manifest: &Manifest) -> bool {
        let key = self.key.as_ref().map(|key| key.public().id());
        manifest.digest == Digest::of(&self.component).to_string()
            && manifest.configuration == self.configuration
            && manifest.signature.as_ref().map(|signature| &signature.key) == key.as_ref()
            && self.version.is_none_or(|version| version == manifest.version)
    }

    /// Under the next version, signed if there is a key.
    fn manifest(&self, kept: &[Manifest]) -> anyhow::Result<Manifest> {
        let highest = kept.iter().map(|manifest| manifest.version).max().unwrap_or(0);
        let version = self.version.unwrap_or(highest + 1);
        if version <= highest {
            bail!("version {version} is not higher than {highest}, which there is already");
        }
        if version > VERSION_MAX {
            bail!("version {version} is too high: up to {VERSION_MAX}");
        }
        let mut manifest = Manifest {
            policy: self.name.clone(),
            version,
            digest: Digest::of(&self.component).to_string(),
            size: self.component.len(),
            parts: self.component.len().div_ceil(PART_BYTES_MAX),
            contract: self.contract.clone(),
            configuration: self.configuration.clone(),
            published_at: now(),
            published_by: self.by.clone(),
            message: self.message.clone(),
            signature: None,
        };
        if let Some(key) = &self.key {
            manifest.sign(key);
        }
        Ok(manifest)
    }
}

impl Pointer {
    pub(super) async fn read(kv: &mut Kv, layout: &Layout, name: &str) -> anyhow::Result<Self> {
        if let Some((current, revision)) = releases::current(kv, layout, name).await? {
            return Ok(Self { current: Some(current), revision, change: current.change });
        }
        // Without a pointer there may be a trail all the same: somebody has deleted it.
        let keys = kv.keys(&layout.changes(name)).await?;
        let last = keys.last().and_then(|key| key.rsplit('/').next()?.parse().ok());
        Ok(Self { current: None, revision: 0, change: last.unwrap_or(0) })
    }

    pub(super) fn version(&self) -> Option<u64> {
        self.current.map(|current| current.version)
    }

    /// The pointer to another version, and the entry of the audit trail that says so.
    pub(super) fn moved(&self, layout: &Layout, made: &Move<'_>) -> anyhow::Result<Vec<Step>> {
        let (name, number) = (&made.to.policy, self.change + 1);
        let change = Change {
            change: number,
            action: made.action,
            at: now(),
            by: made.by.to_owned(),
            from: self.version(),
            to: made.to.version,
            digest: made.to.digest.clone(),
            message: made.message.to_owned(),
        };
        let current = Current { version: change.to, change: number };
        let swap = |key, revision, value| Step::Swap { key, revision, value };
        let mut steps = vec![
            swap(layout.current(name), self.revision, serde_json::to_vec(&current)?),
            swap(layout.change(name, number), 0, serde_json::to_vec(&change)?),
        ];
        if let Some(oldest) = number.checked_sub(CHANGES_MAX).filter(|oldest| *oldest > 0) {
            steps.push(Step::Delete(layout.change(name, oldest)));
        }
        Ok(steps)
    }
}

fn now() -> u64 {
    unix_seconds(SystemTime::now()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistrySource;

    fn draft(component: &'static [u8]) -> Draft {
        Draft {
            name: "mine".to_owned(),
            component: Bytes::from_static(component),
            contract: "outrigger:policy@0.1.0".to_owned(),
            configuration: None,
            by: "somebody".to_owned(),
            message: String::new(),
            version: None,
            key: None,
        }
    }

    fn layout() -> Layout {
        let config = "registry: {consul: {endpoints: 'http://127.0.0.1:8500'}}";
        let config = crate::config::parse(config, "o.yaml", std::path::Path::new("")).unwrap();
        assert!(matches!(config.registry.source, RegistrySource::Consul(_)));
        Layout::of(&config.registry.source).unwrap()
    }

    #[test]
    fn versions_count_up_and_may_be_lifted() {
        let first = draft(b"one").manifest(&[]).unwrap();
        assert_eq!((first.version, first.parts, first.size), (1, 1, 3));
        let lifted =
            Draft { version: Some(40), ..draft(b"two") }.manifest(std::slice::from_ref(&first)).unwrap();
        assert_eq!(draft(b"three").manifest(&[lifted.clone(), first.clone()]).unwrap().version, 41);
        for wrong in [0, 40, VERSION_MAX + 1] {
            let draft = Draft { version: Some(wrong), ..draft(b"four") };
            assert!(draft.manifest(std::slice::from_ref(&lifted)).is_err(), "{wrong}");
        }
        assert!(draft(b"one").is_same(&first));
        assert!(!draft(b"two").is_same(&first));
        let configured = Draft { configuration: Some("{}".to_owned()), ..draft(b"one") };
        assert!(!configured.is_same(&first));
        let signed = Draft { key: Some(SigningKey::generate().unwrap().0), ..draft(b"one") };
        assert!(!signed.is_same(&first));
    }

    /// Sixteen versions stay, and the one in force is among them however old it is.
    #[test]
    fn old_versions_go_with_their_components() {
        let layout = layout();
        let version = |version: u64| {
            let mut manifest = draft(b"").manifest(&[]).unwrap();
            (manifest.version, manifest.digest) = (version, format!("digest{version:02}"));
            manifest
        };
        let kept: Vec<Manifest> = (1..=17).rev().map(version).collect();
        let stored: Vec<String> = (1..=17)
            .map(|version| layout.part("mine", &format!("digest{version:02}"), 0))
            .chain([layout.part("mine", "left-behind", 3), layout.part("mine", "digest18", 0)])
            .collect();
        let steps = garbage(&layout, &version(18), (&kept, Some(2)), &stored);
        let gone: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Delete(key) | Step::DeleteBelow(key) | Step::Swap { key, .. } => {
                    key.strip_prefix("outrigger/releases/").unwrap().to_owned()
                }
            })
            .collect();
        let expected = [
            "manifests/mine/0000000001",
            "manifests/mine/0000000003",
            "parts/mine/digest01/",
            "parts/mine/digest03/",
            "parts/mine/left-behind/",
        ];
        assert_eq!(gone, expected);
        // A component that another version has as well stays.
        let mut shared = kept.clone();
        shared[0].digest = "digest01".to_owned();
        let steps = garbage(&layout, &version(18), (&shared, Some(2)), &stored);
        let below = |step: &Step| matches!(step, Step::DeleteBelow(key) if key.contains("digest01"));
        assert!(!steps.iter().any(below));
    }

    #[test]
    fn the_audit_trail_moves_with_the_pointer_and_is_bounded() {
        let (layout, manifest) = (layout(), draft(b"one").manifest(&[]).unwrap());
        let made = Move { action: Action::Push, to: &manifest, by: "somebody", message: "why" };
        let pointer = Pointer {
            current: Some(Current { version: 7, change: CHANGES_MAX }),
            revision: 9,
            change: CHANGES_MAX,
        };
        let steps = pointer.moved(&layout, &made).unwrap();
        let [
            Step::Swap { key, revision: 9, value },
            Step::Swap { revision: 0, value: entry, .. },
            Step::Delete(oldest),
        ] = &steps[..]
        else {
            panic!("{steps:?}")
        };
        assert_eq!(key, "outrigger/releases/current/mine");
        let current: Current = serde_json::from_slice(value).unwrap();
        assert_eq!(current, Current { version: 1, change: CHANGES_MAX + 1 });
        let entry: Change = serde_json::from_slice(entry).unwrap();
        assert_eq!((entry.from, entry.to, entry.message.as_str()), (Some(7), 1, "why"));
        assert_eq!(*oldest, layout.change("mine", 1));
        let first = Pointer { current: None, revision: 0, change: 0 };
        assert_eq!(first.moved(&layout, &made).unwrap().len(), 2);
    }
}
