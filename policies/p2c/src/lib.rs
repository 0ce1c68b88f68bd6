//! Power of two choices: draws two endpoints by weight and takes the one with less in flight for its weight.
//!
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): against one random choice the longest
//! queue shrinks from log n / log log n to log log n, at the price of two look-ups.

use outrigger_sdk::balancer::*;

export_balancer!(TwoChoices);

pub struct TwoChoices {
    weights: Vec<u32>,
    table: choose::Weighted,
}

impl Balancer for TwoChoices {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
        Ok(Self { weights: Vec::new(), table: choose::Weighted::default() })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.weights = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        self.table = choose::Weighted::new(self.weights.iter().copied());
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let Some((a, b)) = self.table.two_distinct(ctx.random) else {
            return self.table.pick(ctx.random).into();
        };
        if ctx.previous == Some(a) {
            return Choice::Endpoint(b);
        }
        if ctx.previous == Some(b) {
            return Choice::Endpoint(a);
        }
        let (load_a, load_b) = stats::in_flight_pair(a, b);
        Choice::Endpoint(if self.is_better(b, load_b, a, load_a) { b } else { a })
    }
}

impl TwoChoices {
    /// Whether `b` would have fewer requests for its weight after this one. Two idle endpoints are equal: the draw has
    /// been by weight already, and the heavier would win every time.
    fn is_better(&self, b: u32, load_b: u32, a: u32, load_a: u32) -> bool {
        if load_a == 0 && load_b == 0 {
            return false;
        }
        let cost = |load: u32, other: u32| (u64::from(load) + 1) * self.weight(other);
        cost(load_b, a) < cost(load_a, b)
    }

    fn weight(&self, endpoint: u32) -> u64 {
        self.weights.get(endpoint as usize).map_or(1, |&weight| u64::from(weight))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoint, endpoints};

    use super::*;

    #[test]
    fn conforms() {
        let claims = Claims::none().weighted().load_aware().retries_elsewhere();
        conformance::assert::<TwoChoices>("{}", &claims);
    }

    #[test]
    fn takes_the_less_loaded_of_two() {
        let mut harness = Harness::<TwoChoices>::new("{}");
        harness.update(endpoints(2));
        harness.set_in_flight(0, 3);
        harness.set_in_flight(1, 2);
        assert_eq!(harness.tally(100), [0, 100]);
    }

    #[test]
    fn load_counts_for_the_weight() {
        let mut harness = Harness::<TwoChoices>::new("{}");
        harness.update(vec![endpoint("10.0.0.1:80").with_weight(10), endpoint("10.0.0.2:80")]);
        harness.set_in_flight(0, 5);
        harness.set_in_flight(1, 1);
        assert_eq!(harness.tally(100), [100, 0]);
    }

    #[test]
    fn refuses_settings() {
        assert!(Harness::<TwoChoices>::try_new(r#"{"choices": 3}"#).is_err());
    }
}
