//! Replies from upstream, kept for as long as they say, and longer if nobody upstream answers.
//!
//! `forward` asks first here. A hit is a look into a hash table and a copy; what is evicted is what nobody has asked for
//! since the hand came by (CLOCK), so a flood of names that are asked once goes by those that are used.
//! Invariant: never more entries or bytes than configured.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

mod kept;

pub(crate) use kept::{Age, Kept, TtlBounds};

/// An entry's share of table, slot and counts, beside its key and its reply.
const ENTRY_BYTES: usize = 160;
/// After a failure, what is stale is given at once for so long (RFC 8767, section 5).
const RECHECK_MS: u64 = 30_000;
/// An entry that was used so often is worth a question ahead of time.
const PREFETCH_USES: u8 = 2;
/// What lives shorter is not worth it.
const PREFETCH_TTL_MIN_S: u32 = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries_max: usize,
    pub(crate) bytes_max: usize,
    /// How long after its end a reply may still be given away.
    pub(crate) stale_ms: u64,
    pub(crate) prefetch: bool,
}

#[derive(Debug)]
pub(crate) struct Cache {
    limits: Limits,
    index: HashMap<Rc<[u8]>, usize>,
    slots: Vec<Option<Slot>>,
    /// Places in `slots` that are empty.
    free: Vec<usize>,
    /// Where eviction goes on.
    hand: usize,
    bytes: usize,
    evictions: u64,
}

#[derive(Debug)]
struct Slot {
    key: Rc<[u8]>,
    kept: Rc<Kept>,
    since_ms: u64,
    /// Since the hand came by.
    used: Cell<bool>,
    uses: Cell<u8>,
    /// Until then nobody is asked again for what is stale.
    recheck_ms: u64,
}

/// What is known about a question.
#[derive(Debug)]
pub(crate) enum Found {
    /// To be used; it is also time to ask anew, if `prefetch` says so.
    Fresh { kept: Rc<Kept>, age: Age, prefetch: bool },
    /// To be used if nobody answers; at once, if somebody has tried a moment ago.
    Stale { kept: Rc<Kept>, at_once: bool },
}

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            evictions: 0,
        }
    }

    pub(crate) fn find(&self, key: &[u8], now_ms: u64) -> Option<Found> {
        let slot = self.slots[*self.index.get(key)?].as_ref()?;
        let age_ms = now_ms.saturating_sub(slot.since_ms);
        let ttl_ms = u64::from(slot.kept.ttl_s) * 1000;
        if age_ms < ttl_ms {
            slot.used.set(true);
            slot.uses.set(slot.uses.get().saturating_add(1));
            let age = Age::Seconds((age_ms / 1000) as u32);
            let prefetch = self.limits.prefetch && slot.is_worth_asking_ahead(age_ms, ttl_ms);
            return Some(Found::Fresh { kept: Rc::clone(&slot.kept), age, prefetch });
        }
        if slot.kept.answers() && age_ms < ttl_ms + self.limits.stale_ms {
            slot.used.set(true);
            return Some(Found::Stale { kept: Rc::clone(&slot.kept), at_once: now_ms < slot.recheck_ms });
        }
        None
    }

    /// Keeps a reply in place of the one before, if it may be kept.
    pub(crate) fn keep(&mut self, key: &[u8], kept: &Rc<Kept>, now_ms: u64) {
        // What fails leaves what has been good until now.
        if !kept.answers() && self.postpone(key, now_ms) {
            return;
        }
        self.forget(key);
        let bytes = cost(key, kept);
        if kept.ttl_s == 0 || bytes > self.limits.bytes_max || self.limits.entries_max == 0 {
            return;
        }
        while self.index.len() >= self.limits.entries_max || self.bytes + bytes > self.limits.bytes_max {
            self.evict(now_ms);
        }
        let key: Rc<[u8]> = key.into();
        let slot = Slot {
            key: Rc::clone(&key),
            kept: Rc::clone(kept),
            since_ms: now_ms,
            used: Cell::new(false),
            uses: Cell::new(0),
            recheck_ms: 0,
        };
        self.bytes += bytes;
        let place = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(place) {
            Some(empty) => *empty = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        self.index.insert(key, place);
    }

    /// After a failure, keeps what is stale for another while; answers whether there is such a reply.
    fn postpone(&mut self, key: &[u8], now_ms: u64) -> bool {
        if !matches!(self.find(key, now_ms), Some(Found::Stale { .. } | Found::Fresh { .. })) {
            return false;
        }
        let slot = self.index.get(key).and_then(|place| self.slots[*place].as_mut());
        slot.filter(|slot| slot.kept.answers()).map(|slot| slot.recheck_ms = now_ms + RECHECK_MS).is_some()
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(place) = self.index.remove(key) {
            self.clear(place);
        }
    }

    fn clear(&mut self, place: usize) {
        if let Some(slot) = self.slots[place].take() {
            self.bytes -= cost(&slot.key, &slot.kept);
            self.free.push(place);
        }
    }

    /// Moves the hand on, and removes the first entry that was not used since it last came by. The caller has made sure
    /// that there are entries.
    fn evict(&mut self, now_ms: u64) {
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(slot) = &self.slots[self.hand] else { continue };
            let over_ms = u64::from(slot.kept.ttl_s) * 1000 + self.limits.stale_ms;
            let is_over = now_ms.saturating_sub(slot.since_ms) >= over_ms;
            if !slot.used.replace(false) || is_over {
                let key = Rc::clone(&slot.key);
                self.forget(&key);
                self.evictions += 1;
                return;
            }
        }
    }

    pub(crate) fn entries(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }
}

impl Slot {
    /// In the last tenth of its life, once: whoever asks then takes its uses with it.
    fn is_worth_asking_ahead(&self, age_ms: u64, ttl_ms: u64) -> bool {
        let is_worth = self.uses.get() >= PREFETCH_USES
            && self.kept.answers()
            && self.kept.ttl_s >= PREFETCH_TTL_MIN_S
            && age_ms >= ttl_ms - ttl_ms / 10;
        if is_worth {
            self.uses.set(0);
        }
        is_worth
    }
}

fn cost(key: &[u8], kept: &Kept) -> usize {
    ENTRY_BYTES + key.len() + kept.bytes()
}

#[cfg(test)]
mod tests;
