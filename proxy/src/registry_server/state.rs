//! What the registry says, as one value that never changes once it is published.
//!
//! The writer makes the next state from the last (`edit`, `change`); readers hold whichever they took. Indexes follow
//! Consul's rules: each change has a number, and each question an index that grows when its answer may have changed.
//! They are kept per service, per node and per key, so that a change wakes only those who asked about it. After a
//! start all of them begin at the number of the last change on disk: never lower than what clients have seen.

use std::sync::Arc;
use std::time::Instant;

use super::model::{Check, Entry, Instance, Name, NodeRow, Session};
use crate::shared_map::SharedMap;

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Of the last change.
    pub(crate) index: u64,
    pub(crate) nodes: SharedMap<Name, Arc<Node>>,
    pub(crate) services: SharedMap<Name, Arc<Service>>,
    pub(crate) kv: SharedMap<Name, Arc<Entry>>,
    pub(crate) sessions: SharedMap<Name, Arc<Session>>,
    pub(crate) indexes: Indexes,
    pub(crate) counts: Counts,
    /// When keys were deleted, so that a blocking read sees that they are gone.
    pub(crate) graves: SharedMap<Name, u64>,
    /// Keys that nobody may lock for a while, since their last holder was lost. Not kept on disk.
    pub(crate) lock_delays: SharedMap<Name, Instant>,
}

/// Of whole tables: when anything in them changed last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Indexes {
    pub(crate) nodes: u64,
    pub(crate) services: u64,
    pub(crate) checks: u64,
    pub(crate) kv: u64,
    pub(crate) sessions: u64,
    /// When a service last lost its last instance.
    pub(crate) extinction: u64,
    /// Nothing is known of keys deleted before this.
    pub(crate) graves_from: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) instances: usize,
    pub(crate) checks: usize,
    /// Keys and values.
    pub(crate) kv_bytes: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) row: Arc<NodeRow>,
    /// Grows with every change of the node, its instances and its checks.
    pub(crate) index: u64,
    pub(crate) instances: SharedMap<Name, Arc<Instance>>,
    /// By instance and check; those of the node itself have an empty instance.
    pub(crate) checks: SharedMap<(Name, Name), Arc<Check>>,
    /// The instance that a check belongs to.
    pub(crate) check_owners: SharedMap<Name, Name>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    /// Grows with every change of its instances, their checks and their nodes.
    pub(crate) index: u64,
    /// Node and instance.
    pub(crate) members: SharedMap<(Name, Name), ()>,
}

impl PartialEq for Node {
    /// Indexes are never used twice.
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Node {
    pub(crate) fn check(&self, id: &str) -> Option<&Arc<Check>> {
        let owner = self.check_owners.get(id)?;
        self.checks.get(&(Name::clone(owner), Name::from(id)))
    }

    /// The checks of an instance; of the node itself for an empty id.
    pub(crate) fn checks_of(&self, instance: &str) -> impl Iterator<Item = &Arc<Check>> + use<'_> {
        let from = (Name::from(instance), Name::default());
        let later = self.checks.from(&from);
        later.take_while(move |((owner, _), _)| *owner == from.0).map(|(_, check)| check)
    }
}

/// An instance with all that belongs to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) node: &'a Arc<Node>,
    pub(crate) instance: &'a Arc<Instance>,
}

impl<'a> Found<'a> {
    /// The node's own checks and the instance's.
    pub(crate) fn checks(self) -> Vec<&'a Arc<Check>> {
        self.node.checks_of("").chain(self.node.checks_of(&self.instance.id)).collect()
    }
}

impl State {
    pub(crate) fn instances_of(&self, service: &str) -> impl Iterator<Item = Found<'_>> {
        let members = self.services.get(service).into_iter().flat_map(|service| service.members.iter());
        members.filter_map(|((node, id), ())| {
            let node = self.nodes.get(node)?;
            Some(Found { node, instance: node.instances.get(id)? })
        })
    }

    pub(crate) fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.nodes.values().flat_map(|node| node.checks.values())
    }

    /// Of a question about one service.
    pub(crate) fn service_index(&self, service: &str) -> u64 {
        self.services.get(service).map_or(self.indexes.extinction, |service| service.index)
    }

    pub(crate) fn node_index(&self, node: &str) -> u64 {
        self.nodes.get(node).map_or(self.indexes.nodes, |node| node.index)
    }

    pub(crate) fn key_index(&self, key: &str) -> u64 {
        match self.kv.get(key) {
            Some(entry) => entry.modify_index,
            None => self.graves.get(key).copied().unwrap_or(self.indexes.graves_from),
        }
    }

    /// Of a question about all keys with this prefix.
    pub(crate) fn prefix_index(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.indexes.kv;
        }
        let changed = self.keys(prefix).map(|(_, entry)| entry.modify_index).max();
        let graves = self.graves.from(prefix).take_while(|(key, _)| key.starts_with(prefix));
        let deleted = graves.map(|(_, index)| *index).max();
        changed.max(deleted).unwrap_or_default().max(self.indexes.graves_from)
    }

    pub(crate) fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Name, &'a Arc<Entry>)> {
        self.kv.from(prefix).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// What somebody may wait for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    /// Names of services, and which instances there are.
    Services,
    Service(Name),
    Nodes,
    Node(Name),
    Checks,
    /// Keys that begin with this segment.
    Keys(Name),
    AllKeys,
    Sessions,
}

impl Topic {
    /// The narrowest topic that covers all keys with this prefix.
    pub(crate) fn of_prefix(prefix: &str) -> Self {
        prefix.split_once('/').map_or(Self::AllKeys, |(first, _)| Self::Keys(first.into()))
    }

    pub(crate) fn of_key(key: &str) -> Self {
        Self::Keys(key.split('/').next().unwrap_or_default().into())
    }
}

/// A row on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Row {
    Node(Name),
    Instance(Name, Name),
    Check(Name, Name),
    Entry(Name),
    Session(Name),
}
