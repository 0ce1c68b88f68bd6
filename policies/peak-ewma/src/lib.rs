//! Peak EWMA: the better of two endpoints by latency times load, where a failure counts as a slow answer.
//!
//! The average follows a slower answer at once and a faster one with time (Finagle's peak EWMA); without answers it
//! decays, so that an endpoint that has been slow is tried again. Averages are kept by endpoint id over all updates and
//! handed over in a swap.

use outrigger_sdk::balancer::*;
use serde::Deserialize;

export_balancer!(PeakEwma);

/// What nothing is known about has this average, in nanoseconds, until the pool has a mean. Below every real latency.
const UNKNOWN_NS: f64 = 1_000.0;
/// Bytes per endpoint in the state: id, average and instant.
const RECORD: usize = 24;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The time in which a memory fades to 37 %.
    decay_ms: u32,
    /// A failed attempt counts as an answer after at least this time.
    penalty_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { decay_ms: 10_000, penalty_ms: 1_000 }
    }
}

pub struct PeakEwma {
    decay_ns: f64,
    penalty_ns: f64,
    servers: Vec<Server>,
    table: choose::Weighted,
}

struct Server {
    id: u64,
    latency: Option<Average>,
    /// The pool's mean weight by this one's: what one request in flight counts here.
    strain: f64,
}

#[derive(Clone, Copy)]
struct Average {
    ns: f64,
    at: Nanoseconds,
}

impl Balancer for PeakEwma {
    type Config = Settings;

    fn new(config: Settings, _: &Setup) -> Result<Self, String> {
        if config.decay_ms == 0 {
            return Err("decay_ms: 0 would forget everything at once, expected 1 or more".into());
        }
        Ok(Self {
            decay_ns: f64::from(config.decay_ms) * 1e6,
            penalty_ns: f64::from(config.penalty_ms) * 1e6,
            servers: Vec::new(),
            table: choose::Weighted::default(),
        })
    }

    fn interests(&self) -> Interests {
        Interests::OUTCOMES | Interests::STATE
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        let mut known: Vec<(u64, Average)> =
            self.servers.iter().filter_map(|server| Some((server.id, server.latency?))).collect();
        known.sort_unstable_by_key(|(id, _)| *id);
        let total: f64 = endpoints.iter().map(|endpoint| f64::from(endpoint.weight)).sum();
        let mean_weight = total / endpoints.len().max(1) as f64;
        let server = |endpoint: &Endpoint| Server {
            id: endpoint.id,
            latency: known.binary_search_by_key(&endpoint.id, |(id, _)| *id).ok().map(|place| known[place].1),
            strain: mean_weight / f64::from(endpoint.weight.max(1)),
        };
        self.servers = endpoints.iter().map(server).collect();
        self.table = choose::Weighted::new(endpoints.iter().map(|endpoint| endpoint.weight));
        self.start_at_the_mean();
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
        let b_is_better = self.cost(b, load_b, ctx.now) < self.cost(a, load_a, ctx.now);
        Choice::Endpoint(if b_is_better { b } else { a })
    }

    fn observe(&mut self, observation: &Observation) {
        let took = if observation.first_byte > 0 { observation.first_byte } else { observation.total } as f64;
        let sample = match observation.outcome {
            Outcome::Cancelled => return,
            Outcome::Success | Outcome::ClientError => took,
            Outcome::ServerError
            | Outcome::RateLimited
            | Outcome::Timeout
            | Outcome::Reset
            | Outcome::Refused => took.max(self.penalty_ns),
        };
        let decay_ns = self.decay_ns;
        let Some(server) = self.servers.get_mut(observation.endpoint as usize) else { return };
        let ns = match server.latency {
            Some(average) if sample < average.ns => {
                let kept = fading(average.at, observation.now, decay_ns);
                average.ns * kept + sample * (1.0 - kept)
            }
            _ => sample,
        };
        server.latency = Some(Average { ns, at: observation.now });
    }

    fn export_state(&self) -> Vec<u8> {
        let known = self.servers.iter().filter_map(|server| Some((server.id, server.latency?)));
        known
            .flat_map(|(id, average)| [id, average.ns.to_bits(), average.at])
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    fn import_state(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (records, rest) = bytes.as_chunks::<RECORD>();
        let word = |record: &[u8; RECORD], i: usize| {
            record[i * 8..].first_chunk().map_or(0, |&b| u64::from_le_bytes(b))
        };
        let ns = |record: &[u8; RECORD]| f64::from_bits(word(record, 1));
        if !rest.is_empty() || records.iter().any(|record| !ns(record).is_finite() || ns(record) < 0.0) {
            return Err("not a state of this policy".into());
        }
        for record in records {
            if let Some(server) = self.servers.iter_mut().find(|server| server.id == word(record, 0)) {
                server.latency = Some(Average { ns: ns(record), at: word(record, 2) });
            }
        }
        self.start_at_the_mean();
        Ok(())
    }
}

impl PeakEwma {
    /// Idle endpoints are compared by latency alone: the draw has been by weight already.
    fn cost(&self, endpoint: u32, in_flight: u32, now: Nanoseconds) -> f64 {
        let Some(server) = self.servers.get(endpoint as usize) else { return f64::MAX };
        if server.latency.is_none() && in_flight > 0 {
            // One request finds out how slow it is; the others do not wait for it.
            return self.penalty_ns * (1.0 + f64::from(in_flight) * server.strain);
        }
        let latency =
            server.latency.map_or(0.0, |average| average.ns * fading(average.at, now, self.decay_ns));
        latency.max(UNKNOWN_NS) * (1.0 + f64::from(in_flight) * server.strain)
    }

    /// New endpoints are neither avoided nor flooded: they begin with the mean of the others.
    fn start_at_the_mean(&mut self) {
        let known = || self.servers.iter().filter_map(|server| server.latency);
        let count = known().count();
        if count == 0 || count == self.servers.len() {
            return;
        }
        let ns = known().map(|average| average.ns).sum::<f64>() / count as f64;
        let mean = Average { ns, at: known().map(|average| average.at).max().unwrap_or(0) };
        self.servers.iter_mut().for_each(|server| server.latency = server.latency.or(Some(mean)));
    }
}

/// What is left of a memory: 1 at once, 0.37 after the decay time.
fn fading(at: Nanoseconds, now: Nanoseconds, decay_ns: f64) -> f64 {
    (-(now.saturating_sub(at) as f64) / decay_ns).exp()
}
