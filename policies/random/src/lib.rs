//! A random endpoint, in proportion to the weights; load does not matter.
//!
//! Constant time by an alias table (Walker 1977). What to compare other policies against.

use outrigger_sdk::balancer::*;

export_balancer!(Random);

pub struct Random {
    table: choose::Weighted,
}

impl Balancer for Random {
    type Config = NoConfig;

    fn new(_: NoConfig, _: &Setup) -> Result<Self, String> {
        Ok(Self { table: choose::Weighted::default() })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.table = choose::Weighted::new(endpoints.iter().map(|endpoint| endpoint.weight));
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        if ctx.previous.is_none() {
            return self.table.pick(ctx.random).into();
        }
        match self.table.two_distinct(ctx.random) {
            Some((first, second)) if ctx.previous == Some(first) => Choice::Endpoint(second),
            Some((first, _)) => Choice::Endpoint(first),
            None => self.table.pick(ctx.random).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoint};

    use super::*;

    #[test]
    fn conforms() {
        conformance::assert::<Random>("{}", &Claims::none().weighted().retries_elsewhere());
    }

    #[test]
    fn is_by_weight() {
        let mut harness = Harness::<Random>::new("{}");
        harness.update(vec![endpoint("a:1").with_weight(9), endpoint("b:1")]);
        let counts = harness.tally(10_000);
        assert!((8_800..9_200).contains(&counts[0]), "{counts:?}");
    }
}
