//! Outrigger: a sidecar proxy whose balancing and routing policies are WebAssembly components.

pub mod config;
