//! `dns`, checked and completed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{Answer, ConsulNames, Dns, DnsLimits, ServiceNames, VirtualRanges};
use super::super::written;
use super::check::{self, range, span};

mod forward;

const PORT: u16 = 15053;
const LISTEN_MAX: usize = 16;
const TTL: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(3600);
/// As many as a C library reads.
const SEARCH_MAX: usize = 32;
const IDLE: Duration = Duration::from_secs(10);
/// Set aside for ever: no host on any network has one of them.
const V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 0, 0, 0), 4);
/// "outri" in ASCII, behind the byte for addresses that anybody may take.
const V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6f, 0x7574, 0x7269, 0, 0, 0, 0, 0), 64);

pub(super) fn resolve(
    written: written::Dns,
    domain: &str,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Dns {
    let listen_default = written.listen.is_none();
    let consul_at = &at.field("consul");
    Dns {
        listen: listen(written.listen, &at.field("listen"), problems),
        listen_default,
        ttl_s: ttl_s(written.ttl, &at.field("ttl"), problems),
        consul: written.consul.map(|consul| self::consul(consul, domain, consul_at, problems)),
        search: search(&written.search.unwrap_or_default(), &at.field("search"), problems),
        virtual_addresses: virtual_ranges(
            &written.virtual_addresses.unwrap_or_default(),
            &at.field("virtual_addresses"),
            problems,
        ),
        limits: limits(written.limits.unwrap_or_default(), &at.field("limits"), problems),
        log_one_in: written.log_one_in.unwrap_or(0),
        forward: forward::resolve(written.forward.unwrap_or_default(), base, &at.field("forward"), problems),
    }
}

/// Of a service; what is left out comes from the defaults.
pub(super) fn service_names(written: Option<written::ServiceNames>, defaults: ServiceNames) -> ServiceNames {
    let written = written.unwrap_or_default();
    let answer = match written.answer {
        None => defaults.answer,
        Some(written::Answer::Endpoints) => Answer::Endpoints,
        Some(written::Answer::Virtual) => Answer::Virtual,
    };
    ServiceNames { answer, wildcard: written.wildcard.unwrap_or(defaults.wildcard) }
}

fn listen(
    written: Option<written::OneOrMany>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    let Some(written::OneOrMany(texts)) = written else {
        return vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()];
    };
    if texts.is_empty() {
        problems.report(at, "an empty list; at least one address is needed");
    }
    check::count(texts.len(), LISTEN_MAX, at, problems);
    let mut addresses = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let at = &at.item(index);
        let Some(address) = check::address(text, at, problems) else { continue };
        if address.ip().is_unspecified() {
            let message = format!("{} stands for every address of the host", address.ip());
            problems.report_with(at, message, "name the addresses: replies have to come from the one asked");
        } else if address.port() != 0 && addresses.contains(&address) {
            problems.report(at, format!("{address} is given twice"));
        }
        addresses.push(address);
    }
    addresses
}

/// Unlike other spans, it may be zero: then nothing is kept.
fn ttl_s(written: Option<written::Span>, at: &FieldPath<'_>, problems: &mut Problems) -> u32 {
    let ttl = written.map_or(TTL, |written::Span(ttl)| ttl);
    if ttl > TTL_MAX {
        problems.report(at, "longer than an hour (1h)");
    } else if ttl.subsec_nanos() != 0 {
        problems.report(at, "DNS counts whole seconds");
    }
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

fn consul(
    written: written::ConsulNames,
    domain: &str,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> ConsulNames {
    let consul_domain = written.domain.unwrap_or_else(|| "consul".to_owned()).to_ascii_lowercase();
    if !check::is_dns_name(&consul_domain) {
        problems.report(&at.field("domain"), format!("`{consul_domain}` is not a domain name"));
    }
    let within = |inner: &str, outer: &str| {
        inner.strip_suffix(outer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within(&consul_domain, domain) || within(domain, &consul_domain) {
        let message = format!("`{consul_domain}` and `domain` ({domain}) overlap");
        problems.report(&at.field("domain"), message);
    }
    let datacenter = written.datacenter.unwrap_or_else(|| "dc1".to_owned());
    check::dns_label(&datacenter, &at.field("datacenter"), problems);
    ConsulNames {
        domain: consul_domain,
        datacenter,
        tag_label: written.tag_label.unwrap_or_else(|| "version".to_owned()),
    }
}

fn search(written: &[String], at: &FieldPath<'_>, problems: &mut Problems) -> Vec<String> {
    check::count(written.len(), SEARCH_MAX, at, problems);
    let suffix = |(index, text): (usize, &String)| {
        let suffix = text.trim_end_matches('.').to_ascii_lowercase();
        if !check::is_dns_name(&suffix) {
            problems.report(&at.item(index), format!("`{text}` is not a domain name"));
        }
        suffix
    };
    written.iter().enumerate().map(suffix).collect()
}

fn virtual_ranges(
    written: &written::VirtualAddresses,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> VirtualRanges {
    let v4 = range_of(written.ipv4.as_deref(), (V4.0.into(), V4.1), 4..=20, &at.field("ipv4"), problems);
    let v6 = range_of(written.ipv6.as_deref(), (V6.0.into(), V6.1), 32..=96, &at.field("ipv6"), problems);
    match (v4, v6) {
        ((IpAddr::V4(v4), v4_bits), (IpAddr::V6(v6), v6_bits)) => {
            VirtualRanges { v4: (v4, v4_bits), v6: (v6, v6_bits) }
        }
        ((v4, _), _) => {
            let wrong = if v4.is_ipv4() { "ipv6" } else { "ipv4" };
            problems.report(&at.field(wrong), "an address of the other family");
            VirtualRanges { v4: V4, v6: V6 }
        }
    }
}

/// `240.0.0.0/8`: the first address and how many bits are the same.
fn range_of(
    written: Option<&str>,
    default: (IpAddr, u8),
    bits_allowed: std::ops::RangeInclusive<u8>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> (IpAddr, u8) {
    let Some(text) = written else { return default };
    let parsed = text
        .split_once('/')
        .and_then(|(address, bits)| Some((address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?)));
    let Some((address, bits)) = parsed else {
        problems.report(at, format!("`{text}` is not a range: address, slash and number of bits"));
        return default;
    };
    if address.is_ipv4() == default.0.is_ipv4() {
        range(Some(bits), bits, bits_allowed, at, problems);
        if bits <= 96 && !is_first(address, bits) {
            problems.report(at, format!("{address} is not the first address of its range"));
        }
    }
    (address, bits)
}

fn is_first(address: IpAddr, bits: u8) -> bool {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(bits.into()).is_none_or(|rest| rest == 0),
        IpAddr::V6(address) => u128::from(address).checked_shl(bits.into()).is_none_or(|rest| rest == 0),
    }
}

fn limits(written: written::DnsLimits, at: &FieldPath<'_>, problems: &mut Problems) -> DnsLimits {
    let connections_max =
        range(written.connections_max, 256, 1..=65_536, &at.field("connections_max"), problems);
    let in_flight_max = range(written.in_flight_max, 32, 1..=1024, &at.field("in_flight_max"), problems);
    let rate_at = &at.field("queries_per_second");
    let rate =
        written.queries_per_second.map(|rate| range(Some(rate), rate, 1..=1_000_000, rate_at, problems));
    DnsLimits {
        connections_max,
        in_flight_max,
        idle: span(written.idle, IDLE, &at.field("idle"), problems),
        queries_per_second: rate,
    }
}

#[cfg(test)]
mod tests;
