//! `dns.forward`, checked and completed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::super::super::diagnostic::{FieldPath, Problems};
use super::super::super::resolved::{DnsCache, Forward, Resolver, ResolverVia, Resolvers};
use super::super::super::written;
use super::super::check::{self, range, size, span};
use super::super::tls;
use crate::tls::server_name;

const SYSTEM_LIST: &str = "/etc/resolv.conf";
const RESOLVERS_MAX: usize = 16;
const DOMAINS_MAX: usize = 1_000;
const PORT: u16 = 53;
const TLS_PORT: u16 = 853;
/// As ALPN calls it.
const PROTOCOL: &str = "dot";
const TIMEOUT: Duration = Duration::from_secs(4);
/// Clients that wait longer are rare.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
const ENTRIES_MAX: std::ops::RangeInclusive<usize> = 0..=10_000_000;
const CACHE_BYTES: std::ops::RangeInclusive<usize> = 64 * 1024..=4 << 30;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn resolve(
    written: written::Forward,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Forward {
    let timeout = span(written.timeout, TIMEOUT, &at.field("timeout"), problems);
    if timeout > TIMEOUT_MAX {
        problems.report(&at.field("timeout"), "longer than 30s: no client waits so long");
    }
    let domains = domains(written.domains.unwrap_or_default(), &at.field("domains"), problems);
    let others = others(written.servers, written.resolv_conf.as_deref(), base, at, problems);
    let listed = match &others {
        Resolvers::Listed(resolvers) => resolvers.as_slice(),
        Resolvers::System(_) => &[],
    };
    let mut all = domains.values().flatten().chain(listed);
    let secure = all.any(|resolver| matches!(resolver.via, ResolverVia::Tls { .. }));
    let tls_at = &at.field("tls");
    if !secure && written.tls.is_some() {
        problems.report(tls_at, "no resolver begins with `tls://`, so this would be without effect");
    }
    let settings = written.tls.unwrap_or_default();
    let tls = secure.then(|| tls::client(&settings, PROTOCOL, base, tls_at, problems)).flatten();
    Forward {
        domains,
        others,
        timeout,
        tls,
        random_case: written.random_case.unwrap_or(false),
        cache: cache(&written.cache.unwrap_or_default(), &at.field("cache"), problems),
    }
}

fn others(
    servers: Option<written::OneOrMany>,
    resolv_conf: Option<&str>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Resolvers {
    match servers {
        Some(servers) => {
            if resolv_conf.is_some() {
                problems.report(&at.field("resolv_conf"), "`servers` and `resolv_conf` exclude each other");
            }
            Resolvers::Listed(resolvers(&servers, &at.field("servers"), problems))
        }
        None => Resolvers::System(base.join(resolv_conf.unwrap_or(SYSTEM_LIST))),
    }
}

fn domains(
    written: BTreeMap<String, written::OneOrMany>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Vec<Resolver>> {
    check::count(written.len(), DOMAINS_MAX, at, problems);
    let mut domains = BTreeMap::new();
    for (domain, servers) in written {
        let at = &at.field(&domain);
        let name = domain.trim_end_matches('.').to_ascii_lowercase();
        if !check::is_dns_name(&name) {
            problems.report(at, format!("`{domain}` is not a domain name"));
        }
        if domains.insert(name, resolvers(&servers, at, problems)).is_some() {
            problems.report(at, format!("`{domain}` is given twice"));
        }
    }
    domains
}

fn resolvers(
    written::OneOrMany(texts): &written::OneOrMany,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<Resolver> {
    if texts.is_empty() {
        problems.report(at, "an empty list; at least one resolver is needed");
    }
    check::count(texts.len(), RESOLVERS_MAX, at, problems);
    let mut resolvers = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match resolver(text) {
            Ok(resolver) if resolvers.contains(&resolver) => {
                problems.report(&at.item(index), format!("{resolver} is given twice"));
            }
            Ok(resolver) => resolvers.push(resolver),
            Err(message) => {
                problems.report_with(
                    &at.item(index),
                    message,
                    "as in 10.0.0.2, tcp://[fd00::2]:53 or tls://10.0.0.2#NAME",
                );
            }
        }
    }
    resolvers
}

fn resolver(text: &str) -> Result<Resolver, String> {
    let (way, rest) = text.split_once("://").unwrap_or(("udp", text));
    let (address, name) = match rest.split_once('#') {
        Some((address, name)) if way == "tls" => (address, Some(name)),
        _ => (rest, None),
    };
    let port = if way == "tls" { TLS_PORT } else { PORT };
    let address = address_of(address, port).ok_or_else(|| format!("`{text}` is not a resolver's address"))?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!("nobody can be asked at {address}"));
    }
    let via = match way {
        "udp" => ResolverVia::Udp,
        "tcp" => ResolverVia::Tcp,
        "tls" => {
            let server_name = name.map_or_else(|| address.ip().to_string(), str::to_owned);
            if self::server_name(&server_name).is_none() {
                return Err(format!("`{server_name}` cannot be in a certificate"));
            }
            ResolverVia::Tls { server_name }
        }
        other => return Err(format!("`{other}` is not a way to ask a resolver")),
    };
    Ok(Resolver { address, via })
}

/// With the port, or without.
fn address_of(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some((address, port).into()),
        Err(_) => text.parse().ok(),
    }
}

fn cache(written: &written::DnsCache, at: &FieldPath<'_>, problems: &mut Problems) -> DnsCache {
    let entries_max = range(written.entries_max, 10_000, ENTRIES_MAX, &at.field("entries_max"), problems);
    let bytes_max = size(written.bytes_max, 4 << 20, CACHE_BYTES, &at.field("bytes_max"), problems);
    let mut time = |written: Option<written::Span>, default: Duration, field: &str| {
        let value = written.map_or(default, |written::Span(value)| value);
        let at = &at.field(field);
        if value > 7 * DAY {
            problems.report(at, "longer than a week (168h)");
        } else if value.subsec_nanos() != 0 {
            problems.report(at, "DNS counts whole seconds");
        }
        value
    };
    let ttl_min = time(written.ttl_min, Duration::ZERO, "ttl_min");
    let ttl_max = time(written.ttl_max, DAY, "ttl_max");
    let negative_ttl_max = time(written.negative_ttl_max, Duration::from_secs(900), "negative_ttl_max");
    let stale = time(written.stale, DAY, "stale");
    if ttl_min > ttl_max {
        problems.report(&at.field("ttl_min"), "longer than `ttl_max`");
    }
    let prefetch = written.prefetch.unwrap_or(true);
    DnsCache {
        entries_max,
        bytes_max,
        ttl_min: ttl_min.min(ttl_max),
        ttl_max,
        negative_ttl_max,
        stale,
        prefetch,
    }
}

#[cfg(test)]
mod tests;
