//! Least request: of several endpoints drawn by weight, or of all, the one with the fewest requests in flight for its
//! weight.
//!
//! Two choices are nearly as good as all (Mitzenmacher 1996) and do not make every sidecar run for the same endpoint
//! when their views are alike; more pay off for few, long requests.

use outrigger_sdk::balancer::*;
use serde::Deserialize;

export_balancer!(LeastRequest);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many endpoints are compared, 2 or more; all if there are no more than this.
    choices: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { choices: 2 }
    }
}

pub struct LeastRequest {
    choices: u32,
    weights: Vec<u32>,
    table: choose::Weighted,
}

/// The best endpoint so far.
#[derive(Clone, Copy)]
struct Candidate {
    index: u32,
    in_flight: u32,
    weight: u32,
}

impl Balancer for LeastRequest {
    type Config = Settings;

    fn new(config: Settings, _: &Setup) -> Result<Self, String> {
        if config.choices < 2 {
            return Err(format!("choices: {} is too few to choose from, expected 2 or more", config.choices));
        }
        Ok(Self { choices: config.choices, weights: Vec::new(), table: choose::Weighted::default() })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.weights = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        self.table = choose::Weighted::new(self.weights.iter().copied());
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let Some((a, b)) = self.table.two_distinct(ctx.random) else {
            return self.table.pick(ctx.random).into();
        };
        if self.choices == 2 || self.table.count() == 2 {
            return self.better_of_two(ctx, a, b);
        }
        let in_flight = stats::in_flight();
        let candidate =
            |index: u32| self.candidate(index, in_flight.get(index as usize).copied().unwrap_or(0));
        let first = candidate(if ctx.previous == Some(a) { b } else { a });
        let count = self.table.count();
        let best = if self.choices >= count {
            // From a random place on, or equals would always go to the first in the list.
            let all = (b..count).chain(0..b).filter(|&index| ctx.previous != Some(index));
            all.map(candidate).fold(first, Candidate::or)
        } else {
            let mut random = ctx.random;
            let draws = (1..self.choices).filter_map(|_| {
                random = hash::mix(random.wrapping_add(1));
                self.table.pick(random)
            });
            draws.filter(|&index| ctx.previous != Some(index)).map(candidate).fold(first, Candidate::or)
        };
        Choice::Endpoint(best.index)
    }
}

impl LeastRequest {
    fn better_of_two(&self, ctx: &Context, a: u32, b: u32) -> Choice {
        if ctx.previous == Some(a) {
            return Choice::Endpoint(b);
        }
        if ctx.previous == Some(b) {
            return Choice::Endpoint(a);
        }
        let (load_a, load_b) = stats::in_flight_pair(a, b);
        let best = self.candidate(a, load_a).or(self.candidate(b, load_b));
        Choice::Endpoint(best.index)
    }

    fn candidate(&self, index: u32, in_flight: u32) -> Candidate {
        Candidate { index, in_flight, weight: self.weights.get(index as usize).copied().unwrap_or(1) }
    }
}

impl Candidate {
    /// Two idle endpoints are equal: the draw has been by weight already, and the heavier would win every time.
    fn or(self, other: Self) -> Self {
        if self.in_flight == 0 && other.in_flight == 0 {
            return self;
        }
        let cost = |candidate: Self, weight: u32| (u64::from(candidate.in_flight) + 1) * u64::from(weight);
        if cost(other, self.weight) < cost(self, other.weight) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoints};

    use super::*;

    #[test]
    fn conforms_with_two_some_and_all() {
        let claims = Claims::none().weighted().load_aware().retries_elsewhere();
        for config in ["{}", r#"{"choices": 3}"#, r#"{"choices": 100000}"#] {
            conformance::assert::<LeastRequest>(config, &claims);
        }
    }

    #[test]
    fn all_means_the_very_least() {
        let mut harness = Harness::<LeastRequest>::new(r#"{"choices": 10}"#);
        harness.update(endpoints(10));
        (0..10).for_each(|i| harness.set_in_flight(i, 10 + i));
        harness.set_in_flight(7, 9);
        assert_eq!(harness.tally(50)[7], 50);
    }

    #[test]
    fn equals_share() {
        let mut harness = Harness::<LeastRequest>::new(r#"{"choices": 10}"#);
        harness.update(endpoints(5));
        harness.set_in_flight(0, 1);
        let counts = harness.tally(4_000);
        assert!(counts[0] == 0 && counts[1..].iter().all(|&count| count > 700), "{counts:?}");
    }

    #[test]
    fn one_choice_is_refused() {
        let error = Harness::<LeastRequest>::try_new(r#"{"choices": 1}"#).err().unwrap();
        assert!(error.starts_with("choices: "), "{error}");
    }
}
