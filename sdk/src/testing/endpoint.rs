//! Endpoints for tests: `endpoint("10.0.0.1:80").with_weight(3).with_zone("a")`.

use crate::balancer::{Endpoint, Label, Load};
use crate::hash;

/// An endpoint of weight 1 without zone and labels. The same address has the same id.
#[must_use]
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        id: hash::text(address),
        address: address.to_owned(),
        weight: 1,
        zone: String::new(),
        labels: Vec::new(),
    }
}

/// `n` endpoints of weight 1: `10.0.0.0:8080`, `10.0.0.1:8080` and so on.
#[must_use]
pub fn endpoints(n: usize) -> Vec<Endpoint> {
    (0..n).map(|i| endpoint(&format!("10.0.{}.{}:8080", i / 256, i % 256))).collect()
}

impl Endpoint {
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    #[must_use]
    pub fn with_zone(mut self, zone: &str) -> Self {
        zone.clone_into(&mut self.zone);
        self
    }

    #[must_use]
    pub fn with_label(mut self, key: &str, value: &str) -> Self {
        self.labels.push(Label { key: key.to_owned(), value: value.to_owned() });
        self
    }
}

impl Default for Load {
    /// An idle endpoint that nothing is known about.
    fn default() -> Self {
        Self { in_flight: 0, latency_us: 0, success: 1_000, reported: 0 }
    }
}
