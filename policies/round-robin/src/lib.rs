//! Round robin: each endpoint in turn, whatever its weight and load.
//!
//! Each worker keeps its own turn and begins at a random place, or all sidecars would start with the same endpoint.

use outrigger_sdk::balancer::*;

export_balancer!(RoundRobin);

pub struct RoundRobin {
    count: u32,
    next: u32,
}

impl Balancer for RoundRobin {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
        Ok(Self { count: 0, next: 0 })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.count = endpoints.len() as u32;
        self.next = choose::index(env::random(), self.count).unwrap_or(0);
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        if self.count == 0 {
            return Choice::None;
        }
        let mut turn = self.take_turn();
        if ctx.previous == Some(turn) {
            turn = self.take_turn();
        }
        Choice::Endpoint(turn)
    }
}

impl RoundRobin {
    fn take_turn(&mut self) -> u32 {
        let turn = self.next;
        self.next = if turn + 1 < self.count { turn + 1 } else { 0 };
        turn
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoints};

    use super::*;

    #[test]
    fn conforms() {
        conformance::assert::<RoundRobin>("{}", &Claims::none().retries_elsewhere());
    }

    #[test]
    fn takes_turns() {
        let mut harness = Harness::<RoundRobin>::new("{}");
        harness.update(endpoints(3));
        assert_eq!(harness.tally(30), [10, 10, 10]);
    }

    #[test]
    fn a_retry_leaves_out_the_one_before() {
        let mut harness = Harness::<RoundRobin>::new("{}");
        harness.update(endpoints(2));
        for _ in 0..4 {
            assert_eq!(harness.retry(1), Choice::Endpoint(0));
        }
    }
}
