//! Which pools have instances before anybody asks, and how many there may be.
//!
//! An instance takes some 20 KiB and a fraction of a millisecond to make. A small world has them all from the start. In
//! a large one, services that the configuration names do, and the others get theirs when a worker first picks from them.

use crate::control::publish::World;

/// Instances made for services that nobody has named or asked for.
const EAGER_MAX: usize = 256;

/// The pools whose instances are made with the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eager {
    All,
    /// Of services that the configuration names, and of their parts.
    Named,
    /// There are too many of those, too.
    Nobody,
}

impl Eager {
    pub fn of(world: &World) -> Self {
        let config = &world.snapshot.config;
        let instances = |slots: usize| slots.saturating_mul(config.workers.max(1));
        let max = config.policy_host.instances_max;
        if instances(world.snapshot.pools.len()) <= max.min(EAGER_MAX) {
            Self::All
        // The other half is for those that are asked for.
        } else if instances(world.snapshot.parts.end) <= max / 2 {
            Self::Named
        } else {
            Self::Nobody
        }
    }

    /// Whether the pool at this index is one of them.
    pub fn holds(self, world: &World, at: usize) -> bool {
        match self {
            Self::All => true,
            Self::Named => at < world.snapshot.parts.end,
            Self::Nobody => false,
        }
    }
}

/// Slots that may have an instance on each worker.
pub fn slots_max(world: &World) -> usize {
    let config = &world.snapshot.config;
    (config.policy_host.instances_max / config.workers.max(1)).max(1)
}
