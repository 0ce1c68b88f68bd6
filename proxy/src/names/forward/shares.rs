//! Who may have how many questions waiting for upstream: nobody so many that others get none.
//!
//! A share belongs to a client, and to the domain that it asks about: its last two labels. A flood of unique names, the
//! usual kind, comes from one client or is about one domain. Invariant: a share is given back when it is dropped.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::rc::Rc;

use prometheus::IntGauge;

/// Questions that wait, of all clients.
pub(super) const WAITING_MAX: usize = 2048;
const CLIENT_MAX: usize = 512;
const DOMAIN_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Shares {
    waiting: Cell<usize>,
    /// Without those that hold nothing, so no more than twice as many as wait.
    parts: RefCell<HashMap<Part, usize>>,
    hash: RandomState,
    /// Shows `waiting`.
    gauge: IntGauge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Client(IpAddr),
    /// Two domains that hash alike share: a question is turned away a little early then.
    Domain(u64),
}

#[derive(Debug)]
pub(super) struct Share {
    shares: Rc<Shares>,
    parts: [Part; 2],
}

/// What was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    All,
    Client,
    Domain,
}

impl Limit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Client => "client",
            Self::Domain => "domain",
        }
    }
}

impl Shares {
    pub(super) fn new(gauge: IntGauge) -> Self {
        let (waiting, parts) = (Cell::new(0), RefCell::new(HashMap::new()));
        Self { waiting, parts, hash: RandomState::new(), gauge }
    }

    /// The name is on the wire, in lower case.
    pub(super) fn take(self: &Rc<Self>, client: IpAddr, name: &[u8]) -> Result<Share, Limit> {
        let parts = [Part::Client(client), Part::Domain(self.hash.hash_one(domain(name)))];
        let mut held = self.parts.borrow_mut();
        let of = |part| held.get(&part).copied().unwrap_or_default();
        if self.waiting.get() >= WAITING_MAX {
            return Err(Limit::All);
        }
        if of(parts[0]) >= CLIENT_MAX {
            return Err(Limit::Client);
        }
        if of(parts[1]) >= DOMAIN_MAX {
            return Err(Limit::Domain);
        }
        for part in parts {
            *held.entry(part).or_default() += 1;
        }
        self.waiting.set(self.waiting.get() + 1);
        self.gauge.inc();
        Ok(Share { shares: Rc::clone(self), parts })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.waiting.set(self.shares.waiting.get() - 1);
        self.shares.gauge.dec();
        let mut held = self.shares.parts.borrow_mut();
        for part in self.parts {
            if let Some(count) = held.get_mut(&part) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&part);
                }
            }
        }
    }
}

/// The last two labels.
fn domain(name: &[u8]) -> &[u8] {
    let (mut last, mut before, mut rest) = (name, name, name);
    while let Some(&length @ 1..) = rest.first() {
        (before, last) = (last, rest);
        rest = &rest[(1 + usize::from(length)).min(rest.len())..];
    }
    // With one label, the first and the last are the same.
    if before.len() > last.len() { before } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn the_domain_of_a_name_is_its_last_two_labels() {
        assert_eq!(domain(b"\x01a\x01b\x07example\x03com\0"), b"\x07example\x03com\0");
        assert_eq!(domain(b"\x07example\x03com\0"), b"\x07example\x03com\0");
        assert_eq!(domain(b"\x03com\0"), b"\x03com\0");
        assert_eq!(domain(b"\0"), b"\0");
    }

    #[test]
    fn a_flood_leaves_room_for_others_and_gives_back_what_it_took() {
        let shares = Rc::new(Shares::new(IntGauge::new("waiting", "waiting").unwrap()));
        let flood: Vec<_> = (0..DOMAIN_MAX).map(|_| shares.take(ONE, b"\x05flood\x01x\0").unwrap()).collect();
        assert_eq!(shares.take(ONE, b"\x01a\x05flood\x01x\0").unwrap_err(), Limit::Domain);
        let rest: Vec<_> = (0..CLIENT_MAX - DOMAIN_MAX)
            .map(|n| {
                let label = [2, b'a' + (n / 26) as u8, b'a' + (n % 26) as u8];
                shares.take(ONE, &[&label[..], b"\x01y\0"].concat()).unwrap()
            })
            .collect();
        assert_eq!(shares.take(ONE, b"\x04good\x01z\0").unwrap_err(), Limit::Client);
        assert!(shares.take(OTHER, b"\x04good\x01z\0").is_ok());
        assert_eq!(shares.gauge.get(), CLIENT_MAX as i64);
        drop((flood, rest));
        assert_eq!(shares.gauge.get(), 0);
        assert!(shares.parts.borrow().is_empty());
    }
}
