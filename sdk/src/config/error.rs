//! An error in a configuration, which knows the field it is about.
//!
//! Formats no floating-point number and no `Debug` text: either would add more code to a component than all the rest.

use std::fmt;

use serde::de::{Expected, Unexpected};

/// The path grows at its front while the error leaves the nested values.
#[derive(Debug)]
pub(super) struct Error {
    path: String,
    message: String,
}

impl Error {
    pub(super) fn new(message: String) -> Self {
        Self { path: String::new(), message }
    }

    pub(super) fn inside_field(self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: [name, dot, &self.path].concat(), message: self.message }
    }

    pub(super) fn inside_item(self, index: usize) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: ["[", &index.to_string(), "]", dot, &self.path].concat(), message: self.message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "config" } else { &self.path };
        f.write_str(path)?;
        f.write_str(": ")?;
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("invalid type: {}, expected {expected}", described(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("invalid value: {}, expected {expected}", described(found)))
    }

    fn unknown_variant(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(["unknown value `", name, "`, expected one of `", &expected.join("`, `"), "`"].concat())
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(["unknown field `", name, "`, expected one of `", &expected.join("`, `"), "`"].concat())
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(["missing field `", name, "`"].concat())
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::new(["duplicate field `", name, "`"].concat())
    }
}

fn described(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unsigned(number) => format!("integer `{number}`"),
        Unexpected::Signed(number) => format!("integer `{number}`"),
        Unexpected::Str(text) => ["string \"", text, "\""].concat(),
        Unexpected::Bool(value) => if value { "`true`" } else { "`false`" }.to_owned(),
        Unexpected::Float(_) => "a number with a fraction".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        _ => "another kind of value".to_owned(),
    }
}
