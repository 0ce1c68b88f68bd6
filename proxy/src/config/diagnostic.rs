//! What is wrong with a file, and where.
//!
//! Readers of configuration and registry files report through `Problems`, which knows the document and so turns the
//! path of a field into a line and column. Invariant: what could not be decoded is reported once; checks that would
//! only repeat it ("missing", because the value was refused) stay silent.

use std::fmt;

use super::Place;
use super::yaml::Document;

/// One error in a file, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line 0 means the file as a whole.
    pub place: Place,
    /// The field, as `services.web.timeouts.connect`; empty for the document.
    pub path: String,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error about the whole file, such as one that cannot be read.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        let place = Place { file: file.into(), line: 0, column: 0 };
        Self { place, path: String::new(), message: message.into(), hint: None }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.line {
            0 => write!(f, "{}: ", self.place.file)?,
            _ => write!(f, "{}: ", self.place)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// The way from the document's root to a value. Made on the stack while walking down, so it costs nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FieldPath<'a> {
    Root,
    Field(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> FieldPath<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    pub(crate) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

/// Collects what is wrong with one document.
#[derive(Debug)]
pub(crate) struct Problems {
    document: Document,
    found: Vec<Diagnostic>,
}

impl Problems {
    /// `found` are the errors that decoding met already.
    pub(super) fn new(document: Document, found: Vec<Diagnostic>) -> Self {
        Self { document, found }
    }

    /// Reports an error in the value at `at`, or in what should have been there.
    pub(crate) fn report(&mut self, at: &FieldPath<'_>, message: impl Into<String>) {
        self.add(at, false, message.into(), None);
    }

    /// As `report`, with advice.
    pub(crate) fn report_with(
        &mut self,
        at: &FieldPath<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(at, false, message.into(), Some(hint.into()));
    }

    /// As `report`, but it is the key, not its value, that is wrong.
    pub(crate) fn report_key(&mut self, at: &FieldPath<'_>, message: impl Into<String>) {
        self.add(at, true, message.into(), None);
    }

    fn add(&mut self, at: &FieldPath<'_>, key: bool, message: String, hint: Option<String>) {
        let found = self.document.locate(at);
        if !found.refused {
            let place = if key { found.key_place } else { found.place };
            self.found.push(Diagnostic { place, path: found.path, message, hint });
        }
    }

    /// Where the value at `at` is written, or what would contain it.
    pub(crate) fn place(&self, at: &FieldPath<'_>) -> Place {
        self.document.locate(at).place
    }

    /// Whether the file has a value at `at`, even one that was refused.
    pub(crate) fn written(&self, at: &FieldPath<'_>) -> bool {
        let found = self.document.locate(at);
        found.exists || found.refused
    }

    /// Everything reported, in the order of the file; `Ok` if that is nothing.
    pub(crate) fn finish(self) -> Result<(), Vec<Diagnostic>> {
        let mut found = self.found;
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|problem| (problem.place.line, problem.place.column));
        Err(found)
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(name.chars().count()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Advice for a name that is not among `candidates`.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let known: Vec<_> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_path_message_and_hint() {
        let place = Place { file: "outrigger.yaml".into(), line: 12, column: 5 };
        let problem = Diagnostic {
            place,
            path: "services.web.balancr".into(),
            message: "unknown field `balancr`".into(),
            hint: Some("did you mean `balancer`?".into()),
        };
        assert_eq!(
            problem.to_string(),
            "outrigger.yaml:12:5: services.web.balancr: unknown field `balancr`; did you mean `balancer`?"
        );
        assert_eq!(Diagnostic::of_file("x.yaml", "cannot be read").to_string(), "x.yaml: cannot be read");
    }

    #[test]
    fn suggests_only_what_is_near() {
        let names = ["balancer", "hash_key", "p2c", "retry"];
        assert_eq!(nearest("balancr", names), Some("balancer"));
        assert_eq!(nearest("hash-key", names), Some("hash_key"));
        assert_eq!(nearest("P2C", names), Some("p2c"));
        assert_eq!(nearest("p2", names), Some("p2c"));
        assert_eq!(nearest("entirely", names), None);
        assert_eq!(did_you_mean("entirely", ["a", "b"]).as_deref(), Some("known here: `a`, `b`"));
        assert_eq!(did_you_mean("entirely", []), None);
    }
}
