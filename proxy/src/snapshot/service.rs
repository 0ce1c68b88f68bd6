//! Services and endpoints: what the registry says, and what we measure about each endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What the registry says now, by service name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    pub services: BTreeMap<String, Vec<EndpointRecord>>,
}

/// One endpoint as the registry has it. Addresses are unique within a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    pub address: SocketAddr,
    /// 1 to 65535.
    pub weight: u32,
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    pub status: EndpointStatus,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndpointStatus {
    #[default]
    Ready,
    /// Finishes what it has, gets nothing new.
    Draining,
    /// Known to be out of order.
    Down,
}

/// One endpoint in a snapshot.
#[derive(Debug)]
pub struct Endpoint {
    /// Hash of the address: the same over updates, workers and restarts.
    pub id: u64,
    pub address: SocketAddr,
    /// `address` as text, made once: log lines and policies want it.
    pub text: Arc<str>,
    pub weight: u32,
    pub zone: Arc<str>,
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub state: Arc<EndpointState>,
}

/// What all workers measure about one endpoint, together. It lives as long as the address stays in the catalogue.
/// Relaxed atomics on cache lines of their own; read-modify-write races only blur an average.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    /// Requests sent and not yet answered.
    pub in_flight: AtomicU32,
    /// Moving average of the time to the first byte, µs; 0 until the first answer.
    pub latency_us: AtomicU32,
    /// Share of recent attempts that succeeded, in thousandths.
    pub success: AtomicU32,
    /// Utilisation the endpoint reports about itself (ORCA), in thousandths; 0 if none.
    pub reported: AtomicU32,
    /// Failures since the last success.
    pub failures: AtomicU32,
    /// Ejections since the last long spell without one.
    pub ejections: AtomicU32,
    /// Not to be picked before this instant, in ms of `clock::now_ms`; 0 if never ejected.
    pub ejected_until_ms: AtomicU64,
}

impl Default for EndpointState {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU32::new(0),
            success: AtomicU32::new(1000),
            reported: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
        }
    }
}
