//! Control.

pub mod publish;
pub mod registry;

#[cfg(test)]
mod fixtures;
