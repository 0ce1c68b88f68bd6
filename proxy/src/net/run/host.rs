//! The host's kernel at the beginning of a run, and the way to namespaces that are recorded.

use super::super::NetError;
use super::super::item::{Inside, Item, Place};
use super::super::kernel::Kernels;
use super::super::namespace::Namespace;
use super::super::observe::View;
use super::super::plan::Scope;
use super::super::store::Record;
use super::{add, own, reading};

/// The host's kernel, and what it says.
pub(super) struct Host {
    pub(super) kernels: Kernels,
    pub(super) view: View,
}

impl Host {
    pub(super) async fn open() -> Result<Self, NetError> {
        let mut kernels = Kernels::default();
        add(&mut kernels, Place::Host, own()?)?;
        let view = kernels.view(&Place::Host).await.map_err(|source| reading(&Place::Host, source))?;
        Ok(Self { kernels, view })
    }

    /// Recorded workloads whose namespace cannot be found any more.
    pub(super) fn gone(&self, record: &Record) -> Vec<String> {
        let is_gone = |id: &&String| {
            let inside = record.insides.get(*id);
            inside.and_then(|inside| self.reach(record, inside)).is_none()
        };
        record.settings.workloads.keys().filter(is_gone).cloned().collect()
    }

    /// The namespace of a recorded workload: by its path, or else by its number, which is its own for as long as its
    /// cable is there.
    pub(super) fn reach(&self, record: &Record, inside: &Inside) -> Option<Namespace> {
        let path = record.settings.workloads.get(&inside.workload)?.namespace.path();
        let by_path = Namespace::open(&path).ok().filter(|found| found.number() == inside.namespace);
        // The search through all processes takes longer than the look at the links.
        by_path
            .or_else(|| self.has_cable(record, inside).then(|| Namespace::find(inside.namespace)).flatten())
    }

    /// Opens the other namespaces that we have made something in, as far as they live.
    pub(super) fn add_staying(&mut self, record: &Record, scope: Scope<'_>) -> Result<(), NetError> {
        for place in record.made.iter().map(|made| &made.place) {
            let Place::Inside(inside) = place else { continue };
            if !scope.includes(Some(&inside.workload)) || self.kernels.places().any(|known| known == place) {
                continue;
            }
            if let Some(namespace) = self.reach(record, inside) {
                add(&mut self.kernels, place.clone(), namespace)?;
            }
        }
        Ok(())
    }

    pub(super) fn has_cable(&self, record: &Record, inside: &Inside) -> bool {
        record.made.iter().any(|made| {
            matches!(&made.item, Item::Cable { name, at, .. } if at == inside && self.view.dump.link(name).is_some())
        })
    }
}
