//! The verbs of the program, one file each.

pub mod check;
pub mod policy;
pub mod run;
