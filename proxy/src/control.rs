//! Control.

pub mod publish;
pub mod registry;
pub mod watch;

#[cfg(test)]
mod fixtures;
