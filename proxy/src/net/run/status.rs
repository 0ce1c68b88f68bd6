//! What the store says there is, and where the kernel differs.

use std::collections::BTreeSet;

use super::super::store::{Record, Store};
use super::{Host, NetError, Scope, look, own};
use crate::net::item::{Change, Inside};
use crate::net::plan;

/// The network as recorded and as found.
#[derive(Debug)]
pub struct Status {
    pub record: Record,
    pub workloads: Vec<WorkloadStatus>,
    /// What `apply` with the same file would change.
    pub drift: Vec<Change>,
    /// Links with our mark that the store does not know.
    pub strangers: Vec<String>,
}

#[derive(Debug)]
pub struct WorkloadStatus {
    pub id: String,
    pub network: Option<String>,
    pub addresses: Vec<String>,
    pub is_captured: bool,
    /// Its namespace cannot be found any more.
    pub is_gone: bool,
}

impl Status {
    pub fn is_in_order(&self) -> bool {
        let gone = self.workloads.iter().any(|workload| workload.is_gone);
        self.drift.is_empty() && self.strangers.is_empty() && !gone && !self.record.unfinished
    }
}

/// Changes nothing.
pub async fn status(store: &Store) -> Result<Status, NetError> {
    let record = store.load(own()?.number())?;
    let mut host = Host::open().await?;
    let gone: BTreeSet<String> = host.gone(&record).into_iter().collect();
    host.add_staying(&record, Scope::Everything)?;
    let known = |inside: &&Inside| !gone.contains(&inside.workload);
    let insides =
        record.insides.values().filter(known).map(|inside| (inside.workload.clone(), inside.clone()));
    let (_kernels, wanted, seen) = look(host, &record, &record, insides.collect()).await?;
    let plan = plan::plan(&wanted, &record.made, &seen, Scope::Everything)?;
    let links: BTreeSet<String> = record.made.iter().filter_map(|made| made.item.made_link()).collect();
    let strangers = seen.marked_beside(&links);
    let workloads = record.settings.workloads.iter().map(|(id, workload)| WorkloadStatus {
        id: id.clone(),
        network: workload.plug.as_ref().map(|plug| plug.network.clone()),
        addresses: record.addresses(id).iter().map(ToString::to_string).collect(),
        is_captured: workload.capture.is_some(),
        is_gone: gone.contains(id),
    });
    let workloads = workloads.collect();
    Ok(Status { workloads, drift: plan.changes, strangers, record })
}
