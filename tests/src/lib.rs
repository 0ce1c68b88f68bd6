//! What the promises in `tests/promises` are proved with: the real program as a child process, scripted backends,
//! a strict client, load that checks every answer, and guests that misbehave.
//!
//! Everything blocks: a thread per connection is plenty here, and reads from top to bottom. Nothing sleeps but
//! `wait`, which polls for a condition.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed, and says where"
)]

pub mod authority;
pub mod backend;
pub mod captured;
pub mod client;
pub mod cni;
pub mod container;
pub mod dig;
pub mod docker;
pub mod etcd;
pub mod guest;
pub mod hosts;
pub mod images;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod netlab;
pub mod netns;
pub mod netrun;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod relay;
pub mod resolver;
pub mod shared;
pub mod shelf;
pub mod unbound;
pub mod wait;
pub mod wall_clock;
pub mod wire;
