//! Names for workloads: services by name from the snapshot, everything else from other resolvers.
//!
//! One thread with a runtime of its own, started by `app`; its state is `!Send`, like a worker's. What is ours is
//! answered at once where it is received; only what goes upstream becomes a task.

pub mod forward;
pub mod wire;
