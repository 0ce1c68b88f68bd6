//! `/endpoints`, and the gauges that count them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::clock;
use crate::control::publish::{Members, World};
use crate::metrics::Metrics;
use crate::snapshot::{Endpoint, EndpointRecord, EndpointStatus};

/// As labels and JSON have them.
const STATES: [&str; 4] = ["ready", "ejected", "draining", "down"];

/// Services with their endpoints, in name order.
pub(super) fn view(world: Option<&World>) -> Value {
    let mut services = Map::new();
    let Some(world) = world else { return Value::Object(services) };
    let now_ms = clock::now_ms();
    let mut names: Vec<&Arc<str>> = world.snapshot.services.iter().map(|(name, _)| name).collect();
    names.sort();
    for name in names {
        let endpoints =
            members(world, name).map(|(record, endpoint)| one(record, endpoint, now_ms)).collect();
        services.insert(name.to_string(), Value::Array(endpoints));
    }
    Value::Object(services)
}

/// Sets `outrigger_endpoints` for every service that the configuration names or that has been asked for, and the size of
/// the catalogue: ten thousand services of which a workload uses five are no reason for forty thousand lines.
pub(super) fn count(world: &World, metrics: &Metrics) {
    let now_ms = clock::now_ms();
    let snapshot = &world.snapshot;
    let (services, endpoints) = world.size();
    metrics.catalogue_services.set(i64::try_from(services).unwrap_or(i64::MAX));
    metrics.catalogue_endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    let named = (0..snapshot.parts.start).map(|at| snapshot.pools[at].service.to_string());
    let mut names = metrics.services_used();
    names.extend(named);
    for name in names.iter().filter(|name| snapshot.services.contains(name)) {
        let mut counts = [0_i64; STATES.len()];
        for (record, endpoint) in members(world, name) {
            let state = state(record, endpoint, now_ms);
            counts
                .iter_mut()
                .zip(STATES)
                .filter(|(_, known)| *known == state)
                .for_each(|(count, _)| *count += 1);
        }
        for (state, count) in STATES.into_iter().zip(counts) {
            metrics.endpoints.with_label_values(&[&**name, state]).set(count);
        }
    }
}

fn members<'a>(
    world: &'a World,
    service: &str,
) -> impl Iterator<Item = (&'a EndpointRecord, &'a Arc<Endpoint>)> {
    let pairs = |members: &'a Arc<Members>| members.records.iter().zip(&members.endpoints);
    world.members_of(service).map(pairs).into_iter().flatten()
}

fn one(record: &EndpointRecord, endpoint: &Endpoint, now_ms: u64) -> Value {
    let labels: Map<String, Value> =
        record.labels.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let load = &endpoint.state;
    json!({
        // As text: JavaScript rounds numbers of 64 bits.
        "id": format!("{:016x}", endpoint.id),
        "address": &*endpoint.text,
        "status": state(record, endpoint, now_ms),
        "weight": record.weight,
        "zone": record.zone,
        "labels": labels,
        "in_flight": load.in_flight.load(Relaxed),
        "latency_us": load.latency_us.load(Relaxed),
        "success": f64::from(load.success.load(Relaxed)) / 1000.0,
        "ejected_for_ms": load.ejected_until_ms.load(Relaxed).saturating_sub(now_ms),
    })
}

fn state(record: &EndpointRecord, endpoint: &Endpoint, now_ms: u64) -> &'static str {
    match record.status {
        EndpointStatus::Ready if endpoint.state.ejected_until_ms.load(Relaxed) > now_ms => "ejected",
        EndpointStatus::Ready => "ready",
        EndpointStatus::Draining => "draining",
        EndpointStatus::Down => "down",
    }
}
