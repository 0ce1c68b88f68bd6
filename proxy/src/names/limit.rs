//! How many questions a client may ask: a bucket of tokens for each address, filled at the configured rate.

use std::collections::HashMap;
use std::net::IpAddr;

/// Clients told apart; the others share one bucket.
const CLIENTS_MAX: usize = 4096;
const NS_PER_S: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Limiter {
    /// Per second, and the most that is saved up.
    rate: u64,
    clients: HashMap<IpAddr, Bucket>,
    others: Bucket,
    swept_ns: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// In billionths of a question, so that no time is lost in rounding.
    used: u64,
    since_ns: u64,
}

impl Limiter {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: u64::from(rate), clients: HashMap::new(), others: Bucket::default(), swept_ns: 0 }
    }

    /// Whether this one may ask now.
    pub(super) fn allows(&mut self, client: IpAddr, now_ns: u64) -> bool {
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            self.sweep(now_ns);
        }
        let full = self.clients.len() >= CLIENTS_MAX;
        let bucket = match self.clients.get_mut(&client) {
            Some(bucket) => bucket,
            None if full => &mut self.others,
            None => self.clients.entry(client).or_default(),
        };
        bucket.take(self.rate, now_ns)
    }

    /// Forgets clients whose bucket is full again, but not more often than that takes.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) >= NS_PER_S {
            self.swept_ns = now_ns;
            self.clients.retain(|_, bucket| now_ns.saturating_sub(bucket.since_ns) < NS_PER_S);
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: u64, now_ns: u64) -> bool {
        let back = now_ns.saturating_sub(self.since_ns).saturating_mul(rate);
        self.used = self.used.saturating_sub(back);
        self.since_ns = now_ns;
        let allowed = self.used + NS_PER_S <= rate * NS_PER_S;
        self.used += if allowed { NS_PER_S } else { 0 };
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_rate_and_others_theirs() {
        let mut limiter = Limiter::new(10);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut asked = |client, now_ns| (0..100).filter(|_| limiter.allows(client, now_ns)).count();
        assert_eq!(asked(one, NS_PER_S), 10);
        assert_eq!(asked(other, NS_PER_S), 10);
        assert_eq!(asked(one, NS_PER_S * 3 / 2), 5);
        assert_eq!(asked(one, NS_PER_S * 60), 10, "no more than a second's worth is saved up");
    }

    #[test]
    fn however_many_clients_come_the_table_is_bounded() {
        let mut limiter = Limiter::new(1);
        let allowed = (0..20_000_u32).filter(|n| limiter.allows(IpAddr::from(n.to_be_bytes()), NS_PER_S));
        assert_eq!(allowed.count(), CLIENTS_MAX + 1);
        assert_eq!(limiter.clients.len(), CLIENTS_MAX);
        assert!(limiter.allows(IpAddr::from([9, 9, 9, 9]), NS_PER_S * 3));
        assert_eq!(limiter.clients.len(), 1, "the others have asked nothing for a while");
    }
}
