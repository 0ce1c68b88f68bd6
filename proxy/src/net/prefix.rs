//! Ranges of IP addresses, as networks and exclusions name them. IPv4 and IPv6 are calculated alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with the length of the network it belongs to: `10.77.0.9/24` is in `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `None` if the length is beyond that of the address.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then_some(Self { address, length })
    }

    /// A range of IPv4 whose length is known to be 32 at most.
    pub const fn ipv4(address: Ipv4Addr, length: u8) -> Self {
        Self { address: IpAddr::V4(address), length }
    }

    /// The one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn length(self) -> u8 {
        self.length
    }

    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// The first address of the network.
    pub fn first(self) -> IpAddr {
        address(number(self.address) & !self.host_bits(), self.is_ipv4())
    }

    /// The last address of the network; in IPv4 it is the broadcast address.
    pub fn last(self) -> IpAddr {
        address(number(self.address) | self.host_bits(), self.is_ipv4())
    }

    pub fn is_network(self) -> bool {
        self.address == self.first()
    }

    pub fn network(self) -> Self {
        Self { address: self.first(), length: self.length }
    }

    /// Of the same family, the range of all addresses.
    pub fn everything(self) -> Self {
        let all: IpAddr = match self.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self { address: all, length: 0 }
    }

    pub fn contains(self, other: IpAddr) -> bool {
        self.is_ipv4() == other.is_ipv4() && (self.first()..=self.last()).contains(&other)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// The address that has this prefix's network around it.
    pub fn with(self, address: IpAddr) -> Self {
        Self { address, length: self.length }
    }

    /// The address so many after the first, if it is in the network.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        let found = number(self.first()).checked_add(offset)?;
        (found <= number(self.last())).then(|| address(found, self.is_ipv4()))
    }

    /// How far from the first address this one is.
    pub fn offset(self, address: IpAddr) -> u128 {
        number(address).saturating_sub(number(self.first()))
    }

    fn host_bits(self) -> u128 {
        let bits = u32::from(width(self.address) - self.length);
        u128::MAX.checked_shr(128 - bits).unwrap_or(0)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    // IPv4 is never calculated beyond its width.
    if ipv4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

impl FromStr for Prefix {
    type Err = String;

    /// `10.77.0.0/24`, or one address for itself alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address range, as in `10.77.0.0/24` or `fd77::/64`");
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| wrong());
        };
        let (address, length) = (address.parse().ok(), length.parse().ok());
        address.zip(length).and_then(|(address, length)| Self::new(address, length)).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn knows_its_bounds() {
        for (text, first, last) in [
            ("10.77.0.9/24", "10.77.0.0", "10.77.0.255"),
            ("10.77.0.9/32", "10.77.0.9", "10.77.0.9"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd77::9/64", "fd77::", "fd77::ffff:ffff:ffff:ffff"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1", "::1", "::1"),
        ] {
            let prefix = prefix(text);
            assert_eq!((prefix.first().to_string(), prefix.last().to_string()), (first.into(), last.into()));
        }
        for wrong in ["", "10.0.0.0/33", "fd77::/129", "10.0.0/8", "10.0.0.0/", "ten"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_and_overlaps() {
        let small = prefix("10.77.0.0/30");
        let all: Vec<String> = (0..9).map_while(|n| small.nth(n)).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.77.0.0", "10.77.0.1", "10.77.0.2", "10.77.0.3"]);
        assert_eq!(small.offset("10.77.0.2".parse().unwrap()), 2);
        assert!(small.overlaps(prefix("10.0.0.0/8")) && prefix("10.0.0.0/8").overlaps(small));
        assert!(!small.overlaps(prefix("10.77.0.4/30")) && !small.overlaps(prefix("::/0")));
    }
}
