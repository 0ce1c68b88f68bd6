//! One resolver upstream: how it is reached, how fast it is, and whether it answers at all.
//!
//! It outlives changes of the list that it stands in, so what is known about it is kept.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::stream::Stream;
use crate::config::{Resolver, ResolverVia};
use crate::names::metrics::UpstreamMetrics;
use crate::tls;

/// In a row, before it is left out until a probe is answered.
const FAILURES_MAX: u32 = 3;
/// How long an answer is waited for before another upstream is asked as well: until it is known how fast this one is,
/// and the bounds of three times that.
const PATIENCE_FIRST: Duration = Duration::from_millis(600);
const PATIENCE_MIN: Duration = Duration::from_millis(150);
const PATIENCE_MAX: Duration = Duration::from_millis(1_500);
/// How much of the smoothed time is the last one's.
const SMOOTHING: f64 = 0.25;
/// What an upstream that is not chosen is made faster by, so that it gets another chance.
const FADING: f64 = 0.98;
/// How long a server that cannot read EDNS is spared it.
const PLAIN_TIME: Duration = Duration::from_secs(600);
/// How long we are not asked by ourselves again; somebody may have mended the redirect by then.
const OURSELVES_TIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(super) resolver: Resolver,
    pub(super) tls: Option<tls::Client>,
    pub(super) stream: Stream,
    pub(super) metrics: UpstreamMetrics,
    /// Smoothed, in seconds; zero: not known.
    seconds: Cell<f64>,
    failures: Cell<u32>,
    dead: Cell<bool>,
    ourselves_until: Cell<Option<Instant>>,
    plain_until: Cell<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    /// It is probed.
    Dead,
    /// Our own questions have come back to us.
    Ourselves,
}

impl Upstream {
    pub(super) fn new(resolver: Resolver, tls: Option<tls::Client>, metrics: UpstreamMetrics) -> Self {
        metrics.up.set(1);
        Self {
            resolver,
            tls,
            stream: Stream::default(),
            metrics,
            seconds: Cell::new(0.0),
            failures: Cell::new(0),
            dead: Cell::new(false),
            ourselves_until: Cell::new(None),
            plain_until: Cell::new(None),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.resolver.address
    }

    pub(super) fn is_udp(&self) -> bool {
        self.resolver.via == ResolverVia::Udp
    }

    pub(super) fn state(&self) -> State {
        match self.ourselves_until.get() {
            Some(until) if Instant::now() < until => State::Ourselves,
            _ if self.dead.get() => State::Dead,
            _ => State::Alive,
        }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds.get()
    }

    /// How long to wait for it before somebody else is asked as well.
    pub(super) fn patience(&self) -> Duration {
        match self.seconds.get() {
            0.0 => PATIENCE_FIRST,
            seconds => Duration::from_secs_f64(seconds * 3.0).clamp(PATIENCE_MIN, PATIENCE_MAX),
        }
    }

    /// It has answered.
    pub(super) fn succeeded(&self, took: Duration) {
        let (took, before) = (took.as_secs_f64(), self.seconds.get());
        self.seconds.set(if before == 0.0 { took } else { before + (took - before) * SMOOTHING });
        self.metrics.seconds.observe(took);
        self.failures.set(0);
        self.metrics.up.set(1);
        if self.dead.replace(false) {
            tracing::info!(upstream = %self.resolver, "the resolver answers again");
        }
    }

    /// It has not answered as it should; answers whether it is dead from now on.
    pub(super) fn failed(&self) -> bool {
        self.failures.set(self.failures.get() + 1);
        let dies = self.failures.get() >= FAILURES_MAX && self.state() == State::Alive;
        if dies {
            tracing::warn!(upstream = %self.resolver, "the resolver does not answer; others are asked until it does");
            self.dead.set(true);
            self.metrics.up.set(0);
        }
        dies
    }

    /// Waiting was in vain for so long: it is at least that slow.
    pub(super) fn slow(&self, waited: Duration) {
        self.seconds.set(self.seconds.get().max(waited.as_secs_f64()));
    }

    pub(super) fn fade(&self) {
        self.seconds.set(self.seconds.get() * FADING);
    }

    /// Our own question has come back to us.
    pub(super) fn came_back(&self) {
        if self.state() != State::Ourselves {
            tracing::error!(
                upstream = %self.resolver,
                "questions to this resolver come back to us, so it is left out; exempt this program's own traffic \
                 from the redirect, or name another resolver in `dns.forward`"
            );
        }
        self.metrics.up.set(0);
        self.dead.set(false);
        self.ourselves_until.set(Some(Instant::now() + OURSELVES_TIME));
    }

    pub(super) fn takes_edns(&self) -> bool {
        self.plain_until.get().is_none_or(|until| Instant::now() >= until)
    }

    /// It cannot read EDNS.
    pub(super) fn spare_edns(&self) {
        self.plain_until.set(Some(Instant::now() + PLAIN_TIME));
    }
}
