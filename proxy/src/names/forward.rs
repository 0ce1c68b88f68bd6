//! Questions about names that are not ours: from the cache at once, or from a resolver upstream.
//!
//! The server asks `cached` where it receives, and spawns `resolve` for what is not known yet. Both write replies with
//! the client's id and spelling, no longer than its transport takes. Questions that are the same are asked upstream
//! once. Invariant: what waits, what is under way and what is kept are bounded, and every question is answered in time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::cache::{Age, Cache, Found, Kept, Limits, TtlBounds};
use super::metrics::ForwardMetrics;
use super::wire::{Code, Extended, Key, Query, Reply, Transport, cut, refusal};
use crate::clock::now_ms;
use crate::config::Forward;
use crate::metrics::Metrics;

mod ask;
mod attempt;
mod probe;
mod question;
mod random;
mod resolv_conf;
mod sent;
mod servers;
mod shares;
mod stream;
mod upstream;

use ask::{NoAnswer, ask};
use attempt::{Heard, Means};
pub(super) use question::Lie;
use question::Question;
use random::Random;
use sent::Sent;
use servers::Servers;
use shares::Shares;

/// Different questions under way. Each has a socket.
const FLIGHTS_MAX: usize = shares::WAITING_MAX;
/// Clients that wait for the same answer.
const WAITERS_MAX: usize = 256;
/// How long a client waits for somebody upstream, if there is a stale answer to give it (RFC 8767, section 5).
const CLIENT_PATIENCE: Duration = Duration::from_millis(1_800);
/// For so long nobody is asked again what nobody could answer (RFC 9520, section 3.2; RFC 2308, section 7).
const FAILURE_TTL_S: u32 = 5;

/// RFC 8914, 4.24 and 4.1.
const NO_ANSWER: Extended = Extended { code: 23, text: "no resolver answers" };
const NOBODY: Extended = Extended { code: 23, text: "no resolver is known; see dns.forward" };
const TOO_MANY: Extended = Extended { code: 0, text: "too many questions wait for resolvers" };
const LOOP: Extended = Extended { code: 0, text: "this question is our own" };

/// Who waits for one answer.
type Waiters = Vec<oneshot::Sender<Rc<Kept>>>;

/// What knows other names.
#[derive(Debug)]
pub struct Forwarder {
    servers: Servers,
    means: Rc<Means>,
    cache: RefCell<Cache>,
    ttls: TtlBounds,
    /// Who waits for what. Each has a task that ends, and takes it out.
    flights: RefCell<HashMap<Box<[u8]>, Waiters>>,
    shares: Rc<Shares>,
    metrics: ForwardMetrics,
    timeout: Duration,
    random_case: bool,
}

/// Where a reply came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Cache,
    /// From the cache, though it has expired: nobody upstream answers (RFC 8767).
    Stale,
    Upstream,
    /// Nobody upstream answers, or too many questions wait.
    Failed,
}

impl Forwarder {
    /// On the names thread, whose runtime carries its sockets and timers. `ourselves` is where that thread listens.
    pub fn new(config: &Forward, ourselves: Vec<SocketAddr>, metrics: &Metrics) -> Rc<Self> {
        let cache = &config.cache;
        Rc::new(Self {
            servers: Servers::new(config, ourselves, metrics),
            means: Rc::new(Means { random: Rc::new(Random::new()), sent: Rc::new(Sent::default()) }),
            cache: RefCell::new(Cache::new(Limits {
                entries_max: cache.entries_max,
                bytes_max: cache.bytes_max,
                stale_ms: u64::try_from(cache.stale.as_millis()).unwrap_or(u64::MAX),
                prefetch: cache.prefetch,
            })),
            ttls: TtlBounds {
                positive: seconds(cache.ttl_min)..=seconds(cache.ttl_max),
                negative_max: seconds(cache.negative_ttl_max),
            },
            flights: RefCell::new(HashMap::new()),
            shares: Rc::new(Shares::new(metrics.dns_forward_in_flight.clone())),
            metrics: ForwardMetrics::new(metrics),
            timeout: config.timeout,
            random_case: config.random_case,
        })
    }

    /// Writes the reply, if it is known. Never waits; `now_ms` is `clock::now_ms`.
    pub fn cached(
        self: &Rc<Self>,
        query: &Query<'_>,
        via: Transport,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Option<Source> {
        if !Question::is_shared(query) {
            return None;
        }
        let key = query.key();
        let found = self.cache.borrow().find(key.as_bytes(), now_ms)?;
        match found {
            Found::Fresh { kept, age, prefetch } => {
                kept.write(query, age, query.reply_bytes_max(via), out);
                self.metrics.hits.inc();
                if prefetch && self.set_out(&key) {
                    self.metrics.prefetches.inc();
                }
                Some(Source::Cache)
            }
            Found::Stale { kept, at_once: true } => {
                Some(self.give_stale(&kept, query, query.reply_bytes_max(via), out))
            }
            Found::Stale { .. } => None,
        }
    }

    /// Always answers, in bounded time. The message has been parsed by the server, which found a question in it.
    pub async fn resolve(
        self: Rc<Self>,
        message: Box<[u8]>,
        client: SocketAddr,
        via: Transport,
    ) -> (Vec<u8>, Source) {
        let mut out = Vec::new();
        let Ok(query) = Query::parse(&message) else {
            refusal(&message, Code::FormErr, &mut out);
            return (out, Source::Failed);
        };
        let result = self.answer(&query, client, via, &mut out).await;
        let source = result.unwrap_or_else(|extended| {
            let reply = Reply::to(&query, query.reply_bytes_max(via), &mut out);
            reply.finish_with(Code::ServFail, Some(extended));
            Source::Failed
        });
        (out, source)
    }

    async fn answer(
        self: &Rc<Self>,
        query: &Query<'_>,
        client: SocketAddr,
        via: Transport,
        out: &mut Vec<u8>,
    ) -> Result<Source, Extended> {
        if via == Transport::Udp && self.means.sent.is_ours(client.port(), query.id()) {
            return Err(LOOP);
        }
        let key = query.key();
        let share = self.shares.take(client.ip(), key.name());
        let _share = share.map_err(|limit| {
            self.metrics.turned_away(limit.name());
            TOO_MANY
        })?;
        let bytes_max = query.reply_bytes_max(via);
        match Question::is_shared(query) {
            true => self.share_answer(query, &key, bytes_max, out).await,
            false => self.pass_on(query, &key, bytes_max, out).await,
        }
    }

    /// One answer serves all who ask the same.
    async fn share_answer(
        self: &Rc<Self>,
        query: &Query<'_>,
        key: &Key,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Source, Extended> {
        // Another one's answer may have come since the server looked.
        let found = self.cache.borrow().find(key.as_bytes(), now_ms());
        let stale = match found {
            Some(Found::Fresh { kept, age, .. }) => {
                kept.write(query, age, bytes_max, out);
                self.metrics.hits.inc();
                return Ok(Source::Cache);
            }
            Some(Found::Stale { kept, .. }) => Some(kept),
            None => None,
        };
        self.metrics.misses.inc();
        let answer = self.join(key)?;
        let heard = match &stale {
            Some(_) => timeout(CLIENT_PATIENCE, answer).await.ok().and_then(Result::ok),
            None => answer.await.ok(),
        };
        match (heard, stale) {
            (Some(heard), _) if heard.answers() => {
                heard.write(query, Age::New, bytes_max, out);
                Ok(Source::Upstream)
            }
            (_, Some(stale)) => Ok(self.give_stale(&stale, query, bytes_max, out)),
            (Some(heard), None) => {
                heard.write(query, Age::New, bytes_max, out);
                Ok(Source::Failed)
            }
            (None, None) => Err(NO_ANSWER),
        }
    }

    fn give_stale(&self, kept: &Kept, query: &Query<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Source {
        kept.write(query, Age::Stale, bytes_max, out);
        self.metrics.stale.inc();
        Source::Stale
    }

    /// The client's own question, for an answer that goes to nobody else and comes as it is.
    async fn pass_on(
        &self,
        query: &Query<'_>,
        key: &Key,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<Source, Extended> {
        let question = Rc::new(Question::private(query));
        let heard = self.fetch(key, &question).await?;
        *out = heard.bytes;
        out[..2].copy_from_slice(&query.message[..2]);
        cut(out, query, bytes_max);
        Ok(Source::Upstream)
    }

    /// Waits for an answer that is under way, or asks for it.
    fn join(self: &Rc<Self>, key: &Key) -> Result<oneshot::Receiver<Rc<Kept>>, Extended> {
        let is_new = self.set_out(key);
        let mut flights = self.flights.borrow_mut();
        let waiters = flights.get_mut(key.as_bytes()).filter(|waiters| waiters.len() < WAITERS_MAX);
        let Some(waiters) = waiters else {
            self.metrics.turned_away("same-question");
            return Err(TOO_MANY);
        };
        if !is_new {
            self.metrics.merged.inc();
        }
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Ok(receiver)
    }

    /// Asks upstream, unless somebody has asked already or too many have. Answers whether it does.
    fn set_out(self: &Rc<Self>, key: &Key) -> bool {
        let mut flights = self.flights.borrow_mut();
        if flights.len() >= FLIGHTS_MAX || flights.contains_key(key.as_bytes()) {
            return false;
        }
        flights.insert(key.as_bytes().into(), Vec::new());
        spawn_local(Rc::clone(self).fly(*key));
        true
    }

    /// To the end, even if nobody waits any more: the next one who asks finds the answer.
    async fn fly(self: Rc<Self>, key: Key) {
        let mut question = Question::shared(&key);
        if self.random_case {
            question.spell(&self.means.random);
        }
        let question = Rc::new(question);
        let kept = Rc::new(match self.fetch(&key, &question).await {
            Ok(heard) if heard.is_answer() => Kept::new(&heard.bytes, &heard.facts, &self.ttls),
            Ok(apology) => Kept::new(&apology.bytes, &apology.facts, &self.ttls).kept_for(FAILURE_TTL_S),
            Err(extended) => Kept::failure(question.asked(), extended, FAILURE_TTL_S),
        });
        self.keep(&key, &kept);
        let waiters = self.flights.borrow_mut().remove(key.as_bytes());
        for waiter in waiters.into_iter().flatten() {
            // It may have gone.
            let _ = waiter.send(Rc::clone(&kept));
        }
    }

    async fn fetch(&self, key: &Key, question: &Rc<Question>) -> Result<Heard, Extended> {
        let group = self.servers.of(key.name(), now_ms());
        let heard = ask(&group, &self.means, question, self.timeout).await;
        heard.map_err(|error| match error {
            NoAnswer::Nobody => NOBODY,
            NoAnswer::Failed => NO_ANSWER,
        })
    }

    fn keep(&self, key: &Key, kept: &Rc<Kept>) {
        let mut cache = self.cache.borrow_mut();
        let before = cache.evictions();
        cache.keep(key.as_bytes(), kept, now_ms());
        self.metrics.entries.set(cache.entries() as i64);
        self.metrics.bytes.set(cache.bytes() as i64);
        self.metrics.evictions.inc_by(cache.evictions() - before);
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
