//! The program's verbs, one file each.

pub mod check;
pub mod policy;
