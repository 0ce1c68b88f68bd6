//! The rows of the registry, as they are kept on disk and shown to clients: names of fields are Consul's.
//!
//! Everything that may be left out has a default, so that a store written by an older version can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names are copied often and changed never.
pub(crate) type Name = Arc<str>;
pub(crate) type Map = BTreeMap<String, String>;

/// A machine, real or registered through the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NodeRow {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Node")]
    pub(crate) name: Name,
    pub(crate) address: String,
    pub(crate) datacenter: String,
    pub(crate) tagged_addresses: Map,
    pub(crate) meta: Map,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// An instance of a service on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Instance {
    #[serde(rename = "ID")]
    pub(crate) id: Name,
    pub(crate) service: Name,
    pub(crate) tags: Vec<String>,
    pub(crate) address: String,
    pub(crate) tagged_addresses: BTreeMap<String, ServiceAddress>,
    pub(crate) meta: Map,
    pub(crate) port: u16,
    pub(crate) weights: Weights,
    pub(crate) enable_tag_override: bool,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ServiceAddress {
    #[serde(alias = "address")]
    pub(crate) address: String,
    #[serde(alias = "port")]
    pub(crate) port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Weights {
    #[serde(alias = "passing")]
    pub(crate) passing: u32,
    #[serde(alias = "warning")]
    pub(crate) warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// Whether something is well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Passing,
    Warning,
    /// Until somebody says otherwise.
    #[default]
    Critical,
}

impl Status {
    pub(crate) const ALL: [Self; 3] = [Self::Passing, Self::Warning, Self::Critical];

    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A check of an instance, or of a node if `service_id` is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Check {
    pub(crate) node: Name,
    #[serde(rename = "CheckID")]
    pub(crate) id: Name,
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) notes: String,
    pub(crate) output: String,
    #[serde(rename = "ServiceID")]
    pub(crate) service_id: Name,
    pub(crate) service_name: Name,
    pub(crate) service_tags: Vec<String>,
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    /// As Consul writes durations; empty for a TTL check.
    pub(crate) interval: String,
    pub(crate) timeout: String,
    pub(crate) definition: Definition,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// How a check is carried out. Empty for those that others report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Definition {
    #[serde(rename = "HTTP", skip_serializing_if = "String::is_empty")]
    pub(crate) http: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) method: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) header: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) body: String,
    #[serde(rename = "TCP", skip_serializing_if = "String::is_empty")]
    pub(crate) tcp: String,
    #[serde(rename = "GRPC", skip_serializing_if = "String::is_empty")]
    pub(crate) grpc: String,
    #[serde(rename = "TTL", with = "nanos", skip_serializing_if = "Duration::is_zero")]
    pub(crate) ttl: Duration,
    #[serde(rename = "IntervalDuration", with = "nanos", skip_serializing_if = "Duration::is_zero")]
    pub(crate) interval: Duration,
    #[serde(rename = "TimeoutDuration", with = "nanos", skip_serializing_if = "Duration::is_zero")]
    pub(crate) timeout: Duration,
    #[serde(
        rename = "DeregisterCriticalServiceAfterDuration",
        with = "nanos",
        skip_serializing_if = "Duration::is_zero"
    )]
    pub(crate) deregister_after: Duration,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) success_before_passing: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) failures_before_critical: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Durations as Go's JSON has them: nanoseconds.
mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// An entry of the key-value store. The value is kept beside it on disk, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: bytes::Bytes,
    pub(crate) flags: u64,
    pub(crate) lock_index: u64,
    /// Who holds the lock; empty if nobody.
    pub(crate) session: Name,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// A holder of locks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Session {
    #[serde(rename = "ID")]
    pub(crate) id: Name,
    pub(crate) name: String,
    pub(crate) node: Name,
    #[serde(with = "nanos")]
    pub(crate) lock_delay: Duration,
    /// `release` or `delete`.
    pub(crate) behavior: String,
    /// As written; empty for one that does not end by itself.
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    pub(crate) node_checks: Vec<String>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// A duration as Go reads it: `90s`, `1m30s`, `1.5h`, `100ms`. A bare number has no meaning.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        seconds += number * factor;
        rest = &rest[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// The way Go writes a duration, for those that come back to clients.
pub(crate) fn go_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if time.is_zero() {
        return "0s".into();
    }
    if seconds == 0 || time.subsec_nanos() != 0 {
        let millis = time.as_secs_f64() * 1000.0;
        return if seconds == 0 { format!("{millis}ms") } else { format!("{}s", time.as_secs_f64()) };
    }
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        let good = [("10s", 10_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)];
        for (text, millis) in good {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "s", "1x", "-1s", "1s 2s", "1..2s", "1e9h9"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        for (millis, text) in [(10_000, "10s"), (90_000, "1m30s"), (7_200_000, "2h0m0s"), (250, "250ms")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn rows_survive_the_way_to_disk() {
        let check = Check {
            id: "c".into(),
            definition: Definition {
                ttl: Duration::from_secs(3),
                http: "http://a/".into(),
                ..Definition::default()
            },
            ..Check::default()
        };
        let text = serde_json::to_string(&check).unwrap();
        assert_eq!(serde_json::from_str::<Check>(&text).unwrap(), check);
        assert_eq!(serde_json::from_str::<NodeRow>("{}").unwrap(), NodeRow::default());
    }
}
