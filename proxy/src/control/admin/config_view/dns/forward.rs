//! `dns.forward` in `/config`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::ms;
use super::super::registry::tls_view;
use crate::config::{DnsCache, Forward, Resolver, Resolvers};

pub(in super::super) fn view(forward: &Forward) -> Value {
    let Forward { domains, others, timeout, random_case, tls, cache } = forward;
    let DnsCache { entries_max, bytes_max, ttl_min, ttl_max, negative_ttl_max, stale, prefetch } = cache;
    let (servers, resolv_conf) = match others {
        Resolvers::System(path) => (None, Some(path)),
        Resolvers::Listed(resolvers) => (Some(texts(resolvers)), None),
    };
    let domains: BTreeMap<_, _> =
        domains.iter().map(|(domain, resolvers)| (domain, texts(resolvers))).collect();
    json!({
        "servers": servers,
        "resolv_conf": resolv_conf,
        "domains": domains,
        "timeout_ms": ms(*timeout),
        "random_case": random_case,
        "tls": tls.as_ref().map(tls_view),
        "cache": {
            "entries_max": entries_max,
            "bytes_max": bytes_max,
            "ttl_min_ms": ms(*ttl_min),
            "ttl_max_ms": ms(*ttl_max),
            "negative_ttl_max_ms": ms(*negative_ttl_max),
            "stale_ms": ms(*stale),
            "prefetch": prefetch,
        },
    })
}

fn texts(resolvers: &[Resolver]) -> Vec<String> {
    resolvers.iter().map(ToString::to_string).collect()
}
