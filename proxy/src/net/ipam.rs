//! Which address belongs to which workload: a pure function over the leases that the store keeps.
//!
//! Invariant: an address has one holder at most. It stays its holder's until the lease is dropped, which `apply` does
//! in the same write that forgets the workload; so what a crash leaves behind is a lease of a workload that the store
//! still knows, and never an address that two hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::prefix::Prefix;

/// An address, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    pub network: String,
    pub address: IpAddr,
    pub workload: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "network `{network}` has no address left in {subnet}; see `outrigger net status` for workloads that are gone, \
         and `outrigger net apply --collect`"
    )]
    Exhausted { network: String, subnet: Prefix },
    #[error("address {address} of network `{network}` belongs to workload `{holder}`")]
    Taken { network: String, address: IpAddr, holder: String },
}

/// What a workload asks of one network.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub network: &'a str,
    pub workload: &'a str,
    /// One of each family at most.
    pub subnets: &'a [Prefix],
    /// Addresses that have to be these; a family without one takes what is free.
    pub fixed: &'a [IpAddr],
}

/// One address of each subnet: the one held already, the one asked for, or the next that is free.
///
/// "Next" starts after the last one given and wraps around, so that an address rests before somebody else gets it:
/// neighbours and resolvers still know it. `last` is that memory, one address of each subnet.
pub fn allocate(
    wish: &Wish<'_>,
    leases: &mut Vec<Lease>,
    last: &mut BTreeSet<IpAddr>,
) -> Result<Vec<Prefix>, Refusal> {
    let mut given = Vec::new();
    for subnet in wish.subnets {
        let fixed = wish.fixed.iter().copied().find(|address| subnet.contains(*address));
        let held = leases.iter().position(|lease| lease.is_of(wish) && subnet.contains(lease.address));
        if let Some(held) = held {
            let address = leases[held].address;
            if fixed.is_none_or(|fixed| fixed == address) {
                given.push(subnet.with(address));
                continue;
            }
            leases.remove(held);
        }
        let address = match fixed {
            Some(fixed) => claim(wish, fixed, leases)?,
            None => next_free(wish, *subnet, leases, last)?,
        };
        leases.push(Lease { network: wish.network.into(), address, workload: wish.workload.into() });
        given.push(subnet.with(address));
    }
    Ok(given)
}

/// The bridge's own: the first that a host can have.
pub fn gateway(subnet: Prefix) -> IpAddr {
    // A subnet this small is refused by the settings.
    subnet.nth(1).unwrap_or(subnet.first())
}

fn claim(wish: &Wish<'_>, address: IpAddr, leases: &[Lease]) -> Result<IpAddr, Refusal> {
    match leases.iter().find(|lease| lease.network == wish.network && lease.address == address) {
        Some(lease) => {
            Err(Refusal::Taken { network: wish.network.into(), address, holder: lease.workload.clone() })
        }
        None => Ok(address),
    }
}

fn next_free(
    wish: &Wish<'_>,
    subnet: Prefix,
    leases: &[Lease],
    last: &mut BTreeSet<IpAddr>,
) -> Result<IpAddr, Refusal> {
    let on_network = leases.iter().filter(|lease| lease.network == wish.network);
    let taken: BTreeSet<IpAddr> = on_network.map(|lease| lease.address).collect();
    let previous = last.iter().copied().find(|address| subnet.contains(*address));
    let first = subnet.offset(gateway(subnet)) + 1;
    let start = previous.map_or(first, |address| subnet.offset(address) + 1);
    // Of so many addresses in a row at least one is free, or the subnet is full.
    let is_broadcast = |address: IpAddr| subnet.is_ipv4() && address == subnet.last();
    let look = taken.len() as u128 + 1;
    let found = (start..start + look)
        .chain(first..first + look)
        .filter_map(|offset| subnet.nth(offset))
        .find(|address| !taken.contains(address) && !is_broadcast(*address));
    let address =
        found.ok_or_else(|| Refusal::Exhausted { network: wish.network.into(), subnet: subnet.network() })?;
    last.retain(|previous| !subnet.contains(*previous));
    last.insert(address);
    Ok(address)
}

impl Lease {
    fn is_of(&self, wish: &Wish<'_>) -> bool {
        self.network == wish.network && self.workload == wish.workload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Book {
        leases: Vec<Lease>,
        last: BTreeSet<IpAddr>,
    }

    impl Book {
        fn new() -> Self {
            Self { leases: Vec::new(), last: BTreeSet::new() }
        }

        fn ask(&mut self, workload: &str, subnets: &[&str], fixed: &[&str]) -> Result<String, Refusal> {
            let subnets: Vec<Prefix> = subnets.iter().map(|s| s.parse().unwrap()).collect();
            let fixed: Vec<IpAddr> = fixed.iter().map(|f| f.parse().unwrap()).collect();
            let wish = Wish { network: "web", workload, subnets: &subnets, fixed: &fixed };
            let given = allocate(&wish, &mut self.leases, &mut self.last)?;
            Ok(given.iter().map(Prefix::to_string).collect::<Vec<_>>().join(" "))
        }

        fn forget(&mut self, workload: &str) {
            self.leases.retain(|lease| lease.workload != workload);
        }
    }

    #[test]
    fn each_family_gives_one_and_gives_it_again() {
        let mut book = Book::new();
        let both = ["10.77.0.0/24", "fd77::/64"];
        assert_eq!(book.ask("a", &both, &[]).unwrap(), "10.77.0.2/24 fd77::2/64");
        assert_eq!(book.ask("b", &both, &[]).unwrap(), "10.77.0.3/24 fd77::3/64");
        assert_eq!(book.ask("a", &both, &[]).unwrap(), "10.77.0.2/24 fd77::2/64");
        assert_eq!(book.leases.len(), 4);
    }

    #[test]
    fn an_address_rests_before_somebody_else_gets_it() {
        let mut book = Book::new();
        let small = ["10.77.0.0/29"];
        for (workload, address) in [("a", 2), ("b", 3), ("c", 4)] {
            assert_eq!(book.ask(workload, &small, &[]).unwrap(), format!("10.77.0.{address}/29"));
        }
        book.forget("a");
        assert_eq!(book.ask("d", &small, &[]).unwrap(), "10.77.0.5/29");
        assert_eq!(book.ask("e", &small, &[]).unwrap(), "10.77.0.6/29");
        // .7 is the broadcast address.
        assert_eq!(book.ask("f", &small, &[]).unwrap(), "10.77.0.2/29");
        assert!(matches!(book.ask("g", &small, &[]), Err(Refusal::Exhausted { .. })));
    }

    #[test]
    fn a_fixed_address_is_kept_for_its_holder() {
        let mut book = Book::new();
        let subnet = ["10.77.0.0/24"];
        assert_eq!(book.ask("a", &subnet, &["10.77.0.2"]).unwrap(), "10.77.0.2/24");
        assert_eq!(book.ask("b", &subnet, &[]).unwrap(), "10.77.0.3/24");
        let taken = book.ask("c", &subnet, &["10.77.0.2"]).unwrap_err();
        assert!(taken.to_string().contains("belongs to workload `a`"), "{taken}");
        assert_eq!(book.ask("a", &subnet, &["10.77.0.9"]).unwrap(), "10.77.0.9/24");
        assert_eq!(book.ask("c", &subnet, &["10.77.0.2"]).unwrap(), "10.77.0.2/24");
    }
}
