//! `dns` in `/config`.

use serde_json::{Value, json};

use super::ms;
use crate::config::{Answer, ConsulNames, Dns, DnsLimits, ServiceNames, VirtualRanges};

mod forward;

pub(super) fn view(dns: &Dns) -> Value {
    let Dns {
        listen,
        listen_default: _,
        ttl_s,
        consul,
        search,
        virtual_addresses: VirtualRanges { v4, v6 },
        limits: DnsLimits { connections_max, in_flight_max, idle, queries_per_second },
        log_one_in,
        forward,
    } = dns;
    let consul = consul.as_ref().map(|ConsulNames { domain, datacenter, tag_label }| {
        json!({ "domain": domain, "datacenter": datacenter, "tag_label": tag_label })
    });
    json!({
        "listen": listen,
        "ttl_s": ttl_s,
        "consul": consul,
        "search": search,
        "virtual_addresses": { "ipv4": format!("{}/{}", v4.0, v4.1), "ipv6": format!("{}/{}", v6.0, v6.1) },
        "limits": {
            "connections_max": connections_max,
            "in_flight_max": in_flight_max,
            "idle_ms": ms(*idle),
            "queries_per_second": queries_per_second,
        },
        "log_one_in": log_one_in,
        "forward": forward::view(forward),
    })
}

pub(super) fn names_view(ServiceNames { answer, wildcard }: ServiceNames) -> Value {
    let answer = match answer {
        Answer::Endpoints => "endpoints",
        Answer::Virtual => "virtual",
    };
    json!({ "answer": answer, "wildcard": wildcard })
}
