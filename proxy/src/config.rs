//! Configuration: from YAML text to a `Config` that is valid by construction.

pub mod resolved;

pub use resolved::*;
