//! The client's search list, followed in its place (what CoreDNS calls autopath).
//!
//! A resolver library that is asked for `web` tries `web.first.suffix`, then the next suffix, and so on: a round trip
//! for each. When the first attempt has no such name, the whole path is walked here, and the reply is an alias from
//! the name that was asked for to the one that exists.

use crate::names::name::{Labels, NameBuffer, on_wire};

/// The suffixes, in order.
#[derive(Debug)]
pub(super) struct Search {
    suffixes: Vec<Box<[u8]>>,
}

impl Search {
    pub(super) fn new(suffixes: &[String]) -> Self {
        Self { suffixes: suffixes.iter().map(|suffix| on_wire(suffix)).collect() }
    }

    /// Whether this can be the first attempt of a library that walks the list: something, and the first suffix.
    pub(super) fn applies(&self, labels: &Labels<'_>) -> bool {
        self.suffixes.first().and_then(|first| labels.below(first)).is_some_and(|before| before > 0)
    }

    /// The names on the path of one that `applies`, itself first and without a suffix last; `None` where one is too
    /// long to be asked for.
    pub(super) fn path<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = Option<NameBuffer>> + use<'a> {
        let labels = Labels::of(name);
        let before = self.suffixes.first().and_then(|first| labels.below(first));
        let base = before.map(|before| labels.before(before));
        let suffixes = self.suffixes.iter().map(|suffix| &**suffix).chain([&b"\0"[..]]);
        base.into_iter().flat_map(move |base| {
            let of = move |suffix| NameBuffer::new().labels(base)?.labels(suffix);
            suffixes.clone().map(of)
        })
    }
}
