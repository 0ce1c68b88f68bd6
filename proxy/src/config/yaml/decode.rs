//! Lets serde walk a document.
//!
//! Errors know the node at fault and the way to it: each level adds its step as the error passes. Types read are
//! checked by serde alone; nothing here knows them.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};

use super::super::diagnostic::{Diagnostic, did_you_mean, nearest};
use super::document::{Data, Document, NodeId};
use super::scalar::{self, Scalar};

/// Decodes the whole document, leaving refused nodes out.
pub(super) fn decode<T: de::DeserializeOwned>(document: &Document) -> Result<T, Error> {
    T::deserialize(At { document, node: document.root() })
}

/// Why a document does not decode.
#[derive(Debug)]
pub(super) struct Error {
    kind: Kind,
    /// The innermost node at fault.
    node: Option<NodeId>,
    /// What must be left out to go on, if that is more.
    refused: Option<NodeId>,
    /// Innermost first.
    steps: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    /// A name that is not in a closed list.
    Unknown {
        what: &'static str,
        name: String,
        known: &'static [&'static str],
    },
    Other {
        message: String,
        hint: Option<&'static str>,
    },
}

impl Error {
    fn other(message: String) -> Self {
        Self { kind: Kind::Other { message, hint: None }, node: None, refused: None, steps: Vec::new() }
    }

    fn at(mut self, node: NodeId) -> Self {
        self.node.get_or_insert(node);
        self
    }

    /// A choice cannot be read in part.
    fn refusing(mut self, node: NodeId) -> Self {
        self.refused = Some(node);
        self
    }

    fn within(mut self, step: String) -> Self {
        self.steps.push(step);
        self
    }

    /// What to show, and which node to leave out next time.
    pub(super) fn into_diagnostic(self, document: &mut Document) -> (Diagnostic, NodeId) {
        let node = self.node.unwrap_or(document.root());
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        let (message, hint) = match self.kind {
            Kind::Unknown { what, name, known } => {
                if let Some(meant) = nearest(&name, known.iter().copied()) {
                    document.note_misspelt(node, meant);
                }
                (format!("unknown {what} `{name}`"), did_you_mean(&name, known.iter().copied()))
            }
            Kind::Other { message, hint } => (message, hint.map(str::to_owned)),
        };
        (Diagnostic { place: document.place(node), path, message, hint }, self.refused.unwrap_or(node))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unknown { what, name, .. } => write!(f, "unknown {what} `{name}`"),
            Kind::Other { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::other(message.to_string())
    }

    /// Does not show the value: it may be a secret.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_plain_words(&expected.to_string());
        let mut error = Self::other(format!("expected {expected}, found {}", kind_of(found)));
        let is_scalar = matches!(
            found,
            Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_)
        );
        if let (Kind::Other { hint, .. }, true) = (&mut error.kind, is_scalar && expected == "text") {
            *hint = Some("put it in quotes if it is meant as text");
        }
        error
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unsigned(number) => format!("{number}"),
            Unexpected::Signed(number) => format!("{number}"),
            Unexpected::Float(number) => format!("{number}"),
            other => kind_of(other).to_owned(),
        };
        let expected = match expected.to_string().as_str() {
            "u16" => format!("a whole number from 0 to {}", u16::MAX),
            "u32" => format!("a whole number from 0 to {}", u32::MAX),
            "u64" | "usize" => "a whole number, not negative".to_owned(),
            other => in_plain_words(other),
        };
        Self::other(format!("expected {expected}, found {found}"))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        let kind = Kind::Unknown { what: "value", name: name.to_owned(), known };
        Self { kind, node: None, refused: None, steps: Vec::new() }
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let kind = Kind::Unknown { what: "field", name: name.to_owned(), known };
        Self { kind, node: None, refused: None, steps: Vec::new() }
    }

    fn missing_field(name: &'static str) -> Self {
        Self::other(format!("field `{name}` is missing"))
    }
}

/// Rust's names for types, as the author of a file knows them.
fn in_plain_words(expected: &str) -> String {
    let words = match expected {
        "a string" => "text",
        "a boolean" => "`true` or `false`",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a mapping",
        other if other.starts_with("struct ") => "a mapping",
        other => other,
    };
    words.to_owned()
}

fn kind_of(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(true) => "`true`",
        Unexpected::Bool(false) => "`false`",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
        // Whole numbers beyond 64 bits come as floats.
        Unexpected::Float(number) if number.abs() >= i64::MAX as f64 => "a number that is too large",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a mapping",
        _ => "another kind of value",
    }
}

/// One node, to be read.
#[derive(Clone, Copy)]
struct At<'de> {
    document: &'de Document,
    node: NodeId,
}

impl<'de> At<'de> {
    fn data(self) -> &'de Data {
        self.document.data(self.node)
    }

    fn is_null(self) -> bool {
        matches!(self.data(), Data::Scalar { text, plain: true } if scalar::resolve(text) == Scalar::Null)
    }

    fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.data() {
            Data::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Data::Scalar { text, plain: true } => match scalar::resolve(text) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(value) => visitor.visit_bool(value),
                Scalar::Unsigned(value) => visitor.visit_u64(value),
                Scalar::Signed(value) => visitor.visit_i64(value),
                Scalar::Float(value) => visitor.visit_f64(value),
                Scalar::Text(text) => visitor.visit_borrowed_str(text),
            },
            Data::List(items) => visitor.visit_seq(Items { document: self.document, items, next: 0 }),
            Data::Map(entries) => {
                visitor.visit_map(Entries { document: self.document, entries: entries.iter(), value: None })
            }
            // `Document::data` follows aliases.
            Data::Alias(_) => visitor.visit_unit(),
        }
    }
}

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor).map_err(|error| error.at(self.node))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// An empty document is an empty mapping: what is missing can then be said field by field.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.node == self.document.root() && self.is_null() {
            return visitor.visit_map(Entries { document: self.document, entries: [].iter(), value: None });
        }
        if matches!(self.data(), Data::List(_)) {
            // Serde would take the items for the fields, in order.
            let refusal: Error = de::Error::invalid_type(Unexpected::Seq, &"a map");
            return Err(refusal.at(self.node));
        }
        self.deserialize_any(visitor)
    }

    /// A bare word is a variant without content; a mapping with one entry is one with.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let entry = match self.data() {
            Data::Scalar { text, .. } => return self.unit_variant(text, visitor),
            Data::Map(entries) if entries.len() == 1 => entries[0],
            _ => {
                let message = format!("expected one of `{}`", variants.join("`, `"));
                return Err(Error::other(message).at(self.node));
            }
        };
        let name = self.document.text(entry.0);
        let variant = Variant { name, key: entry.0, value: Self { document: self.document, node: entry.1 } };
        visitor.visit_enum(variant).map_err(|error| error.at(self.node).refusing(self.node))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> At<'de> {
    fn unit_variant<V: Visitor<'de>>(self, text: &'de str, visitor: V) -> Result<V::Value, Error> {
        let variant: de::value::StrDeserializer<'_, Error> = text.into_deserializer();
        visitor.visit_enum(variant).map_err(|mut error| {
            if let Kind::Other { message, .. } = &mut error.kind {
                *message = format!("`{text}` needs a value, as in `{{{text}: …}}`");
            }
            error.at(self.node)
        })
    }
}

struct Items<'de> {
    document: &'de Document,
    items: &'de [NodeId],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        while let Some(node) = self.items.get(self.next).copied() {
            let index = self.next;
            self.next += 1;
            if !self.document.is_refused(node) {
                let value = seed.deserialize(At { document: self.document, node });
                return value.map(Some).map_err(|error| error.at(node).within(format!("[{index}]")));
            }
        }
        Ok(None)
    }
}

struct Entries<'de> {
    document: &'de Document,
    entries: std::slice::Iter<'de, (NodeId, NodeId)>,
    value: Option<(NodeId, NodeId)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let document = self.document;
        let is_refused =
            |(key, value): &&(NodeId, NodeId)| document.is_refused(*key) || document.is_refused(*value);
        let Some((key, value)) = self.entries.by_ref().copied().find(|entry| !is_refused(&entry)) else {
            return Ok(None);
        };
        self.value = Some((key, value));
        let name = document.text(key);
        let name_of: de::value::BorrowedStrDeserializer<'de, Error> =
            de::value::BorrowedStrDeserializer::new(name);
        let read = seed.deserialize(name_of);
        read.map(Some).map_err(|error| error.at(key).within(name.to_owned()))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, node)) = self.value.take() else {
            return Err(Error::other("a value was asked for before its key".to_owned()));
        };
        let value = seed.deserialize(At { document: self.document, node });
        value.map_err(|error| error.at(node).within(self.document.text(key).to_owned()))
    }
}

struct Variant<'de> {
    name: &'de str,
    key: NodeId,
    value: At<'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: de::value::BorrowedStrDeserializer<'de, Error> =
            de::value::BorrowedStrDeserializer::new(self.name);
        let variant = seed.deserialize(name);
        let variant = variant.map_err(|error| error.at(self.key).within(self.name.to_owned()))?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(Error::other(format!("`{}` stands alone, without a value", self.name)).at(self.key))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let value = seed.deserialize(self.value);
        value.map_err(|error| error.at(self.value.node).within(self.name.to_owned()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }
}
