//! The first-party policies, which the build puts inside the program.

use super::inspect::{Roles, inspect};

/// The component of a built-in policy.
pub fn bytes(name: &str) -> Option<&'static [u8]> {
    BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// In alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// What a built-in policy can be used as.
pub fn roles(name: &str) -> Option<Roles> {
    inspect(bytes(name)?).ok().map(|inspection| inspection.roles)
}

include!(concat!(env!("OUT_DIR"), "/builtin.rs"));
