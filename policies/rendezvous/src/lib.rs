//! Rendezvous hashing with bounded load: a key goes to its favourite endpoint, or to the next one that is not full.
//!
//! Highest random weight: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998). Bound:
//! Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (SODA 2018): nobody has more than
//! `load_factor` times its share of the requests in flight. Only keys of endpoints that come, go or are full move.

use outrigger_sdk::balancer::*;
use serde::Deserialize;

export_balancer!(Rendezvous);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Above 1; null for no bound.
    load_factor: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { load_factor: Some(1.25) }
    }
}

pub struct Rendezvous {
    load_factor: Option<f64>,
    servers: Vec<Server>,
    equal_weights: bool,
}

struct Server {
    id: u64,
    weight: f64,
    /// Of the sum of all weights.
    share: f64,
}

impl Balancer for Rendezvous {
    type Config = Settings;

    fn new(config: Settings, _: &Setup) -> Result<Self, String> {
        match config.load_factor {
            Some(factor) if factor <= 1.0 => Err("load_factor: too small, expected above 1, or null".into()),
            load_factor => Ok(Self { load_factor, servers: Vec::new(), equal_weights: true }),
        }
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        let total: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        let server = |endpoint: &Endpoint| {
            let weight = f64::from(endpoint.weight);
            Server { id: endpoint.id, weight, share: weight / total.max(1.0) }
        };
        self.equal_weights = endpoints.windows(2).all(|two| two[0].weight == two[1].weight);
        self.servers = endpoints.iter().map(server).collect();
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let full = self.bound();
        let alone = self.servers.len() < 2;
        let mut best: Option<(f64, u32)> = None;
        for (index, server) in (0..).zip(&self.servers) {
            let score = self.score(server, ctx.hash);
            if best.is_some_and(|(highest, _)| score <= highest) || full(index, server) {
                continue;
            }
            let again = ctx.attempt > 0 && !alone && (ctx.previous == Some(index) || request::tried(index));
            if !again {
                best = Some((score, index));
            }
        }
        match best {
            Some((_, index)) => Choice::Endpoint(index),
            None if self.servers.is_empty() => Choice::None,
            // All that are not full have been tried.
            None => Choice::Fallback,
        }
    }
}

impl Rendezvous {
    /// Says who has no room for one more request. Somebody always has: the rooms add up to more than all requests.
    fn bound(&self) -> impl Fn(u32, &Server) -> bool + use<> {
        let in_flight = if self.load_factor.is_some() { stats::in_flight() } else { Vec::new() };
        let requests = in_flight.iter().map(|&count| f64::from(count)).sum::<f64>() + 1.0;
        let room = self.load_factor.unwrap_or(1.0) * requests;
        move |index, server| {
            in_flight
                .get(index as usize)
                .is_some_and(|&count| f64::from(count) >= (room * server.share).ceil())
        }
    }

    /// With weights: -weight / ln(u) for a uniform u, whose maximum falls on each in proportion to its weight.
    fn score(&self, server: &Server, key: u64) -> f64 {
        let uniform = hash::unit(hash::pair(key, server.id));
        if self.equal_weights { uniform } else { -server.weight / uniform.max(f64::MIN_POSITIVE).ln() }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoints};

    use super::*;

    #[test]
    fn conforms() {
        let claims = Claims::none().weighted().hashed(0.0).load_aware().retries_elsewhere();
        conformance::assert::<Rendezvous>("{}", &claims);
        conformance::assert::<Rendezvous>(
            r#"{"load_factor": null}"#,
            &Claims::none().weighted().hashed(0.0).retries_elsewhere(),
        );
    }

    #[test]
    fn a_full_favourite_passes_its_keys_on_and_gets_them_back() {
        let mut harness = Harness::<Rendezvous>::new(r#"{"load_factor": 1.5}"#);
        harness.update(endpoints(3));
        let Choice::Endpoint(favourite) = harness.pick_hash(42) else { panic!() };
        (0..3).for_each(|i| harness.set_in_flight(i, 10));
        assert_eq!(harness.pick_hash(42), Choice::Endpoint(favourite));
        // It has room for 1.5 times a third of (30 + 20 + 1), rounded up: 26.
        harness.set_in_flight(favourite, 30);
        assert_ne!(harness.pick_hash(42), Choice::Endpoint(favourite));
        harness.set_in_flight(favourite, 10);
        assert_eq!(harness.pick_hash(42), Choice::Endpoint(favourite));
    }

    #[test]
    fn factors_up_to_one_are_refused() {
        for factor in ["1", "0.5", "-3"] {
            let config = format!(r#"{{"load_factor": {factor}}}"#);
            assert!(Harness::<Rendezvous>::try_new(&config).err().unwrap().starts_with("load_factor: "));
        }
    }
}
