//! Virtual addresses: one number per service, which makes an IPv4 and an IPv6 address of it.
//!
//! Control assigns the numbers (`control/addresses`); names are answered with the addresses, and a connection to one
//! of them tells its service without anything being parsed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::config::VirtualRanges;
use crate::shared_map::SharedMap;

/// Which service has which number; cheap to clone, and a change costs a piece of it.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// `None`: no names are offered, so nobody has an address.
    ranges: Option<VirtualRanges>,
    by_service: SharedMap<Arc<str>, u32>,
    by_number: SharedMap<u32, Arc<str>>,
}

impl VirtualRanges {
    /// Whether this is an address that a service may have.
    pub fn hold(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let host_bits = 32 - u32::from(self.v4.1);
                u32::from(address) >> host_bits == u32::from(self.v4.0) >> host_bits
            }
            IpAddr::V6(address) => {
                let host_bits = 128 - u32::from(self.v6.1);
                u128::from(address) >> host_bits == u128::from(self.v6.0) >> host_bits
            }
        }
    }

    /// Numbers that make an address: neither the first of the range nor the last, which mean something else in a
    /// network.
    pub fn numbers(&self) -> std::ops::RangeInclusive<u32> {
        1..=(u32::MAX >> self.v4.1) - 1
    }

    pub fn addresses_of(&self, number: u32) -> (Ipv4Addr, Ipv6Addr) {
        let v4 = u32::from(self.v4.0) | number;
        let v6 = u128::from(self.v6.0) | u128::from(number);
        (v4.into(), v6.into())
    }

    pub fn number_of(&self, address: IpAddr) -> Option<u32> {
        if !self.hold(address) {
            return None;
        }
        match address {
            IpAddr::V4(address) => Some(u32::from(address) - u32::from(self.v4.0)),
            IpAddr::V6(address) => u32::try_from(u128::from(address) - u128::from(self.v6.0)).ok(),
        }
    }
}

impl Addresses {
    pub fn new(ranges: Option<VirtualRanges>) -> Self {
        Self { ranges, ..Self::default() }
    }

    pub fn ranges(&self) -> Option<&VirtualRanges> {
        self.ranges.as_ref()
    }

    pub fn of(&self, service: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        Some(self.ranges?.addresses_of(*self.by_service.get(service)?))
    }

    pub fn number_of(&self, service: &str) -> Option<u32> {
        self.by_service.get(service).copied()
    }

    /// The service that has this address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.by_number.get(&self.ranges?.number_of(address)?)
    }

    pub fn is_taken(&self, number: u32) -> bool {
        self.by_number.contains(&number)
    }

    /// The number is nobody else's.
    pub fn assign(&mut self, service: &Arc<str>, number: u32) {
        debug_assert!(!self.is_taken(number));
        self.by_service.insert(Arc::clone(service), number);
        self.by_number.insert(number, Arc::clone(service));
    }

    pub fn remove(&mut self, service: &str) -> Option<u32> {
        let number = self.by_service.remove(service)?;
        self.by_number.remove(&number);
        Some(number)
    }

    /// In order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.by_service.iter().map(|(service, number)| (service, *number))
    }

    pub fn len(&self) -> usize {
        self.by_service.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_service.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_two_addresses_and_back() {
        let ranges =
            VirtualRanges { v4: ("240.16.0.0".parse().unwrap(), 12), v6: ("fd00:1::".parse().unwrap(), 96) };
        assert_eq!(ranges.numbers(), 1..=(1 << 20) - 2);
        let (v4, v6) = ranges.addresses_of(0x0001_0203);
        assert_eq!((v4.to_string(), v6.to_string()), ("240.17.2.3".into(), "fd00:1::1:203".into()));
        for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            assert_eq!(ranges.number_of(address), Some(0x0001_0203));
        }
        for other in ["240.32.0.1", "240.15.0.1", "fd00:1::1:0:0:0", "::1"] {
            assert_eq!(ranges.number_of(other.parse().unwrap()), None, "{other}");
        }
        let mut addresses = Addresses::new(Some(ranges));
        addresses.assign(&"web".into(), 5);
        assert_eq!(addresses.service_at("240.16.0.5".parse().unwrap()).map(|s| &**s), Some("web"));
        assert_eq!(addresses.service_at("240.16.0.6".parse().unwrap()), None);
        assert_eq!(addresses.of("web").unwrap().1.to_string(), "fd00:1::5");
        assert_eq!((addresses.remove("web"), addresses.len()), (Some(5), 0));
        assert!(Addresses::default().service_at("240.16.0.5".parse().unwrap()).is_none());
    }
}
