//! The registry's part of `/config`. Passwords and tokens are not shown.

use serde_json::{Value, json};

use super::ms;
use crate::config::{
    Check, CheckKind, Consul, Etcd, MassRemoval, Register, Registry, RegistrySource, Server, Stale,
};
use crate::tls;

pub(super) fn view(registry: &Registry) -> Value {
    let Registry { source, services, stale, mass_removal, register } = registry;
    let Stale { after, leave_out } = stale;
    let MassRemoval { share, hold } = mass_removal;
    let (name, source) = match source {
        RegistrySource::File(path) => ("file", json!(path.display().to_string())),
        RegistrySource::Etcd(Etcd { servers, tls, prefix, user, timeout }) => (
            "etcd",
            json!({
                "endpoints": urls(servers, tls.as_ref()),
                "tls": tls.as_ref().map(tls_view),
                "prefix": prefix,
                "user": user.as_ref().map(|(name, _)| name),
                "timeout_ms": ms(*timeout),
            }),
        ),
        RegistrySource::Consul(Consul { servers, tls, token, datacenter, timeout }) => (
            "consul",
            json!({
                "endpoints": urls(servers, tls.as_ref()),
                "tls": tls.as_ref().map(tls_view),
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

fn urls(servers: &[Server], tls: Option<&tls::Client>) -> Vec<String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    servers.iter().map(|server| format!("{scheme}://{server}")).collect()
}

/// Files by name; what is in them is nobody's business.
pub(super) fn tls_view(client: &tls::Client) -> Value {
    let tls::ClientSettings { ca_file, identity, server_name, protocol: _ } = &*client.settings;
    json!({
        "ca_file": ca_file,
        "cert_file": identity.as_ref().map(|identity| &identity.cert_file),
        "key_file": identity.as_ref().map(|identity| &identity.key_file),
        "server_name": server_name.as_ref().map(|name| name.to_str()),
    })
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
