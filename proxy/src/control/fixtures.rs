//! Configurations and catalogues for this folder's tests.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{
    Admin, AdminListen, Backend, Config, Ejection, ForwardedFields, HashKey, Limits, Log, LogFormat,
    MassRemoval, Node, Place, PolicyHost, PolicyUse, Registry, RegistrySource, Retry, Route, RouteAction,
    RouteMatch, ServiceNames, ServiceSettings, Stale, Timeouts,
};
use crate::snapshot::{Catalogue, EndpointRecord, EndpointStatus};

/// `p2c` for all, nothing else.
pub(crate) fn config() -> Config {
    Config {
        node: Node::default(),
        workers: 2,
        outbound: Vec::new(),
        capture: None,
        admin: Admin { listen: AdminListen::Tcp(([127, 0, 0, 1], 0).into()), token: None },
        registry: Registry {
            source: RegistrySource::File("/nowhere".into()),
            services: None,
            stale: Stale { after: Duration::from_secs(300), leave_out: false },
            mass_removal: MassRemoval { share: 0.5, hold: Duration::from_secs(600) },
            register: None,
        },
        state_dir: None,
        log: Log { format: LogFormat::Text, filter: "info".into(), access: false },
        domain: "mesh.internal".into(),
        dns: None,
        forwarded: ForwardedFields::default(),
        limits: Limits {
            connections_max: 64,
            head_bytes_max: 16 * 1024,
            headers_max: 64,
            pool_idle_max: 8,
            endpoint_connections_max: 64,
        },
        policy_host: PolicyHost {
            cache_dir: None,
            memory_bytes_max: 16 << 20,
            component_bytes_max: 1 << 20,
            instances_max: 4096,
            call_budget: Duration::from_millis(2),
            update_budget: Duration::from_millis(500),
            direct_calls: true,
            quarantine_failures: 3,
            quarantine_window: Duration::from_secs(60),
        },
        policies: BTreeMap::new(),
        defaults: ServiceSettings {
            balancer: used("p2c"),
            hash_key: HashKey::None,
            timeouts: Timeouts {
                connect: Duration::from_secs(1),
                request: Duration::from_secs(10),
                idle: Duration::from_secs(60),
            },
            retry: Retry { attempts: 2, statuses: Vec::new() },
            ejection: Ejection {
                consecutive_failures: 5,
                time: Duration::from_secs(1),
                time_max: Duration::from_secs(60),
                panic_threshold: 0.5,
            },
            dns: ServiceNames::default(),
        },
        services: BTreeMap::new(),
        routes: Vec::new(),
    }
}

pub(crate) fn used(policy: &str) -> PolicyUse {
    let place = Place { file: "test.yaml".into(), line: 7, column: 3 };
    PolicyUse { policy: policy.into(), config: None, place }
}

/// A route for all requests.
pub(crate) fn router(name: &str, policy: &str, backends: Vec<Backend>) -> Route {
    Route {
        name: name.into(),
        matches: RouteMatch::default(),
        action: RouteAction::Router { policy: used(policy), backends, hash_key: HashKey::None },
        place: Place::default(),
    }
}

pub(crate) fn backend(service: &str, labels: &[(&str, &str)]) -> Backend {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Backend { name: service.into(), service: service.into(), labels }
}

/// Services with so many endpoints each.
pub(crate) fn catalogue(services: &[(&str, u8)]) -> Catalogue {
    let services = services.iter().enumerate().map(|(s, (name, count))| {
        let records = (0..*count).map(|i| record(&format!("10.0.{s}.{i}:80"))).collect();
        ((*name).into(), records)
    });
    Catalogue { services: services.collect() }
}

pub(crate) fn record(address: &str) -> EndpointRecord {
    EndpointRecord {
        address: address.parse().unwrap(),
        weight: 1,
        zone: String::new(),
        labels: BTreeMap::new(),
        status: EndpointStatus::Ready,
    }
}
