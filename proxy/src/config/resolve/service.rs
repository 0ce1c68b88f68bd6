//! How traffic to a service is treated.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::builtin::{DEFAULT_BALANCER, PolicyKind};
use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{
    Ejection, HashKey, NamedPolicy, Place, PolicyUse, Retry, ServiceNames, ServiceSettings, Timeouts,
};
use super::super::written;
use super::check::{range, span};
use super::{dns, policy};

/// The settings of a service about which nothing is written.
pub(super) fn built_in() -> ServiceSettings {
    ServiceSettings {
        balancer: PolicyUse { policy: DEFAULT_BALANCER.to_owned(), config: None, place: Place::default() },
        hash_key: HashKey::None,
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        },
        retry: Retry { attempts: 2, statuses: Vec::new() },
        ejection: Ejection {
            consecutive_failures: 5,
            time: Duration::from_secs(1),
            time_max: Duration::from_secs(60),
            panic_threshold: 0.5,
        },
        dns: ServiceNames::default(),
    }
}

/// What is written, and for the rest what `base` has.
pub(super) fn settings(
    written: written::Service,
    base: &ServiceSettings,
    policies: &BTreeMap<String, NamedPolicy>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> ServiceSettings {
    let balancer = match &written.balancer {
        Some(used) => policy::resolve(used, PolicyKind::Balancer, policies, &at.field("balancer"), problems),
        None => base.balancer.clone(),
    };
    let hash_key = match &written.hash_key {
        Some(key) => hash_key(key, &at.field("hash_key"), problems),
        None => base.hash_key.clone(),
    };
    let (timeouts_at, retry_at, ejection_at) =
        (&at.field("timeouts"), &at.field("retry"), &at.field("ejection"));
    ServiceSettings {
        balancer,
        hash_key,
        timeouts: timeouts(written.timeouts.unwrap_or_default(), &base.timeouts, timeouts_at, problems),
        retry: retry(written.retry.unwrap_or_default(), &base.retry, retry_at, problems),
        ejection: ejection(written.ejection.unwrap_or_default(), &base.ejection, ejection_at, problems),
        dns: dns::service_names(written.dns, base.dns),
    }
}

pub(super) fn hash_key(written: &written::HashKey, at: &FieldPath<'_>, problems: &mut Problems) -> HashKey {
    match written {
        written::HashKey::None => HashKey::None,
        written::HashKey::SourceAddress => HashKey::SourceAddress,
        written::HashKey::Path => HashKey::Path,
        written::HashKey::Header(name) => match http::HeaderName::try_from(name) {
            Ok(name) => HashKey::Header(name.as_str().to_owned()),
            Err(_) => {
                problems.report(&at.field("header"), format!("`{name}` is not a header name"));
                HashKey::None
            }
        },
        written::HashKey::Cookie(name) => {
            // A cookie's name is a token, as a method is (RFC 6265, 4.1.1).
            if http::Method::from_bytes(name.as_bytes()).is_err() {
                problems.report(&at.field("cookie"), format!("`{name}` is not a cookie name"));
            }
            HashKey::Cookie(name.clone())
        }
    }
}

fn timeouts(
    written: written::Timeouts,
    base: &Timeouts,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Timeouts {
    Timeouts {
        connect: span(written.connect, base.connect, &at.field("connect"), problems),
        request: span(written.request, base.request, &at.field("request"), problems),
        idle: span(written.idle, base.idle, &at.field("idle"), problems),
    }
}

fn retry(written: written::Retry, base: &Retry, at: &FieldPath<'_>, problems: &mut Problems) -> Retry {
    let statuses_at = &at.field("statuses");
    for (index, status) in written.statuses.iter().flatten().enumerate() {
        range(Some(*status), 0, 400..=599, &statuses_at.item(index), problems);
    }
    let mut statuses = written.statuses.unwrap_or_else(|| base.statuses.clone());
    statuses.sort_unstable();
    statuses.dedup();
    Retry {
        attempts: range(written.attempts, base.attempts, 1..=10, &at.field("attempts"), problems),
        statuses,
    }
}

fn ejection(
    written: written::Ejection,
    base: &Ejection,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Ejection {
    let failures_at = &at.field("consecutive_failures");
    let threshold_at = &at.field("panic_threshold");
    let given = written.time.is_some() || written.time_max.is_some();
    let ejection = Ejection {
        consecutive_failures: range(
            written.consecutive_failures,
            base.consecutive_failures,
            0..=1000,
            failures_at,
            problems,
        ),
        time: span(written.time, base.time, &at.field("time"), problems),
        time_max: span(written.time_max, base.time_max, &at.field("time_max"), problems),
        panic_threshold: range(
            written.panic_threshold,
            base.panic_threshold,
            0.0..=1.0,
            threshold_at,
            problems,
        ),
    };
    if given && ejection.time > ejection.time_max {
        let (time, time_max) = (ejection.time, ejection.time_max);
        problems.report(at, format!("`time` ({time:?}) is longer than `time_max` ({time_max:?})"));
    }
    ejection
}
