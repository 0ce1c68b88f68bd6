pub mod clock;
pub mod config;
pub mod control;
pub mod head;
pub mod logging;
pub mod metrics;
pub mod snapshot;
