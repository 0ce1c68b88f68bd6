//! Maglev: the same key goes to the same endpoint, in constant time, with few keys moved when endpoints change.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), with weights as turns in
//! filling the table. The table depends on the endpoints' ids only, so all sidecars agree. Filling it is dear: the
//! proxy is asked to do that off the worker, in a fresh instance.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use outrigger_sdk::balancer::*;
use serde::Deserialize;

export_balancer!(Maglev);

/// The next prime below 2^20: a table of 4 MiB. A guest has 16 MiB.
const TABLE_SIZE_MAX: u32 = 1_048_573;
/// Entries of the table that no endpoint has taken yet.
const FREE: u32 = u32::MAX;
/// How many further places a retry looks at.
const RETRY_PLACES: u32 = 8;
/// One turn of an endpoint of weight 1, as in the policy `weighted`.
const PERIOD: u64 = 1 << 36;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A prime, at least 100 times the number of endpoints.
    table_size: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { table_size: 65_537 }
    }
}

pub struct Maglev {
    size: u32,
    /// Empty without endpoints, otherwise without `FREE`.
    table: Vec<u32>,
    count: u32,
}

/// An endpoint's own order of all entries: `start`, `start + skip`, and so on around the table.
struct Permutation {
    index: u32,
    at: u32,
    skip: u32,
}

impl Balancer for Maglev {
    type Config = Settings;

    fn new(config: Settings, _: &Setup) -> Result<Self, String> {
        let size = config.table_size;
        if !(3..=TABLE_SIZE_MAX).contains(&size) || !is_prime(size) {
            return Err(format!(
                "table_size: {size} does not do, expected a prime from 3 to {TABLE_SIZE_MAX}"
            ));
        }
        Ok(Self { size, table: Vec::new(), count: 0 })
    }

    fn interests(&self) -> Interests {
        Interests::REBUILD
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.count = endpoints.len() as u32;
        if self.count.saturating_mul(100) > self.size {
            let message = format!(
                "table_size {} is small for {} endpoints: shares will be uneven",
                self.size, self.count
            );
            env::log(Level::Warn, &message);
        }
        self.table = filled(&endpoints, self.size);
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let mut hash = ctx.hash;
        let mut choice = self.place(hash);
        if ctx.attempt == 0 {
            return choice.into();
        }
        for _ in 0..RETRY_PLACES {
            match choice {
                Some(index) if ctx.previous == Some(index) || request::tried(index) => {}
                _ => return choice.into(),
            }
            hash = hash::mix(hash.wrapping_add(1));
            choice = self.place(hash);
        }
        ctx.previous.map(|previous| (previous + 1) % self.count.max(1)).or(choice).into()
    }
}

impl Maglev {
    fn place(&self, hash: u64) -> Option<u32> {
        let entry = choose::index(hash, self.table.len() as u32)?;
        self.table.get(entry as usize).copied()
    }
}

/// Endpoints take entries in turns, each the next free one in its own order, until none is free.
fn filled(endpoints: &[Endpoint], size: u32) -> Vec<u32> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let mut order: Vec<(u32, &Endpoint)> = (0..).zip(endpoints).collect();
    order.sort_by_key(|(_, endpoint)| endpoint.id);
    let mut permutations: Vec<Permutation> =
        order.iter().map(|&(i, e)| Permutation::new(i, e.id, size)).collect();
    let mut table = vec![FREE; size as usize];
    if order.windows(2).all(|two| two[0].1.weight == two[1].1.weight) {
        let turns = (0..permutations.len()).cycle().take(size as usize);
        turns.for_each(|turn| permutations[turn].take_next_free(&mut table));
    } else {
        let period = |endpoint: &Endpoint| PERIOD / u64::from(endpoint.weight.max(1));
        let periods: Vec<u64> = order.iter().map(|(_, endpoint)| period(endpoint)).collect();
        let mut due: BinaryHeap<Reverse<(u64, usize)>> =
            periods.iter().copied().zip(0..).map(Reverse).collect();
        for _ in 0..size {
            let Some(mut first) = due.peek_mut() else { break };
            permutations[first.0.1].take_next_free(&mut table);
            first.0.0 += periods[first.0.1];
        }
    }
    table
}

impl Permutation {
    fn new(index: u32, id: u64, size: u32) -> Self {
        let at = hash::mix(id) % u64::from(size);
        let skip = hash::pair(id, 1) % u64::from(size - 1) + 1;
        Self { index, at: at as u32, skip: skip as u32 }
    }

    /// Ends, since the table has a free entry and a prime size: every entry comes up once in `size` steps.
    fn take_next_free(&mut self, table: &mut [u32]) {
        let size = table.len() as u32;
        loop {
            let entry = &mut table[self.at as usize];
            self.at =
                if self.at < size - self.skip { self.at + self.skip } else { self.at - (size - self.skip) };
            if *entry == FREE {
                *entry = self.index;
                return;
            }
        }
    }
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|divisor| divisor * divisor <= n).all(|divisor| !n.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoints};

    use super::*;

    #[test]
    fn conforms() {
        conformance::assert::<Maglev>("{}", &Claims::none().weighted().hashed(0.02).retries_elsewhere());
    }

    #[test]
    fn every_endpoint_has_its_share_of_the_table() {
        let list: Vec<Endpoint> =
            endpoints(7).into_iter().zip(1..).map(|(e, weight)| e.with_weight(weight)).collect();
        let table = filled(&list, 65_537);
        for (i, endpoint) in (0..).zip(&list) {
            let share = table.iter().filter(|&&taken| taken == i).count() as u32;
            assert!(share.abs_diff(65_537 * endpoint.weight / 28) <= 2, "{i}: {share}");
        }
    }

    #[test]
    fn a_table_size_that_is_not_prime_is_refused() {
        for size in ["0", "2", "65536", "4294967295"] {
            let config = format!(r#"{{"table_size": {size}}}"#);
            assert!(Harness::<Maglev>::try_new(&config).err().unwrap().starts_with("table_size: "));
        }
    }

    #[test]
    fn a_small_table_is_reported() {
        let mut harness = Harness::<Maglev>::new(r#"{"table_size": 101}"#);
        harness.update(endpoints(5));
        assert_eq!(harness.log()[0].0, Level::Warn);
    }
}
