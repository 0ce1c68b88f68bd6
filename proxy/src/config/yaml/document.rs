//! A YAML document as a flat list of nodes, each with its place.
//!
//! Made by `build`, walked by `decode`, and asked by `Problems` where a field is written. An alias is a node that
//! points to its anchor's, so a file cannot make us hold more than it has itself. Invariant: links between nodes only
//! point to nodes finished earlier, so there are no cycles.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::Place;
use super::super::diagnostic::FieldPath;

/// Index of a node in its document.
pub(super) type NodeId = usize;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    /// `plain`: unquoted, so it may be a number, a boolean or null.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    List(Vec<NodeId>),
    /// Keys are scalars, each once.
    Map(Vec<(NodeId, NodeId)>),
    Alias(NodeId),
}

/// A parsed document and which of its nodes have been refused.
#[derive(Debug)]
pub(crate) struct Document {
    file: Arc<str>,
    nodes: Vec<Node>,
    root: NodeId,
    refused: HashSet<NodeId>,
    /// Refused keys that were most likely meant as another name.
    misspelt: HashMap<NodeId, &'static str>,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Located {
    /// As the user counts list items, including refused ones.
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) key_place: Place,
    pub(crate) exists: bool,
    /// It, or part of it, has been refused: nothing can be said about it.
    pub(crate) refused: bool,
}

impl Document {
    /// Without nodes; the builder adds them.
    pub(super) fn new(file: Arc<str>) -> Self {
        Self { file, nodes: Vec::new(), root: 0, refused: HashSet::new(), misspelt: HashMap::new() }
    }

    pub(super) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(super) fn set_root(&mut self, id: NodeId) {
        self.root = id;
    }

    pub(super) fn file(&self) -> Arc<str> {
        Arc::clone(&self.file)
    }

    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    /// At least 1 once built.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node's content, aliases followed.
    pub(super) fn data(&self, mut id: NodeId) -> &Data {
        while let Data::Alias(target) = self.nodes[id].data {
            id = target;
        }
        &self.nodes[id].data
    }

    pub(super) fn place(&self, id: NodeId) -> Place {
        let node = &self.nodes[id];
        Place { file: Arc::clone(&self.file), line: node.line as usize, column: node.column as usize }
    }

    /// The text of a key.
    pub(super) fn text(&self, id: NodeId) -> &str {
        match self.data(id) {
            Data::Scalar { text, .. } => text,
            _ => "",
        }
    }

    pub(super) fn is_refused(&self, id: NodeId) -> bool {
        !self.refused.is_empty() && self.refused.contains(&id)
    }

    /// Leaves a node out from now on. `false` if nothing would be left, or nothing changed.
    pub(super) fn refuse(&mut self, id: NodeId) -> bool {
        id != self.root && self.refused.insert(id)
    }

    pub(super) fn note_misspelt(&mut self, key: NodeId, meant: &'static str) {
        self.misspelt.insert(key, meant);
    }

    /// Follows a path as far as it goes.
    pub(crate) fn locate(&self, path: &FieldPath<'_>) -> Located {
        let walk = self.walk(path);
        Located {
            path: walk.path,
            place: self.place(walk.reached),
            key_place: self.place(walk.key.unwrap_or(walk.reached)),
            exists: walk.node.is_some(),
            refused: walk.cut || walk.node.is_some_and(|node| self.holds_refused(node)),
        }
    }

    fn walk(&self, path: &FieldPath<'_>) -> Walk {
        let (parent, field) = match path {
            FieldPath::Root => return Walk::from(self.root),
            FieldPath::Field(parent, name) => (parent, Some(name)),
            FieldPath::Item(parent, _) => (parent, None),
        };
        let mut walk = self.walk(parent);
        let step = walk.node.map(|node| self.step(node, path)).unwrap_or_default();
        match (field, step.index) {
            (Some(name), _) if walk.path.is_empty() => walk.path.push_str(name),
            (Some(name), _) => walk.path = format!("{}.{name}", walk.path),
            (None, Some(index)) => walk.path = format!("{}[{index}]", walk.path),
            (None, None) => {}
        }
        walk.node = step.node;
        walk.key = step.key;
        walk.reached = step.node.unwrap_or(walk.reached);
        walk.cut |= step.refused;
        walk
    }

    /// The last step of `path`, from the node where the others lead.
    fn step(&self, node: NodeId, path: &FieldPath<'_>) -> Step {
        match (self.data(node), path) {
            (Data::Map(entries), FieldPath::Field(_, name)) => {
                for (key, value) in entries {
                    let refused = self.is_refused(*key) || self.is_refused(*value);
                    if self.text(*key) == *name {
                        return Step { node: Some(*value), key: Some(*key), index: None, refused };
                    }
                    if self.misspelt.get(key).is_some_and(|meant| meant == name) {
                        return Step { refused, ..Step::default() };
                    }
                }
                Step::default()
            }
            (Data::List(items), FieldPath::Item(_, index)) => {
                let mut kept = items.iter().enumerate().filter(|(_, item)| !self.is_refused(**item));
                let found = kept.nth(*index);
                Step {
                    node: found.map(|(_, item)| *item),
                    index: found.map(|(index, _)| index),
                    ..Step::default()
                }
            }
            // A single value where a list may stand is its own only item.
            (_, FieldPath::Item(_, 0)) => Step { node: Some(node), ..Step::default() },
            _ => Step::default(),
        }
    }

    /// Whether the node or anything in it has been refused.
    fn holds_refused(&self, node: NodeId) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        let mut open = vec![node];
        while let Some(id) = open.pop() {
            if self.is_refused(id) {
                return true;
            }
            match &self.nodes[id].data {
                Data::Scalar { .. } => {}
                Data::List(items) => open.extend(items),
                Data::Map(entries) => open.extend(entries.iter().flat_map(|(key, value)| [*key, *value])),
                Data::Alias(target) => open.push(*target),
            }
        }
        false
    }
}

/// How far a path has led.
struct Walk {
    path: String,
    /// `None` once the path leads to nothing.
    node: Option<NodeId>,
    /// The last node there was.
    reached: NodeId,
    key: Option<NodeId>,
    cut: bool,
}

impl Walk {
    fn from(root: NodeId) -> Self {
        Self { path: String::new(), node: Some(root), reached: root, key: None, cut: false }
    }
}

#[derive(Default)]
struct Step {
    node: Option<NodeId>,
    key: Option<NodeId>,
    /// Of a list's item, refused ones counted.
    index: Option<usize>,
    refused: bool,
}
