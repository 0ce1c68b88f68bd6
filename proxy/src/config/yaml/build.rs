//! From YAML text to a `Document`.
//!
//! Builds from parser events without recursion, and within limits: nodes, depth, and how far aliases expand.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::super::Place;
use super::super::diagnostic::Diagnostic;
use super::document::{Data, Document, Node, NodeId};
use super::scalar;

/// Nodes of one document.
const NODES_MAX: usize = 4_000_000;
/// Nodes that all aliases of one document stand for, together: what "billion laughs" runs into.
const ALIASED_NODES_MAX: usize = 100_000;
/// Levels of lists and mappings.
const DEPTH_MAX: usize = 64;

/// Parses text that must hold exactly one document (an empty one counts).
///
/// `Ok` carries errors that leave the rest readable, such as duplicate keys.
pub(super) fn parse(text: &str, file: &str) -> Result<(Document, Vec<Diagnostic>), Vec<Diagnostic>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(Document::new(file.into()));
    match builder.run(text) {
        Ok(()) => Ok(builder.finish()),
        Err(fatal) => {
            builder.found.push(fatal);
            Err(builder.found)
        }
    }
}

/// A list or mapping whose end has not come yet.
struct Open {
    data: Data,
    mark: (u32, u32),
    anchor: usize,
    key: Option<NodeId>,
    keys: HashMap<Box<str>, NodeId>,
    /// Nodes within, aliases expanded.
    size: usize,
}

struct Builder {
    document: Document,
    open: Vec<Open>,
    /// By the parser's number: the node and its expanded size.
    anchors: HashMap<usize, (NodeId, usize)>,
    aliased: usize,
    documents: usize,
    found: Vec<Diagnostic>,
}

impl Builder {
    fn new(document: Document) -> Self {
        let (open, anchors, found) = (Vec::new(), HashMap::new(), Vec::new());
        Self { document, open, anchors, aliased: 0, documents: 0, found }
    }

    fn run(&mut self, text: &str) -> Result<(), Diagnostic> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => self.event(event, span.start)?,
                Err(error) => {
                    return Err(
                        self.error_at(position(*error.marker()), format!("not YAML: {}", error.info()))
                    );
                }
            }
            if self.document.node_count() > NODES_MAX {
                return Err(self.error_at((1, 1), format!("more than {NODES_MAX} values in one file")));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> (Document, Vec<Diagnostic>) {
        if self.document.node_count() == 0 {
            self.document.push(Node { line: 1, column: 1, data: Data::Map(Vec::new()) });
        }
        (self.document, self.found)
    }

    fn event(&mut self, event: Event<'_>, mark: Marker) -> Result<(), Diagnostic> {
        let mark = position(mark);
        match event {
            Event::DocumentStart(_) if self.documents > 0 => {
                Err(self.error_at(mark, "a second document; one file holds one"))
            }
            Event::DocumentStart(_) => {
                self.documents += 1;
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let data = self.scalar(&text, style, tag.as_deref(), mark);
                self.add(data, mark, anchor, 1);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(Data::List(Vec::new()), anchor, tag.as_deref(), mark)
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(Data::Map(Vec::new()), anchor, tag.as_deref(), mark)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    self.add(open.data, open.mark, open.anchor, open.size + 1);
                    Ok(())
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(anchor, mark),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: (u32, u32)) -> Data {
        let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        if !is_text {
            self.refuse_tag(tag, mark);
        }
        let plain = style == ScalarStyle::Plain && !is_text;
        if plain && scalar::is_not_finite(text) {
            self.problem_at(mark, format!("`{text}` is not a number that can be used here"));
        }
        Data::Scalar { text: text.into(), plain }
    }

    fn begin(
        &mut self,
        data: Data,
        anchor: usize,
        tag: Option<&Tag>,
        mark: (u32, u32),
    ) -> Result<(), Diagnostic> {
        self.refuse_tag(tag, mark);
        if self.open.len() == DEPTH_MAX {
            return Err(self.error_at(mark, format!("nested more than {DEPTH_MAX} levels deep")));
        }
        self.open.push(Open { data, mark, anchor, key: None, keys: HashMap::new(), size: 0 });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, mark: (u32, u32)) -> Result<(), Diagnostic> {
        let Some((target, size)) = self.anchors.get(&anchor).copied() else {
            return Err(self.error_at(mark, "this alias stands within its own anchor"));
        };
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > ALIASED_NODES_MAX {
            let message = format!("aliases expand to more than {ALIASED_NODES_MAX} values");
            return Err(self.error_at(mark, message));
        }
        self.add(Data::Alias(target), mark, 0, size);
        Ok(())
    }

    /// Puts a finished node where it belongs: at the top, in a list, or as a key or value of a mapping.
    fn add(&mut self, data: Data, mark: (u32, u32), anchor: usize, size: usize) {
        let id = self.document.push(Node { line: mark.0, column: mark.1, data });
        if anchor > 0 {
            self.anchors.insert(anchor, (id, size));
        }
        let Some(open) = self.open.last_mut() else {
            self.document.set_root(id);
            return;
        };
        open.size = open.size.saturating_add(size);
        match (&mut open.data, open.key.take()) {
            (Data::List(items), _) => items.push(id),
            (Data::Map(entries), Some(key)) if self.document.is_refused(key) => entries.push((key, id)),
            (Data::Map(entries), Some(key)) => {
                let first = *open.keys.entry(self.document.text(key).into()).or_insert(key);
                if first == key {
                    entries.push((key, id));
                } else {
                    self.duplicate(key, first);
                }
            }
            (_, None) => {
                self.check_key(id, mark);
                if let Some(open) = self.open.last_mut() {
                    open.key = Some(id);
                }
            }
            (Data::Scalar { .. } | Data::Alias(_), Some(_)) => {}
        }
    }

    /// A key that cannot be one is reported under its mapping, since it has no name, and left out.
    fn check_key(&mut self, id: NodeId, mark: (u32, u32)) {
        let message = match self.document.data(id) {
            Data::List(_) | Data::Map(_) => "a key must be a single value, not a list or mapping",
            Data::Scalar { text, plain: true } if scalar::resolve(text) == scalar::Scalar::Null => {
                "an empty key"
            }
            Data::Scalar { text, plain: true } if &**text == "<<" => {
                "merge keys (`<<`) are not part of YAML 1.2 and not supported"
            }
            _ => return,
        };
        self.problem_at(mark, message.to_owned());
        self.document.refuse(id);
    }

    fn duplicate(&mut self, key: NodeId, first: NodeId) {
        let name = self.document.text(key).to_owned();
        let line = self.document.place(first).line;
        let mut problem = self.error_at((0, 0), format!("duplicate key `{name}`"));
        problem.place = self.document.place(key);
        problem.hint = Some(format!("it is first given on line {line}"));
        problem.path = join(problem.path, &name);
        self.found.push(problem);
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, mark: (u32, u32)) {
        if let Some(tag) = tag {
            self.problem_at(mark, format!("tag `{tag}` is not supported"));
        }
    }

    fn problem_at(&mut self, mark: (u32, u32), message: String) {
        let problem = self.error_at(mark, message);
        self.found.push(problem);
    }

    fn error_at(&self, (line, column): (u32, u32), message: impl Into<String>) -> Diagnostic {
        let place = Place { file: self.document.file(), line: line as usize, column: column as usize };
        let path = self.open.iter().fold(String::new(), |path, open| match (&open.data, open.key) {
            (Data::List(items), _) => format!("{path}[{}]", items.len()),
            (_, Some(key)) => join(path, self.document.text(key)),
            _ => path,
        });
        Diagnostic { place, path, message: message.into(), hint: None }
    }
}

fn join(path: String, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Line and column, both from 1; the parser counts columns from 0. Files are far too small for the numbers to be cut.
fn position(mark: Marker) -> (u32, u32) {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (narrow(mark.line().max(1)), narrow(mark.col() + 1))
}
