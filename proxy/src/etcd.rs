//! etcd 3.4 and later, through its JSON gateway (`/v3/…`): no generated code, no protoc, one HTTP client.
//!
//! For all who speak to etcd: the sidecar's registry and its releases, and the network's overlay. Nothing is repeated
//! here, but for a token that etcd no longer knows; what to do about a failure is the caller's to decide.

pub mod gateway;
pub mod wire;

pub use gateway::Gateway;
