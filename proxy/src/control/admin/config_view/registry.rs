//! The registry's part of `/config`. Passwords and tokens are not shown.

use serde_json::{Value, json};

use super::ms;
use crate::config::{
    Check, CheckKind, Consul, Etcd, MassRemoval, Register, Registry, RegistrySource, Server, Stale,
};

pub(super) fn view(registry: &Registry) -> Value {
    let Registry { source, services, stale, mass_removal, register } = registry;
    let Stale { after, leave_out } = stale;
    let MassRemoval { share, hold } = mass_removal;
    let (name, source) = match source {
        RegistrySource::File(path) => ("file", json!(path.display().to_string())),
        RegistrySource::Etcd(Etcd { servers, prefix, user, timeout }) => (
            "etcd",
            json!({
                "endpoints": urls(servers),
                "prefix": prefix,
                "user": user.as_ref().map(|(name, _)| name),
                "timeout_ms": ms(*timeout),
            }),
        ),
        RegistrySource::Consul(Consul { servers, token, datacenter, timeout }) => (
            "consul",
            json!({
                "endpoints": urls(servers),
                "token": token.as_ref().map(|_| "(hidden)"),
                "datacenter": datacenter,
                "timeout_ms": ms(*timeout),
            }),
        ),
    };
    json!({
        name: source,
        "services": services,
        "stale": { "after_ms": ms(*after), "then": if *leave_out { "leave-out" } else { "keep" } },
        "mass_removal": { "share": share, "hold_ms": ms(*hold) },
        "register": register.as_ref().map(register_view),
    })
}

fn urls(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| format!("http://{server}")).collect()
}

fn register_view(register: &Register) -> Value {
    let Register { service, id, address, weight, zone, labels, ttl, report_load, check } = register;
    json!({
        "service": service,
        "id": id,
        "address": address,
        "weight": weight,
        "zone": zone,
        "labels": labels,
        "ttl_ms": ms(*ttl),
        "report_load_ms": report_load.map(ms),
        "check": check.as_ref().map(check_view),
    })
}

fn check_view(Check { kind, address, interval, timeout, failures, successes }: &Check) -> Value {
    let kind = match kind {
        CheckKind::Tcp => json!({ "kind": "tcp" }),
        CheckKind::Http { path } => json!({ "kind": "http", "path": path }),
        CheckKind::Grpc { service } => json!({ "kind": "grpc", "service": service }),
        CheckKind::Exec { command } => json!({ "kind": "exec", "command": command }),
    };
    json!({
        "try": kind,
        "address": address,
        "interval_ms": ms(*interval),
        "timeout_ms": ms(*timeout),
        "failures": failures,
        "successes": successes,
    })
}
