//! The only code that changes a state: single rows, with every index and count that depends on them.
//!
//! `change` decides what to do and may still refuse; this does it. Nothing that is set to what it already is counts
//! as a change, so that a client that registers itself again and again wakes nobody.

use std::collections::HashSet;
use std::sync::Arc;

use super::model::{Check, Entry, Instance, Name, NodeRow, Session};
use super::state::{Node, Row, Service, State, Topic};

/// Deletions remembered; beyond it all are forgotten at once, and readers of keys look once for nothing.
const GRAVES_MAX: usize = 10_000;

/// What a batch of changes has touched: rows to write, and those to wake.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) rows: HashSet<Row>,
    pub(crate) topics: HashSet<Topic>,
}

/// One change under way.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) touched: &'a mut Touched,
    /// The number of this change.
    pub(crate) index: u64,
}

impl Edit<'_> {
    fn touch(&mut self, row: Option<Row>, topics: impl IntoIterator<Item = Topic>) {
        self.state.index = self.index;
        self.touched.rows.extend(row);
        self.touched.topics.extend(topics);
    }

    pub(crate) fn node(&mut self, name: &Name) -> Option<&mut Node> {
        self.state.nodes.get_mut(&**name).map(Arc::make_mut)
    }

    pub(crate) fn set_node(&mut self, mut row: NodeRow) {
        let name = Name::clone(&row.name);
        row.modify_index = self.index;
        row.create_index = self.index;
        if let Some(node) = self.state.nodes.get(&name) {
            row.create_index = node.row.create_index;
            let same = NodeRow { modify_index: node.row.modify_index, ..row.clone() } == *node.row;
            if same {
                return;
            }
        }
        let index = self.index;
        match self.node(&name) {
            Some(node) => {
                node.row = Arc::new(row);
                node.index = index;
            }
            None => {
                let node = Node { row: Arc::new(row), index, ..Node::default() };
                self.state.nodes.insert(Name::clone(&name), Arc::new(node));
            }
        }
        self.state.indexes.nodes = index;
        self.touch(Some(Row::Node(Name::clone(&name))), [Topic::Nodes, Topic::Node(Name::clone(&name))]);
        self.touch_services_on(&name);
    }

    /// With all that is on it.
    pub(crate) fn remove_node(&mut self, name: &Name) {
        let Some(node) = self.state.nodes.get(name).cloned() else { return };
        for id in node.instances.iter().map(|(id, _)| id) {
            self.remove_instance(name, id);
        }
        for id in node.check_owners.iter().map(|(id, _)| id) {
            self.remove_check(name, id);
        }
        self.state.nodes.remove(name);
        self.state.indexes.nodes = self.index;
        self.touch(Some(Row::Node(Name::clone(name))), [Topic::Nodes, Topic::Node(Name::clone(name))]);
    }

    /// The node must exist.
    pub(crate) fn set_instance(&mut self, node: &Name, mut instance: Instance) {
        let index = self.index;
        let old = self.state.nodes.get(node).and_then(|node| node.instances.get(&instance.id)).cloned();
        instance.create_index = index;
        instance.modify_index = index;
        if let Some(old) = &old {
            instance.create_index = old.create_index;
            let same = Instance { modify_index: old.modify_index, ..instance.clone() } == **old;
            if same {
                return;
            }
            if old.service != instance.service {
                self.leave(&old.service, node, &old.id);
            }
        }
        let (id, service) = (Name::clone(&instance.id), Name::clone(&instance.service));
        let Some(on) = self.node(node) else { return };
        on.index = index;
        if on.instances.insert(Name::clone(&id), Arc::new(instance)).is_none() {
            self.state.counts.instances += 1;
        }
        let member = (Name::clone(node), Name::clone(&id));
        let services = &mut self.state.services;
        match services.get_mut(&service).map(Arc::make_mut) {
            Some(known) => {
                known.members.insert(member, ());
            }
            None => {
                let mut new = Service::default();
                new.members.insert(member, ());
                services.insert(Name::clone(&service), Arc::new(new));
            }
        }
        self.state.indexes.services = index;
        self.touch_service(&service);
        self.touch(
            Some(Row::Instance(Name::clone(node), id)),
            [Topic::Services, Topic::Node(Name::clone(node))],
        );
    }

    /// With its checks. Answers whether there was one.
    pub(crate) fn remove_instance(&mut self, node: &Name, id: &Name) -> bool {
        let Some(found) = self.state.nodes.get(node).cloned() else { return false };
        let Some(instance) = found.instances.get(id) else { return false };
        for check in found.checks_of(id) {
            self.remove_check(node, &check.id);
        }
        let index = self.index;
        if let Some(node) = self.node(node) {
            node.instances.remove(id);
            node.index = index;
        }
        self.state.counts.instances -= 1;
        self.state.indexes.services = index;
        self.leave(&instance.service, node, id);
        let row = Row::Instance(Name::clone(node), Name::clone(id));
        self.touch(Some(row), [Topic::Services, Topic::Node(Name::clone(node))]);
        true
    }

    /// An instance is no longer one of this service.
    fn leave(&mut self, service: &Name, node: &Name, id: &Name) {
        let Some(known) = self.state.services.get_mut(service).map(Arc::make_mut) else { return };
        known.members.remove(&(Name::clone(node), Name::clone(id)));
        if known.members.is_empty() {
            self.state.services.remove(service);
            self.state.indexes.extinction = self.index;
        }
        self.touch_service(service);
    }

    /// Its node, and its instance if it names one, must exist.
    pub(crate) fn set_check(&mut self, mut check: Check) {
        let index = self.index;
        let Some(node) = self.state.nodes.get(&check.node) else { return };
        check.create_index = index;
        check.modify_index = index;
        if let Some(old) = node.check(&check.id).cloned() {
            check.create_index = old.create_index;
            let same = Check { modify_index: old.modify_index, ..check.clone() } == *old;
            if same {
                return;
            }
            if old.service_id != check.service_id {
                self.remove_check(&check.node, &check.id);
            }
        }
        let (node, id) = (Name::clone(&check.node), Name::clone(&check.id));
        let (owner, service) = (Name::clone(&check.service_id), Name::clone(&check.service_name));
        let Some(on) = self.node(&node) else { return };
        on.index = index;
        on.check_owners.insert(Name::clone(&id), Name::clone(&owner));
        if on.checks.insert((Name::clone(&owner), Name::clone(&id)), Arc::new(check)).is_none() {
            self.state.counts.checks += 1;
        }
        self.touched_check(&node, &id, &owner, &service);
    }

    /// Answers whether there was one.
    pub(crate) fn remove_check(&mut self, node: &Name, id: &Name) -> bool {
        let index = self.index;
        let Some(check) = self.state.nodes.get(node).and_then(|node| node.check(id)).cloned() else {
            return false;
        };
        if let Some(on) = self.node(node) {
            on.index = index;
            on.check_owners.remove(id);
            on.checks.remove(&(Name::clone(&check.service_id), Name::clone(id)));
        }
        self.state.counts.checks -= 1;
        self.touched_check(node, id, &check.service_id, &check.service_name);
        true
    }

    fn touched_check(&mut self, node: &Name, id: &Name, owner: &Name, service: &Name) {
        self.state.indexes.checks = self.index;
        let row = Row::Check(Name::clone(node), Name::clone(id));
        self.touch(Some(row), [Topic::Checks, Topic::Node(Name::clone(node))]);
        if owner.is_empty() {
            self.touch_services_on(node);
        } else {
            self.touch_service(service);
        }
    }

    fn touch_service(&mut self, service: &Name) {
        if let Some(known) = self.state.services.get_mut(service).map(Arc::make_mut) {
            known.index = self.index;
        }
        self.touched.topics.insert(Topic::Service(Name::clone(service)));
    }

    /// All services show the node, and its own checks.
    fn touch_services_on(&mut self, node: &Name) {
        let Some(node) = self.state.nodes.get(node).cloned() else { return };
        for instance in node.instances.values() {
            self.touch_service(&instance.service);
        }
    }

    pub(crate) fn set_entry(&mut self, key: &Name, mut entry: Entry) {
        entry.modify_index = self.index;
        let bytes = key.len() + entry.value.len();
        entry.create_index = self.index;
        if let Some(old) = self.state.kv.get(key) {
            entry.create_index = old.create_index;
            let same = Entry { modify_index: old.modify_index, ..entry.clone() } == **old;
            if same {
                return;
            }
            self.state.counts.kv_bytes -= key.len() + old.value.len();
        }
        self.state.counts.kv_bytes += bytes;
        self.state.kv.insert(Name::clone(key), Arc::new(entry));
        self.state.graves.remove(key);
        self.touched_key(key);
    }

    /// Answers whether there was one.
    pub(crate) fn remove_entry(&mut self, key: &Name) -> bool {
        let Some(old) = self.state.kv.remove(key) else { return false };
        self.state.counts.kv_bytes -= key.len() + old.value.len();
        if self.state.graves.len() >= GRAVES_MAX {
            self.state.graves = Default::default();
            self.state.indexes.graves_from = self.index;
        }
        self.state.graves.insert(Name::clone(key), self.index);
        self.touched_key(key);
        true
    }

    fn touched_key(&mut self, key: &Name) {
        self.state.indexes.kv = self.index;
        self.touch(Some(Row::Entry(Name::clone(key))), [Topic::of_key(key), Topic::AllKeys]);
    }

    pub(crate) fn set_session(&mut self, mut session: Session) {
        session.create_index = self.index;
        session.modify_index = self.index;
        let id = Name::clone(&session.id);
        self.state.sessions.insert(Name::clone(&id), Arc::new(session));
        self.state.indexes.sessions = self.index;
        self.touch(Some(Row::Session(id)), [Topic::Sessions]);
    }

    pub(crate) fn remove_session(&mut self, id: &Name) -> Option<Arc<Session>> {
        let session = self.state.sessions.remove(id)?;
        self.state.indexes.sessions = self.index;
        self.touch(Some(Row::Session(Name::clone(id))), [Topic::Sessions]);
        Some(session)
    }
}
