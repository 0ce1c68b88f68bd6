pub mod clock;
pub mod config;
pub mod head;
pub mod policy;
pub mod snapshot;
