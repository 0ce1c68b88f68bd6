//! A sorted map whose copies share what has not changed.
//!
//! The writer changes its copy and publishes it; readers keep theirs for as long as they like. A change copies one
//! chunk and the list of chunks, so its cost follows the root of the size, and two copies can be compared by what
//! they do not share. Invariant: chunks are neither empty nor longer than `CHUNK_MAX`, and sorted throughout.

use std::borrow::Borrow;
use std::sync::Arc;

/// Entries of a chunk; a full one is split in two.
const CHUNK_MAX: usize = 128;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

#[derive(Debug)]
pub(crate) struct SharedMap<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

/// What differs between two copies, by key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference<'a, K, V> {
    Added(&'a K, &'a V),
    Changed(&'a K, &'a V),
    Removed(&'a K),
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some(&chunk[at].1)
    }

    pub(crate) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// To change a value in place; it is copied if another copy of the map still holds it.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let at = self.chunks.get(index)?.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[index]);
        Some(&mut chunk[at].1)
    }

    /// Answers what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        }
        let chunk = Arc::make_mut(&mut chunks[index]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                if chunk.len() > CHUNK_MAX {
                    let upper = chunk.split_off(chunk.len() / 2);
                    chunks.insert(index + 1, Arc::new(upper));
                }
                self.len += 1;
                None
            }
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let at = self.chunks.get(index)?.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let (_, value) = Arc::make_mut(&mut chunks[index]).remove(at);
        self.len -= 1;
        // What is left joins its neighbour if it fits well, so that deletions leave no trail of small chunks.
        if index + 1 < chunks.len() && chunks[index].len() + chunks[index + 1].len() <= CHUNK_MAX / 2 {
            let next = chunks.remove(index + 1);
            Arc::make_mut(&mut chunks[index]).extend(next.iter().cloned());
        } else if chunks[index].is_empty() {
            chunks.remove(index);
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Entries from this key on.
    pub(crate) fn from<'a, Q: Ord + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let within =
            self.chunks.get(index).map_or(0, |chunk| chunk.partition_point(|(k, _)| k.borrow() < key));
        let chunks = self.chunks.get(index..).unwrap_or_default();
        chunks.iter().flat_map(|chunk| chunk.iter()).skip(within).map(|(key, value)| (key, value))
    }

    /// The chunk that holds the key, or would.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        // Never empty, by the invariant: the first entry says where a chunk begins.
        let after =
            self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(k, _)| k.borrow() <= key));
        after.saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> SharedMap<K, V> {
    /// What has changed since `old`. Chunks that both share are skipped.
    pub(crate) fn since<'a>(&'a self, old: &'a Self) -> Vec<Difference<'a, K, V>> {
        let mut found = Vec::new();
        let (mut ours, mut theirs) = (Cursor::of(self), Cursor::of(old));
        loop {
            if ours.skip_shared(&mut theirs) {
                continue;
            }
            match (ours.entry(), theirs.entry()) {
                (None, None) => return found,
                (Some((key, value)), None) => {
                    found.push(Difference::Added(key, value));
                    ours.step();
                }
                (None, Some((key, _))) => {
                    found.push(Difference::Removed(key));
                    theirs.step();
                }
                (Some((key, value)), Some((before, was))) => match key.cmp(before) {
                    std::cmp::Ordering::Less => {
                        found.push(Difference::Added(key, value));
                        ours.step();
                    }
                    std::cmp::Ordering::Greater => {
                        found.push(Difference::Removed(before));
                        theirs.step();
                    }
                    std::cmp::Ordering::Equal => {
                        if value != was {
                            found.push(Difference::Changed(key, value));
                        }
                        ours.step();
                        theirs.step();
                    }
                },
            }
        }
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a SharedMap<K, V>) -> Self {
        Self { chunks: &map.chunks, at: 0 }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at >= chunk.len()) {
            self.chunks = &self.chunks[1..];
            self.at = 0;
        }
    }

    /// Past a chunk that both stand before, if it is the same.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some(ours), Some(theirs)) = (self.chunks.first(), other.chunks.first()) else { return false };
        let shared = self.at == 0 && other.at == 0 && Arc::ptr_eq(ours, theirs);
        if shared {
            self.chunks = &self.chunks[1..];
            other.chunks = &other.chunks[1..];
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Good enough to mix operations; the same ones each time.
    fn draws() -> impl Iterator<Item = u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
    }

    #[test]
    fn behaves_as_a_sorted_map_and_leaves_copies_alone() {
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        let mut draws = draws();
        let mut draw = || draws.next().unwrap();
        for round in 0..20_000_u64 {
            let key = draw() % 2_000;
            let (copy, before) = (map.clone(), model.clone());
            match draw() % 5 {
                0..3 => assert_eq!(map.insert(key, round), model.insert(key, round)),
                3 => assert_eq!(map.remove(&key), model.remove(&key)),
                _ => {
                    if let Some(value) = map.get_mut(&key) {
                        *value = round;
                    }
                    model.entry(key).and_modify(|value| *value = round);
                }
            }
            assert_eq!(map.len(), model.len());
            if round % 500 == 0 {
                assert!(map.iter().eq(model.iter()));
                assert!(copy.iter().eq(before.iter()));
                let from = draw() % 2_000;
                assert!(map.from(&from).eq(model.range(from..)));
                assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
            }
        }
        while let Some(key) = model.pop_first().map(|(key, _)| key) {
            assert!(map.remove(&key).is_some());
        }
        assert!(map.is_empty() && map.chunks.is_empty() && map.from(&0).next().is_none());
    }

    #[test]
    fn a_comparison_names_what_differs() {
        let mut old = SharedMap::default();
        for key in 0..1_000 {
            old.insert(key, 0);
        }
        let mut new = old.clone();
        new.insert(2_000, 1);
        new.remove(&5);
        *new.get_mut(&700).unwrap() = 9;
        assert_eq!(
            new.since(&old),
            [Difference::Removed(&5), Difference::Changed(&700, &9), Difference::Added(&2_000, &1)]
        );
        assert!(new.since(&new).is_empty());
        assert_eq!(new.since(&SharedMap::default()).len(), 1_000);
        assert_eq!(SharedMap::default().since(&new).len(), 1_000);
        for key in 100..600 {
            new.insert(key * 2 + 10_000, 1);
            new.remove(&key);
        }
        assert_eq!(new.since(&old).len(), 3 + 1_000);
    }
}
