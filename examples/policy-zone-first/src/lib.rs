//! Keeps requests in this sidecar's own zone, until the endpoints there are busier than `overload` requests each; then
//! the less busy of one here and one elsewhere gets the request.
//!
//! Written with nothing but the SDK's README at hand.

use outrigger_sdk::balancer::*;
use serde::Deserialize;

export_balancer!(ZoneFirst);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Requests in flight to an endpoint from which on it counts as overloaded.
    overload: u32,
    /// For tests and odd networks: the zone to prefer instead of the sidecar's own.
    zone: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { overload: 20, zone: None }
    }
}

pub struct ZoneFirst {
    overload: u32,
    zone: String,
    near: Vec<u32>,
    far: Vec<u32>,
    spilled: Counter,
}

impl Balancer for ZoneFirst {
    type Config = Settings;

    fn new(config: Settings, setup: &Setup) -> Result<Self, String> {
        if config.overload == 0 {
            return Err("overload: 0 would always leave the zone, expected 1 or more".into());
        }
        let zone = config.zone.unwrap_or_else(|| setup.own_zone.clone());
        if zone.is_empty() {
            env::log(Level::Warn, "own zone unknown: all endpoints are treated alike");
        }
        let spilled = Counter::new("spilled");
        Ok(Self { overload: config.overload, zone, near: Vec::new(), far: Vec::new(), spilled })
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        let is_near = |index: &u32| self.zone.is_empty() || endpoints[*index as usize].zone == self.zone;
        (self.near, self.far) = (0..endpoints.len() as u32).partition(is_near);
    }

    fn pick(&mut self, ctx: &Context) -> Choice {
        let near = less_busy(&self.near, ctx, ctx.random);
        match near {
            Some((_, in_flight)) if in_flight < self.overload => {}
            _ => {
                let far = less_busy(&self.far, ctx, hash::mix(ctx.random));
                if let Some((endpoint, in_flight)) = far
                    && near.is_none_or(|(_, here)| in_flight < here)
                {
                    self.spilled.add(1);
                    return Choice::Endpoint(endpoint);
                }
            }
        }
        match near {
            Some((endpoint, _)) => Choice::Endpoint(endpoint),
            // Only the endpoint of the attempt before is left.
            None => ctx.previous.into(),
        }
    }
}

/// The less busy of two random endpoints, leaving out the one of the attempt before, and its requests in flight.
fn less_busy(endpoints: &[u32], ctx: &Context, random: u64) -> Option<(u32, u32)> {
    let count = endpoints.len() as u32;
    let (i, j) = match choose::two_distinct(random, count) {
        Some(two) => two,
        None => choose::index(random, count).map(|i| (i, i))?,
    };
    let (a, b) = (endpoints[i as usize], endpoints[j as usize]);
    let (load_a, load_b) = stats::load_pair(a, b);
    let candidates = [(a, load_a.in_flight), (b, load_b.in_flight)];
    candidates
        .into_iter()
        .filter(|(endpoint, _)| ctx.previous != Some(*endpoint))
        .min_by_key(|(_, busy)| *busy)
}

#[cfg(test)]
mod tests {
    use outrigger_sdk::testing::conformance::{self, Claims};
    use outrigger_sdk::testing::{Harness, endpoint};

    use super::*;

    /// Two endpoints in zone `a`, two in zone `b`; the sidecar prefers `a`.
    fn two_zones() -> Harness<ZoneFirst> {
        let mut harness = Harness::new(r#"{"zone": "a", "overload": 5}"#);
        let zones = ["a", "b", "a", "b"].into_iter().enumerate();
        harness.update(zones.map(|(i, zone)| endpoint(&format!("10.0.0.{i}:80")).with_zone(zone)).collect());
        harness
    }

    #[test]
    fn conforms() {
        conformance::assert::<ZoneFirst>("{}", &Claims::none().load_aware().retries_elsewhere());
    }

    #[test]
    fn stays_at_home_while_that_is_fine() {
        let mut harness = two_zones();
        harness.set_in_flight(0, 4);
        harness.set_in_flight(2, 4);
        let counts = harness.tally(1_000);
        assert_eq!((counts[1], counts[3], harness.counter("spilled")), (0, 0, 0));
        assert!(counts[0] > 400 && counts[2] > 400, "{counts:?}");
    }

    #[test]
    fn spills_when_home_is_overloaded() {
        let mut harness = two_zones();
        harness.set_in_flight(0, 5);
        harness.set_in_flight(2, 6);
        let counts = harness.tally(1_000);
        assert_eq!((counts[0], counts[2], harness.counter("spilled")), (0, 0, 1_000));
    }

    #[test]
    fn comes_home_when_elsewhere_is_worse() {
        let mut harness = two_zones();
        for endpoint in 0..4 {
            harness.set_in_flight(endpoint, 10 + endpoint % 2);
        }
        let counts = harness.tally(1_000);
        assert_eq!((counts[1], counts[3]), (0, 0));
    }

    #[test]
    fn an_unknown_zone_is_said_once() {
        let harness = Harness::<ZoneFirst>::new("{}");
        assert_eq!(harness.log().len(), 1);
    }
}
