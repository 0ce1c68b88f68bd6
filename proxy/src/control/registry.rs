//! Sources of the catalogue.

pub mod file;
