//! The verbs of the program, one file each.

pub mod admin;
pub mod check;
pub mod cni;
pub mod demo;
pub mod doctor;
pub mod net;
pub mod policy;
mod ready;
pub mod registry;
pub mod run;
pub mod status;
mod table;
pub mod wait;
