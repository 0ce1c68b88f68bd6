//! Control.

pub mod publish;

#[cfg(test)]
mod fixtures;
