//! Smooth weighted round robin: each endpoint as often as its weight says, its turns spread evenly.
//!
//! What nginx does in O(n) per pick, in O(log n): every endpoint is due again after 1 / weight, and the one that is due
//! first is next (earliest deadline first). Phases begin at random, or all sidecars would start with the same endpoint.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use outrigger_sdk::balancer::*;

export_balancer!(Weighted);

/// One turn of an endpoint of weight 1. Large, so that dividing it by a weight loses less than one part in 2^20.
const PERIOD: u64 = 1 << 36;
/// Dues are moved back to zero here, after some hundred million turns.
const REBASE: u64 = 1 << 63;

pub struct Weighted {
    /// Due and index, the smallest on top.
    turns: BinaryHeap<Reverse<(u64, u32)>>,
    periods: Vec<u64>,
}

impl Balancer for Weighted {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
        Ok(Self { turns: BinaryHeap::new(), periods: Vec::new() })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.periods = endpoints.iter().map(|endpoint| PERIOD / u64::from(endpoint.weight.max(1))).collect();
        let first_due = |(index, period): (u32, &u64)| Reverse((env::random() % period, index));
        self.turns = (0..).zip(&self.periods).map(first_due).collect();
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let chosen = match self.due() {
            // The turn is left to it, and somebody else goes first this once.
            Some(index) if ctx.previous == Some(index) && self.turns.len() > 1 => {
                let held = self.turns.pop();
                let other = self.take_turn();
                self.turns.extend(held);
                other
            }
            _ => self.take_turn(),
        };
        chosen.into()
    }
}

impl Weighted {
    fn due(&self) -> Option<u32> {
        self.turns.peek().map(|Reverse((_, index))| *index)
    }

    fn take_turn(&mut self) -> Option<u32> {
        let mut top = self.turns.peek_mut()?;
        let Reverse((due, index)) = *top;
        let period = self.periods.get(index as usize).copied().unwrap_or(PERIOD);
        *top = Reverse((due + period, index));
        drop(top);
        if due > REBASE {
            self.turns = self
                .turns
                .drain()
                .map(|Reverse((later, i))| Reverse((later.saturating_sub(due), i)))
                .collect();
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoint, endpoints};

    use super::*;

    #[test]
    fn conforms() {
        conformance::assert::<Weighted>("{}", &Claims::none().weighted().retries_elsewhere());
    }

    #[test]
    fn shares_are_exact_over_a_round() {
        let mut harness = Harness::<Weighted>::new("{}");
        harness.update(
            endpoints(3).into_iter().zip([5, 1, 4]).map(|(e, weight)| e.with_weight(weight)).collect(),
        );
        for (count, weight) in harness.tally(1_000).into_iter().zip([500u32, 100, 400]) {
            assert!(count.abs_diff(weight) <= 1, "{count} of {weight}");
        }
    }

    #[test]
    fn turns_are_spread() {
        let mut harness = Harness::<Weighted>::new("{}");
        harness.update(vec![endpoint("a:1").with_weight(5), endpoint("b:1"), endpoint("c:1")]);
        let picks: Vec<Choice> = (0..700).map(|_| harness.pick()).collect();
        for window in picks.windows(7) {
            let heavy = window.iter().filter(|&&choice| choice == Choice::Endpoint(0)).count();
            assert!((4..=6).contains(&heavy), "{window:?}");
        }
    }
}
