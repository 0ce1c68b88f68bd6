//! Endpoints as records: which, in what order, and how each type shows them.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use super::Writer;
use crate::names::name::NameBuffer;
use crate::names::wire::{Data, Reply, Section, kind};
use crate::names::zone::Form;
use crate::snapshot::{Endpoint, Pool};

/// Endpoints shown in one reply; the turn decides which. More would not fit into a message over TCP.
const ENDPOINTS_MAX: usize = 512;
/// Up to so many addresses are compared one by one.
const FEW: usize = 16;
/// Of a string in a TXT record.
const STRING_BYTES_MAX: usize = 255;

/// Endpoints to be shown, in order. Kept for its buffers.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Places in the pool.
    order: Vec<u32>,
    few: Vec<IpAddr>,
    many: HashSet<IpAddr>,
    strings: Vec<u8>,
}

impl Chosen {
    /// Those that may be used and, if labels are `wanted`, have one; each in turn comes first, those of our zone before
    /// the others.
    pub(super) fn choose(
        &mut self,
        pool: &Pool,
        (zone, turn, now_ms): (&str, usize, u64),
        wanted: Option<impl Fn(&str, &str) -> bool>,
    ) {
        let endpoints = &pool.endpoints;
        let usable = |endpoint: &Endpoint| endpoint.state.ejected_until_ms.load(Relaxed) <= now_ms;
        // Better one that has failed of late than none.
        let all_ejected = !endpoints.iter().any(|endpoint| usable(endpoint));
        let fits = |endpoint: &Endpoint| {
            let labelled = wanted
                .as_ref()
                .is_none_or(|wanted| endpoint.labels.iter().any(|(key, value)| wanted(key, value)));
            labelled && (all_ejected || usable(endpoint))
        };
        self.order.clear();
        let (after, before) =
            (turn % endpoints.len().max(1)..endpoints.len(), 0..turn % endpoints.len().max(1));
        let places = after.chain(before).filter(|place| fits(&endpoints[*place]));
        self.order.extend(places.map(|place| place as u32).take(ENDPOINTS_MAX));
        if !zone.is_empty() {
            self.order.sort_by_key(|place| *endpoints[*place as usize].zone != *zone);
        }
    }

    /// This one, if the pool has it.
    pub(super) fn only(&mut self, pool: &Pool, id: u64) -> bool {
        self.order.clear();
        let place = pool.endpoints.iter().position(|endpoint| endpoint.id == id);
        self.order.extend(place.map(|place| place as u32));
        place.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether the address is seen for the first time since `forget_seen`.
    fn is_new(&mut self, address: IpAddr) -> bool {
        if self.few.len() < FEW {
            let new = !self.few.contains(&address);
            if new {
                self.few.push(address);
            }
            return new;
        }
        !self.few.contains(&address) && self.many.insert(address)
    }

    fn forget_seen(&mut self) {
        self.few.clear();
        self.many.clear();
    }
}

impl Writer<'_> {
    pub(super) fn endpoints(
        &self,
        reply: &mut Reply<'_>,
        chosen: &mut Chosen,
        pool: &Pool,
        ((owner, kind), form): ((&[u8], u16), Form<'_>),
    ) {
        chosen.forget_seen();
        match kind {
            kind::A | kind::AAAA => {
                for index in 0..chosen.order.len() {
                    let address = pool.endpoints[chosen.order[index] as usize].address.ip();
                    if address.is_ipv4() == (kind == kind::A) && chosen.is_new(address) {
                        self.address(reply, (owner, kind), address);
                    }
                }
            }
            kind::SRV => self.servers(reply, chosen, pool, (owner, form)),
            kind::TXT => {
                let Chosen { order, strings, .. } = chosen;
                for place in order.iter() {
                    describe(&pool.endpoints[*place as usize], strings);
                    reply.record(owner, self.ttl_s, Data::Txt(strings));
                }
            }
            _ => {}
        }
    }

    /// SRV records, and the addresses of the names they point to.
    fn servers(
        &self,
        reply: &mut Reply<'_>,
        chosen: &mut Chosen,
        pool: &Pool,
        (owner, form): (&[u8], Form<'_>),
    ) {
        let is_consul = matches!(form, Form::Consul(_));
        for place in &chosen.order {
            let endpoint = &pool.endpoints[*place as usize];
            let Some(target) = self.target(pool, endpoint, is_consul) else { continue };
            let data = Data::Srv {
                priority: u16::from(is_consul),
                weight: u16::try_from(endpoint.weight).unwrap_or(u16::MAX),
                port: endpoint.address.port(),
                target: target.as_bytes(),
            };
            reply.record(owner, self.ttl_s, data);
        }
        reply.section(Section::Additional);
        for index in 0..chosen.order.len() {
            let endpoint = &pool.endpoints[chosen.order[index] as usize];
            let address = endpoint.address.ip();
            // Consul's targets are addresses, so endpoints on one machine share theirs.
            if is_consul && !chosen.is_new(address) {
                continue;
            }
            let Some(target) = self.target(pool, endpoint, is_consul) else { continue };
            let kind = if address.is_ipv4() { kind::A } else { kind::AAAA };
            self.address(reply, (target.as_bytes(), kind), address);
        }
    }

    /// `None` if the name is longer than names can be.
    fn target(&self, pool: &Pool, endpoint: &Endpoint, is_consul: bool) -> Option<NameBuffer> {
        match &self.zone.consul {
            Some(consul) if is_consul => {
                let mut digits = Digits::default();
                match endpoint.address.ip() {
                    IpAddr::V4(address) => digits.write(u32::from(address).into(), 8),
                    IpAddr::V6(address) => digits.write(address.into(), 32),
                }
                NameBuffer::new().label(digits.as_bytes())?.labels(&consul.addresses)
            }
            _ => endpoint_name(&pool.service, endpoint.id, &self.zone.domain),
        }
    }
}

/// `ID.SERVICE.endpoints.mesh.internal`.
pub(super) fn endpoint_name(service: &str, id: u64, domain: &[u8]) -> Option<NameBuffer> {
    let mut digits = Digits::default();
    digits.write(id.into(), 16);
    let name = NameBuffer::new().label(digits.as_bytes())?.label(service.as_bytes())?;
    name.label(b"endpoints")?.labels(domain)
}

/// A number in hexadecimal.
#[derive(Debug, Default)]
struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Digits {
    fn write(&mut self, number: u128, digits: usize) {
        self.len = digits;
        for (index, byte) in self.bytes[..digits].iter_mut().rev().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (4 * index)) as usize & 0xf];
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the registry says about an endpoint: `key=value`, one string each, its labels last.
fn describe(endpoint: &Endpoint, strings: &mut Vec<u8>) {
    strings.clear();
    let mut weight = String::new();
    // Writing to memory does not fail.
    let _ = write!(weight, "{}", endpoint.weight);
    let own = [("address", &*endpoint.text), ("weight", &weight), ("zone", &*endpoint.zone)];
    let labels = endpoint.labels.iter().map(|(key, value)| (&**key, &**value));
    for (key, value) in own.into_iter().filter(|(_, value)| !value.is_empty()).chain(labels) {
        let length = key.len() + 1 + value.len();
        // What no string can hold is left out: half of a value would be another one.
        if let Some(length) =
            u8::try_from(length).ok().filter(|length| usize::from(*length) <= STRING_BYTES_MAX)
        {
            strings.push(length);
            strings.extend_from_slice(key.as_bytes());
            strings.push(b'=');
            strings.extend_from_slice(value.as_bytes());
        }
    }
}
