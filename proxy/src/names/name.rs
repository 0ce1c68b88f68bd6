//! Names as they are on the wire: taken apart without copying, and put together without allocating.

use super::wire::{LABEL_BYTES_MAX, NAME_BYTES_MAX};

/// A name of the most bytes has no more labels.
const LABELS_MAX: usize = NAME_BYTES_MAX / 2 + 1;

/// A name and where its labels begin.
#[derive(Debug)]
pub(super) struct Labels<'a> {
    name: &'a [u8],
    /// A name's places fit in a byte.
    starts: [u8; LABELS_MAX],
    len: usize,
}

impl<'a> Labels<'a> {
    /// `name` is whole and within limits, as a `Query` has it.
    pub(super) fn of(name: &'a [u8]) -> Self {
        let mut labels = Self { name, starts: [0; LABELS_MAX], len: 0 };
        let mut at = 0;
        while let Some(&length @ 1..) = name.get(at) {
            labels.starts[labels.len] = at as u8;
            labels.len += 1;
            at += 1 + usize::from(length);
        }
        labels
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        let start = self.start(index);
        self.name.get(start + 1..start + 1 + usize::from(self.name[start])).unwrap_or_default()
    }

    /// `None` where it is no text, and so no name of a service.
    pub(super) fn text(&self, index: usize) -> Option<&'a str> {
        std::str::from_utf8(self.get(index)).ok()
    }

    /// From this label to the end.
    pub(super) fn suffix(&self, index: usize) -> &'a [u8] {
        &self.name[self.start(index)..]
    }

    /// These labels with their lengths, without the root.
    pub(super) fn before(&self, index: usize) -> &'a [u8] {
        &self.name[..self.start(index)]
    }

    /// How many labels stand before the zone, if the name is in it. Both are in lower case.
    pub(super) fn below(&self, zone: &[u8]) -> Option<usize> {
        let at = self.name.len().checked_sub(zone.len())?;
        if &self.name[at..] != zone {
            return None;
        }
        (0..self.len).find(|index| self.start(*index) == at)
    }

    fn start(&self, index: usize) -> usize {
        // The root is where the last label ends.
        if index < self.len { usize::from(self.starts[index]) } else { self.name.len() - 1 }
    }
}

/// A name being put together from its left.
#[derive(Debug)]
pub(super) struct NameBuffer {
    bytes: [u8; NAME_BYTES_MAX],
    len: usize,
}

impl NameBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: [0; NAME_BYTES_MAX], len: 0 }
    }

    /// `None` if it does not fit: then nobody can ask for the name either.
    pub(super) fn label(mut self, label: &[u8]) -> Option<Self> {
        let length =
            u8::try_from(label.len()).ok().filter(|length| usize::from(*length) <= LABEL_BYTES_MAX)?;
        self.take(&[length])?;
        self.take(label)?;
        Some(self)
    }

    /// Labels with their lengths; the last piece brings the root.
    pub(super) fn labels(mut self, labels: &[u8]) -> Option<Self> {
        self.take(labels)?;
        Some(self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn take(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

/// A name from its text, which has labels with dots between them; in lower case.
pub(super) fn on_wire(text: &str) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    for label in text.split('.').filter(|label| !label.is_empty()) {
        // Configuration has checked the labels.
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.to_ascii_lowercase().as_bytes());
    }
    bytes.push(0);
    bytes.into()
}

/// A name as text for people: what is not printable is escaped.
pub(super) fn as_text(name: &[u8]) -> String {
    let labels = Labels::of(name);
    if labels.len() == 0 {
        return ".".to_owned();
    }
    let mut text = String::with_capacity(name.len());
    for index in 0..labels.len() {
        for byte in labels.get(index) {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(*byte)]),
                b'!'..=b'~' => text.push(char::from(*byte)),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart_and_put_together() {
        let name = on_wire("a.Web.mesh.internal");
        assert_eq!(&*name, b"\x01a\x03web\x04mesh\x08internal\0");
        let labels = Labels::of(&name);
        assert_eq!((labels.len(), labels.get(1), labels.text(0)), (4, &b"web"[..], Some("a")));
        assert_eq!(labels.suffix(2), &*on_wire("mesh.internal"));
        assert_eq!(labels.before(2), b"\x01a\x03web");
        assert_eq!(labels.below(&on_wire("mesh.internal")), Some(2));
        assert_eq!(labels.below(&on_wire("b.mesh.internal")), None);
        assert_eq!(Labels::of(b"\x05amesh\x08internal\0").below(&on_wire("mesh.internal")), None);
        assert_eq!(Labels::of(&on_wire("mesh.internal")).below(&on_wire("mesh.internal")), Some(0));
        let built = NameBuffer::new().label(b"a").and_then(|name| name.labels(labels.suffix(1))).unwrap();
        assert_eq!(built.as_bytes(), &*name);
        assert!(NameBuffer::new().label(&[b'a'; 64]).is_none());
        let long = (0..5).try_fold(NameBuffer::new(), |name, _| name.label(&[b'a'; 60]));
        assert!(long.is_none());
        assert_eq!(as_text(b"\x03a.\x07\x01b\0"), "a\\.\\007.b.");
        assert_eq!(as_text(b"\0"), ".");
    }
}
