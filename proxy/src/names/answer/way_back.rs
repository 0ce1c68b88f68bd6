//! From an address to names: PTR records of virtual addresses, of endpoints and of loopback.

use std::net::IpAddr;

use super::{Writer, is_own_loopback, records};
use crate::names::name::NameBuffer;
use crate::names::wire::{Data, Reply, kind};

impl Writer<'_> {
    /// From an address to names.
    pub(super) fn way_back(
        &self,
        reply: &mut Reply<'_>,
        address: IpAddr,
        (owner, kind): (&[u8], u16),
    ) -> bool {
        if is_own_loopback(address) {
            if kind == kind::PTR {
                reply.record(owner, self.ttl_s, Data::Ptr(b"\x09localhost\0"));
            }
            return true;
        }
        if self.zone.is_virtual(address) {
            let Some(service) = self.snapshot.addresses.service_at(address) else { return false };
            let name = NameBuffer::new().label(service.as_bytes());
            if let Some(name) = name.and_then(|name| name.labels(&self.zone.domain))
                && kind == kind::PTR
            {
                reply.record(owner, self.ttl_s, Data::Ptr(name.as_bytes()));
            }
            return true;
        }
        for of in self.reverse.owners(address).iter().filter(|_| kind == kind::PTR) {
            if let Some(name) = records::endpoint_name(&of.service, of.id, &self.zone.domain) {
                reply.record(owner, self.ttl_s, Data::Ptr(name.as_bytes()));
            }
        }
        true
    }
}
