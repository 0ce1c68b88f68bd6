//! From the configuration as written to one that is valid by construction.
//!
//! Fills in defaults and reports everything that serde cannot see: ranges, names that refer to nothing, fields that
//! exclude or need each other. After a report a harmless value takes the place of the wrong one, and the caller
//! discards the result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{FieldPath, Problems};
use super::resolved::{
    Config, ForwardedFields, Limits, Log, LogFormat, NamedPolicy, Node, PolicyHost, ServiceSettings,
};
use super::written;

pub(crate) mod admin;
mod capture;
pub(crate) mod check;
mod dns;
mod listen;
mod policy;
pub(crate) mod registry;
mod route;
mod servers;
mod service;
pub(crate) mod tls;

use check::{range, size, span};

const DOMAIN: &str = "mesh.internal";
const WORKERS_DEFAULT_MAX: usize = 2;
const SERVICES_MAX: usize = 10_000;

/// Resolves a whole configuration; relative paths start at `base`.
pub(super) fn resolve(written: written::Config, base: &Path, problems: &mut Problems) -> Config {
    let root = &FieldPath::Root;
    let policy_host_at = &root.field("policy_host");
    let written_host = written.policy_host.unwrap_or_default();
    let trusted = policy::keys(
        written_host.trusted_keys.as_ref(),
        base,
        &policy_host_at.field("trusted_keys"),
        problems,
    );
    let written_policies = written.policies.unwrap_or_default();
    let policies_at = &root.field("policies");
    let policies =
        policy::named(&written_policies, &trusted.unwrap_or_default(), base, policies_at, problems);
    let defaults = written.defaults.unwrap_or_default();
    let defaults =
        service::settings(defaults, &service::built_in(), &policies, &root.field("defaults"), problems);
    let services = services(
        written.services.unwrap_or_default(),
        &defaults,
        &policies,
        &root.field("services"),
        problems,
    );
    let routes =
        route::routes(written.routes.unwrap_or_default(), &policies, &root.field("routes"), problems);
    let capture = written.capture.map(|capture| capture::resolve(capture, &root.field("capture"), problems));
    let captured = capture.as_ref().is_some_and(|capture| !capture.outbound.addresses.is_empty());
    let outbound = listen::outbound(written.outbound, captured, &root.field("outbound"), problems);
    let admin = admin::resolve(written.admin.unwrap_or_default(), base, &root.field("admin"), problems);
    let node = node(written.node.unwrap_or_default(), &root.field("node"), problems);
    let domain = domain(written.domain, &root.field("domain"), problems);
    let state_dir =
        registry::state_dir(written.state_dir.as_deref(), base, &root.field("state_dir"), problems);
    let registry = registry::resolve(written.registry, &node, base, &root.field("registry"), problems);
    policy::refuse_releases_from_files(&policies, &registry.source, policies_at, problems);
    let config = Config {
        node,
        workers: workers(written.workers, &root.field("workers"), problems),
        outbound,
        capture,
        admin,
        registry,
        state_dir,
        log: log(written.log.unwrap_or_default(), &root.field("log"), problems),
        dns: written.dns.map(|dns| dns::resolve(dns, &domain, base, &root.field("dns"), problems)),
        domain,
        forwarded: forwarded(written.forwarded),
        limits: limits(written.limits.unwrap_or_default(), &root.field("limits"), problems),
        policy_host: policy_host(written_host, base, policy_host_at, problems),
        policies,
        defaults,
        services,
        routes,
    };
    listen::refuse_shared(&config, problems);
    config
}

fn node(written: written::Node, at: &FieldPath<'_>, problems: &mut Problems) -> Node {
    if let Some(service) = &written.service {
        check::dns_label(service, &at.field("service"), problems);
    }
    Node { service: written.service.unwrap_or_default(), zone: written.zone.unwrap_or_default() }
}

fn workers(written: Option<usize>, at: &FieldPath<'_>, problems: &mut Problems) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    range(written, cores.min(WORKERS_DEFAULT_MAX), 1..=256, at, problems)
}

/// A path that must be given.
fn file(written: Option<&str>, base: &Path, at: &FieldPath<'_>, problems: &mut Problems) -> PathBuf {
    match written {
        Some("") => problems.report(at, "an empty path"),
        Some(_) => {}
        None => problems.report(at, "field `file` is missing"),
    }
    base.join(written.unwrap_or_default())
}

pub(crate) fn log(written: written::Log, at: &FieldPath<'_>, problems: &mut Problems) -> Log {
    let filter = written.filter.unwrap_or_else(|| "info".to_owned());
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&filter) {
        problems.report(&at.field("filter"), format!("not a filter: {error}"));
    }
    let format = match written.format {
        Some(written::LogFormat::Json) => LogFormat::Json,
        Some(written::LogFormat::Text) | None => LogFormat::Text,
    };
    Log { format, filter, access: written.access.unwrap_or(false) }
}

fn domain(written: Option<String>, at: &FieldPath<'_>, problems: &mut Problems) -> String {
    let domain = written.unwrap_or_else(|| DOMAIN.to_owned()).to_ascii_lowercase();
    if !check::is_dns_name(&domain) {
        problems.report(at, format!("`{domain}` is not a domain name"));
    }
    domain
}

fn forwarded(written: Option<written::ForwardedFields>) -> ForwardedFields {
    match written {
        None => ForwardedFields::default(),
        Some(written::ForwardedFields::None) => ForwardedFields::None,
        Some(written::ForwardedFields::XForwarded) => ForwardedFields::XForwarded,
        Some(written::ForwardedFields::Forwarded) => ForwardedFields::Forwarded,
        Some(written::ForwardedFields::Both) => ForwardedFields::Both,
    }
}

fn limits(written: written::Limits, at: &FieldPath<'_>, problems: &mut Problems) -> Limits {
    let mut count = |value: Option<usize>, default, allowed, name| {
        range(value, default, allowed, &at.field(name), problems)
    };
    let connections_max = count(written.connections_max, 16_384, 1..=1_000_000, "connections_max");
    let headers_max = count(written.headers_max, 128, 1..=256, "headers_max");
    let pool_idle_max = count(written.pool_idle_max, 256, 0..=65_536, "pool_idle_max");
    let endpoint_connections_max =
        count(written.endpoint_connections_max, 1024, 1..=65_536, "endpoint_connections_max");
    let head_bytes_max =
        size(written.head_bytes_max, 64 << 10, 1 << 10..=1 << 20, &at.field("head_bytes_max"), problems);
    Limits { connections_max, head_bytes_max, headers_max, pool_idle_max, endpoint_connections_max }
}

fn policy_host(
    written: written::PolicyHost,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> PolicyHost {
    let quarantine = written.quarantine.unwrap_or_default();
    let quarantine_at = &at.field("quarantine");
    let cache_dir = match written.cache_dir.as_deref() {
        Some("none") => None,
        Some("") => {
            problems.report_with(&at.field("cache_dir"), "an empty path", "`none` turns the cache off");
            None
        }
        Some(dir) => Some(base.join(dir)),
        None => cache_dir_default(),
    };
    let mut time = |value, default, name| span(value, default, &at.field(name), problems);
    let call_budget = time(written.call_budget, Duration::from_millis(2), "call_budget");
    let update_budget = time(written.update_budget, Duration::from_millis(50), "update_budget");
    // A page of Wasm memory at least, and what 32 bits can address at most.
    let memory = 64 << 10..=4 << 30;
    PolicyHost {
        cache_dir,
        memory_bytes_max: size(
            written.memory_bytes_max,
            16 << 20,
            memory,
            &at.field("memory_bytes_max"),
            problems,
        ),
        component_bytes_max: size(
            written.component_bytes_max,
            32 << 20,
            1 << 10..=1 << 30,
            &at.field("component_bytes_max"),
            problems,
        ),
        // Each takes some of the 65,530 mappings that the kernel grants (`vm.max_map_count`); a process without any
        // left cannot run WebAssembly at all, and ends.
        instances_max: range(written.instances_max, 4096, 8..=8192, &at.field("instances_max"), problems),
        call_budget,
        update_budget,
        direct_calls: written.direct_calls.unwrap_or(true),
        quarantine_failures: range(
            quarantine.failures,
            5,
            1..=1000,
            &quarantine_at.field("failures"),
            problems,
        ),
        quarantine_window: span(
            quarantine.window,
            Duration::from_secs(30),
            &quarantine_at.field("window"),
            problems,
        ),
    }
}

/// `None` if this account has no place for caches.
fn cache_dir_default() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/outrigger"));
    }
    let caches = from_env("XDG_CACHE_HOME").or_else(|| from_env("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("outrigger"))
}

/// A directory that the environment names.
fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}

fn services(
    written: BTreeMap<String, written::Service>,
    defaults: &ServiceSettings,
    policies: &BTreeMap<String, NamedPolicy>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, ServiceSettings> {
    check::count(written.len(), SERVICES_MAX, at, problems);
    let mut services = BTreeMap::new();
    for (name, service) in written {
        let at = &at.field(&name);
        check::dns_label_key(&name, at, problems);
        let settings = service::settings(service, defaults, policies, at, problems);
        services.insert(name.clone(), settings);
    }
    services
}
