//! What a name means: a service, an endpoint, an address, or somebody else's affair. Pure, and without the catalogue:
//! whether there is such a service is for `answer` to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::{Labels, on_wire};
use crate::config::{ConsulNames, VirtualRanges};

/// The names that are ours.
#[derive(Debug)]
pub(super) struct Zone {
    /// In lower case, as all names here.
    pub(super) domain: Box<[u8]>,
    pub(super) server: Box<[u8]>,
    pub(super) mailbox: Box<[u8]>,
    pub(super) consul: Option<Consul>,
    pub(super) ranges: VirtualRanges,
}

#[derive(Debug)]
pub(super) struct Consul {
    pub(super) domain: Box<[u8]>,
    /// `addr.DC.consul`, where SRV records point to.
    pub(super) addresses: Box<[u8]>,
    datacenter: String,
    pub(super) tag_label: String,
}

/// A name in one of our zones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located<'a> {
    /// The zone: owner of the SOA record.
    pub(super) zone: &'a [u8],
    pub(super) meaning: Meaning<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The zone itself.
    Apex,
    /// The name server that the zone names: we.
    Server,
    /// Nothing has this name, but others are below it.
    Empty,
    Nothing,
    Service {
        name: &'a str,
        form: Form<'a>,
    },
    Endpoint {
        service: &'a str,
        id: u64,
    },
    /// A name that spells an address.
    Address(IpAddr),
    /// The name for the way back from an address.
    Reverse(IpAddr),
    Localhost,
}

/// How a service was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// What the service's settings say.
    Usual,
    Endpoints,
    Virtual,
    /// `_SERVICE._tcp`, for SRV alone.
    Srv,
    /// Names below a service's are its own only if its settings say so.
    Below,
    /// In Consul's form, which wants an endpoint at least; with a tag, those that have it.
    Consul(Option<Tag<'a>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag<'a> {
    One(&'a [u8]),
    /// Labels with their lengths: a tag may have dots.
    Labels(&'a [u8]),
}

impl Tag<'_> {
    /// Whether it is spelt so, whatever the case.
    pub(super) fn is(&self, text: &str) -> bool {
        match *self {
            Self::One(label) => label.eq_ignore_ascii_case(text.as_bytes()),
            Self::Labels(mut labels) => {
                for part in text.as_bytes().split(|byte| *byte == b'.') {
                    let Some((&length, rest)) = labels.split_first() else { return false };
                    let Some((label, rest)) = rest.split_at_checked(usize::from(length)) else {
                        return false;
                    };
                    if !label.eq_ignore_ascii_case(part) {
                        return false;
                    }
                    labels = rest;
                }
                labels.is_empty()
            }
        }
    }
}

impl Zone {
    pub(super) fn new(domain: &str, consul: Option<&ConsulNames>, ranges: VirtualRanges) -> Self {
        let consul = consul.map(|names| Consul {
            domain: on_wire(&names.domain),
            addresses: on_wire(&format!("addr.{}.{}", names.datacenter, names.domain)),
            datacenter: names.datacenter.clone(),
            tag_label: names.tag_label.clone(),
        });
        let within = |label: &str| on_wire(&format!("{label}.{domain}"));
        Self {
            domain: on_wire(domain),
            server: within("ns.dns"),
            mailbox: within("hostmaster"),
            consul,
            ranges,
        }
    }

    /// `None`: not ours. The name is in lower case.
    pub(super) fn locate<'a>(&'a self, labels: &Labels<'a>) -> Option<Located<'a>> {
        if let Some(before) = labels.below(&self.domain) {
            return Some(Located { zone: &self.domain, meaning: own(labels, before) });
        }
        if let Some(consul) = &self.consul
            && let Some(before) = labels.below(&consul.domain)
        {
            return Some(Located { zone: &consul.domain, meaning: consul.meaning(labels, before) });
        }
        special(labels)
    }

    /// Whether this address is one that only we hand out.
    pub(super) fn is_virtual(&self, address: IpAddr) -> bool {
        self.ranges.hold(address)
    }

    pub(super) fn tag_label(&self) -> &str {
        self.consul.as_ref().map_or("", |consul| &consul.tag_label)
    }
}

/// In `mesh.internal`; so many labels stand before the zone.
fn own<'a>(labels: &Labels<'a>, before: usize) -> Meaning<'a> {
    let Some(last) = before.checked_sub(1) else { return Meaning::Apex };
    let label = |index: usize| labels.get(index);
    let service = |index: usize, form: Form<'a>| match labels.text(index) {
        Some(name) => Meaning::Service { name, form },
        None => Meaning::Nothing,
    };
    let srv = |index: usize| match labels.text(index).and_then(|text| text.strip_prefix('_')) {
        Some(name) => Meaning::Service { name, form: Form::Srv },
        None => Meaning::Nothing,
    };
    match (before, label(last)) {
        (1, b"endpoints" | b"virtual" | b"_tcp" | b"dns") => Meaning::Empty,
        (2, b"dns") if label(0) == b"ns" => Meaning::Server,
        (2, b"endpoints") => service(0, Form::Endpoints),
        (2, b"virtual") => service(0, Form::Virtual),
        (2, b"_tcp") => srv(0),
        (3, b"endpoints") => match (labels.text(1), id_of(label(0))) {
            (Some(service), Some(id)) => Meaning::Endpoint { service, id },
            _ => Meaning::Nothing,
        },
        (_, b"endpoints" | b"virtual" | b"_tcp" | b"dns") => Meaning::Nothing,
        (1, _) => service(0, Form::Usual),
        (3, _) if label(1) == b"_tcp" && label(0).starts_with(b"_") => service(last, Form::Srv),
        (_, _) => service(last, Form::Below),
    }
}

impl Consul {
    fn meaning<'a>(&self, labels: &Labels<'a>, before: usize) -> Meaning<'a> {
        let mut end = before;
        if end == 0 {
            return Meaning::Apex;
        }
        let is_kind = |index: Option<usize>| {
            index.is_some_and(|index| matches!(labels.get(index), b"service" | b"node" | b"addr"))
        };
        let is_ours = |index: usize| labels.get(index) == self.datacenter.as_bytes();
        // `.DC.dc`, and the older `.DC`; any other datacentre has no names here.
        let spelt_out = end > 2 && labels.get(end - 1) == b"dc";
        if spelt_out {
            end -= 1;
        }
        let by_record = end >= 2 && labels.get(0).starts_with(b"_") && labels.get(1).starts_with(b"_");
        if !is_kind(end.checked_sub(1)) && (is_kind(end.checked_sub(2)) || spelt_out) {
            if !is_ours(end - 1) {
                return Meaning::Nothing;
            }
            end -= 1;
        } else if by_record && end == 3 && is_ours(2) {
            end -= 1;
        }
        let kind = match end.checked_sub(1) {
            Some(last) if is_kind(Some(last)) => {
                end = last;
                labels.get(last)
            }
            _ if by_record => b"service",
            _ => return Meaning::Nothing,
        };
        match (kind, end) {
            (_, 0) => Meaning::Empty,
            (b"service", 2) if by_record => by_record_name(labels),
            (b"service", _) => {
                let tag = (end > 1).then(|| Tag::Labels(labels.before(end - 1)));
                match labels.text(end - 1) {
                    Some(name) => Meaning::Service { name, form: Form::Consul(tag) },
                    None => Meaning::Nothing,
                }
            }
            (b"addr", 1) => address_of(labels.get(0)).map_or(Meaning::Nothing, Meaning::Address),
            _ => Meaning::Nothing,
        }
    }
}

/// `_SERVICE._TAG`, where `_tcp` asks for all.
fn by_record_name<'a>(labels: &Labels<'a>) -> Meaning<'a> {
    let Some(name) = labels.text(0).and_then(|text| text.strip_prefix('_')) else { return Meaning::Nothing };
    let tag = labels.get(1).strip_prefix(b"_").filter(|tag| *tag != b"tcp");
    Meaning::Service { name, form: Form::Consul(tag.map(Tag::One)) }
}

/// Names that mean the same everywhere (RFC 6761), and the way back from addresses.
fn special<'a>(labels: &Labels<'a>) -> Option<Located<'a>> {
    let last = labels.len().checked_sub(1)?;
    let located = |from: usize, meaning| Some(Located { zone: labels.suffix(from), meaning });
    match labels.get(last) {
        b"localhost" => located(last, Meaning::Localhost),
        b"invalid" => located(last, Meaning::Nothing),
        b"arpa" => {
            let (address, zone_labels) = match last.checked_sub(1).map(|index| labels.get(index))? {
                b"in-addr" => (IpAddr::V4(reverse_v4(labels)?), 3),
                b"ip6" => (IpAddr::V6(reverse_v6(labels)?), 14),
                _ => return None,
            };
            located(labels.len() - zone_labels, Meaning::Reverse(address))
        }
        _ => None,
    }
}

/// `4.3.2.1.in-addr.arpa`.
fn reverse_v4(labels: &Labels<'_>) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    for (octet, index) in octets.iter_mut().zip((0..4).rev()) {
        let text = labels.text(index).filter(|text| text.len() == 1 || !text.starts_with(['0', '+']))?;
        *octet = text.parse().ok()?;
    }
    (labels.len() == 6).then(|| octets.into())
}

/// 32 digits, the last first.
fn reverse_v6(labels: &Labels<'_>) -> Option<Ipv6Addr> {
    if labels.len() != 34 {
        return None;
    }
    let bits = (0..32).rev().try_fold(0_u128, |bits, index| match labels.get(index) {
        [digit] => Some(bits << 4 | u128::from(char::from(*digit).to_digit(16)?)),
        _ => None,
    });
    bits.map(Ipv6Addr::from)
}

/// Sixteen hexadecimal digits, as `/endpoints` shows them.
fn id_of(label: &[u8]) -> Option<u64> {
    hexadecimal(label).filter(|_| label.len() == 16).and_then(|id| u64::try_from(id).ok())
}

/// Eight hexadecimal digits are IPv4, 32 are IPv6.
fn address_of(label: &[u8]) -> Option<IpAddr> {
    let bits = hexadecimal(label)?;
    match label.len() {
        8 => u32::try_from(bits).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => Some(Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

fn hexadecimal(label: &[u8]) -> Option<u128> {
    let digits = label.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(label).ok().filter(|_| digits).and_then(|text| u128::from_str_radix(text, 16).ok())
}

#[cfg(test)]
mod tests;
