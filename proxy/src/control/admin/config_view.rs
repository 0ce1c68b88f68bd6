//! `/config`: the resolved configuration as JSON. Every field is named here, so that a new one cannot be forgotten
//! and a secret cannot slip out; times are in the unit of their name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{
    Admin, AdminListen, Backend, Capture, Config, Ejection, ForwardedFields, HashKey, Limits, Listen, Log,
    LogFormat, Mode, NamedPolicy, Node, PolicyHost, PolicyOrigin, PolicyUse, Ports, Release, Retry, Route,
    RouteAction, RouteMatch, ServiceSettings, Timeouts, Unknown,
};
use crate::release::{PublicKey, Trust};

mod dns;
mod registry;

pub(super) fn view(config: &Config) -> Value {
    let Config {
        node: Node { service, zone },
        workers,
        outbound,
        capture,
        admin,
        registry,
        state_dir,
        log: Log { format, filter, access },
        domain,
        dns,
        forwarded,
        limits,
        policy_host,
        policies,
        defaults,
        services,
        routes,
    } = config;
    let policies: BTreeMap<&str, Value> = policies
        .iter()
        .map(|(name, NamedPolicy { origin, place: _ })| (name.as_str(), origin_view(origin)))
        .collect();
    let services: BTreeMap<&str, Value> =
        services.iter().map(|(name, settings)| (name.as_str(), settings_view(settings))).collect();
    let format = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let forwarded = match forwarded {
        ForwardedFields::None => "none",
        ForwardedFields::XForwarded => "x-forwarded",
        ForwardedFields::Forwarded => "forwarded",
        ForwardedFields::Both => "both",
    };
    json!({
        "node": { "service": service, "zone": zone },
        "workers": workers,
        "outbound": outbound,
        "capture": capture.as_ref().map(capture_view),
        "admin": admin_view(admin),
        "registry": registry::view(registry),
        "state_dir": state_dir.as_ref().map(|dir| dir.display().to_string()),
        "log": { "format": format, "filter": filter, "access": access },
        "domain": domain,
        "dns": dns.as_ref().map(dns::view),
        "forwarded": forwarded,
        "limits": limits_view(limits),
        "policy_host": host_view(policy_host),
        "policies": policies,
        "defaults": settings_view(defaults),
        "services": services,
        "routes": routes.iter().map(route_view).collect::<Vec<_>>(),
    })
}

fn capture_view(capture: &Capture) -> Value {
    let Capture { mode, outbound, inbound, unknown, detect, idle, opaque_outbound, opaque_inbound } = capture;
    let listen_view = |Listen { addresses, is_default: _ }: &Listen| json!(addresses);
    let ports_view = |Ports(ranges): &Ports| json!(ranges);
    let unknown = match unknown {
        Unknown::Pass => "pass",
        Unknown::Refuse => "refuse",
    };
    let mode = match mode {
        Mode::Redirect => "redirect",
        Mode::Tproxy => "tproxy",
    };
    json!({
        "mode": mode,
        "outbound": listen_view(outbound),
        "inbound": listen_view(inbound),
        "unknown": unknown,
        "detect_ms": ms(*detect),
        "idle_ms": ms(*idle),
        "opaque_outbound": ports_view(opaque_outbound),
        "opaque_inbound": ports_view(opaque_inbound),
    })
}

fn admin_view(Admin { listen, token }: &Admin) -> Value {
    let listen = match listen {
        AdminListen::Tcp(address) => address.to_string(),
        AdminListen::Unix(path) => format!("unix:{}", path.display()),
    };
    json!({ "listen": listen, "token": token.as_ref().map(|_| "(hidden)") })
}

fn limits_view(limits: &Limits) -> Value {
    let Limits { connections_max, head_bytes_max, headers_max, pool_idle_max, endpoint_connections_max } =
        limits;
    json!({
        "connections_max": connections_max,
        "head_bytes_max": head_bytes_max,
        "headers_max": headers_max,
        "pool_idle_max": pool_idle_max,
        "endpoint_connections_max": endpoint_connections_max,
    })
}

fn host_view(host: &PolicyHost) -> Value {
    let PolicyHost {
        cache_dir,
        memory_bytes_max,
        component_bytes_max,
        instances_max,
        call_budget,
        update_budget,
        direct_calls,
        quarantine_failures,
        quarantine_window,
    } = host;
    json!({
        "cache_dir": cache_dir.as_ref().map(|dir| dir.display().to_string()),
        "memory_bytes_max": memory_bytes_max,
        "component_bytes_max": component_bytes_max,
        "instances_max": instances_max,
        "call_budget_ms": ms(*call_budget),
        "update_budget_ms": ms(*update_budget),
        "direct_calls": direct_calls,
        "quarantine_failures": quarantine_failures,
        "quarantine_window_ms": ms(*quarantine_window),
    })
}

fn settings_view(settings: &ServiceSettings) -> Value {
    let ServiceSettings { balancer, hash_key, timeouts, retry, ejection, dns } = settings;
    let Timeouts { connect, request, idle } = timeouts;
    let Retry { attempts, statuses } = retry;
    let Ejection { consecutive_failures, time, time_max, panic_threshold } = ejection;
    json!({
        "balancer": use_view(balancer),
        "hash_key": key_view(hash_key),
        "timeouts": { "connect_ms": ms(*connect), "request_ms": ms(*request), "idle_ms": ms(*idle) },
        "retry": { "attempts": attempts, "statuses": statuses },
        "ejection": {
            "consecutive_failures": consecutive_failures,
            "time_ms": ms(*time),
            "time_max_ms": ms(*time_max),
            "panic_threshold": panic_threshold,
        },
        "dns": dns::names_view(*dns),
    })
}

fn use_view(PolicyUse { policy, config, place }: &PolicyUse) -> Value {
    // It is JSON: the configuration was read from YAML and written as such.
    let config =
        config.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str())));
    json!({ "policy": policy, "config": config, "place": place.to_string() })
}

fn origin_view(origin: &PolicyOrigin) -> Value {
    match origin {
        PolicyOrigin::File(file) => json!({ "file": file.display().to_string() }),
        PolicyOrigin::Release(Release { name, trust: Trust { at_least, keys } }) => {
            let keys: Vec<String> = keys.iter().map(PublicKey::id).collect();
            json!({ "release": name, "at_least": at_least, "keys": keys })
        }
    }
}

fn key_view(key: &HashKey) -> Value {
    match key {
        HashKey::None => Value::Null,
        HashKey::Header(name) => json!({ "header": name }),
        HashKey::Cookie(name) => json!({ "cookie": name }),
        HashKey::SourceAddress => json!("source_address"),
        HashKey::Path => json!("path"),
    }
}

fn route_view(Route { name, matches, action, place }: &Route) -> Value {
    let RouteMatch { hosts, path_prefix, methods } = matches;
    let matches = json!({ "hosts": hosts, "path_prefix": path_prefix, "methods": methods });
    let action = match action {
        RouteAction::Forward(backend) => json!({ "backend": backend_view(backend) }),
        RouteAction::Router { policy, backends, hash_key } => json!({
            "router": use_view(policy),
            "backends": backends.iter().map(backend_view).collect::<Vec<_>>(),
            "hash_key": key_view(hash_key),
        }),
    };
    json!({ "name": name, "match": matches, "action": action, "place": place.to_string() })
}

fn backend_view(Backend { name, service, labels }: &Backend) -> Value {
    json!({ "name": name, "service": service, "labels": labels })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
