//! Names of services, and where the pool of each lies: a hash map in pieces that copies share.
//!
//! A service that comes or goes copies one piece of a few dozen names and the list of pieces, not ten thousand names.
//! Workers look a name up for each request: one hash, one piece, a binary search in it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Names in a piece on average: as built, and the bounds at which all are spread anew.
const PIECE: usize = 32;
const PIECE_MAX: usize = 2 * PIECE;
const PIECE_MIN: usize = PIECE / 8;

/// Never changes in place; cheap to clone.
#[derive(Debug, Clone)]
pub struct Names {
    /// As many as a power of two; a name's hash says in which one it is. Sorted by hash.
    pieces: Vec<Arc<[Entry]>>,
    len: usize,
    hasher: RandomState,
}

#[derive(Debug, Clone)]
struct Entry {
    hash: u64,
    name: Arc<str>,
    slot: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { pieces: vec![Arc::from([])], len: 0, hasher: RandomState::new() }
    }
}

impl Names {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        let piece = &self.pieces[self.piece_of(hash)];
        let from = piece.partition_point(|entry| entry.hash < hash);
        let same = piece[from..].iter().take_while(|entry| entry.hash == hash);
        same.into_iter().find(|entry| &*entry.name == name).map(|entry| entry.slot)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|entry| (&entry.name, entry.slot))
    }

    /// The same names, but for these: each at its slot, or gone.
    pub fn with(&self, changes: impl IntoIterator<Item = (Arc<str>, Option<usize>)>) -> Self {
        let mut next = self.clone();
        for (name, slot) in changes {
            next.set(name, slot);
        }
        let most = next.pieces.len() * PIECE_MAX;
        let least = if next.pieces.len() == 1 { 0 } else { next.pieces.len() * PIECE_MIN };
        if (least..=most).contains(&next.len) { next } else { next.spread() }
    }

    fn set(&mut self, name: Arc<str>, slot: Option<usize>) {
        let hash = self.hasher.hash_one(&*name);
        let number = self.piece_of(hash);
        let mut piece: Vec<Entry> = self.pieces[number].to_vec();
        let before = piece.len();
        piece.retain(|entry| entry.hash != hash || entry.name != name);
        if let Some(slot) = slot {
            let at = piece.partition_point(|entry| entry.hash < hash);
            piece.insert(at, Entry { hash, name, slot });
        }
        self.len = self.len + piece.len() - before;
        self.pieces[number] = piece.into();
    }

    fn spread(self) -> Self {
        let all = self.pieces.iter().flat_map(|piece| piece.iter().cloned()).collect();
        Self::of(all, self.hasher)
    }

    fn of(entries: Vec<Entry>, hasher: RandomState) -> Self {
        let (len, count) = (entries.len(), (entries.len() / PIECE).next_power_of_two());
        let mut pieces: Vec<Vec<Entry>> = (0..count).map(|_| Vec::new()).collect();
        for entry in entries {
            pieces[number_of(entry.hash, count)].push(entry);
        }
        for piece in &mut pieces {
            piece.sort_by_key(|entry| entry.hash);
        }
        Self { pieces: pieces.into_iter().map(Arc::from).collect(), len, hasher }
    }

    fn piece_of(&self, hash: u64) -> usize {
        number_of(hash, self.pieces.len())
    }
}

/// `count` is a power of two.
fn number_of(hash: u64, count: usize) -> usize {
    hash as usize & (count - 1)
}

/// Each name once.
impl FromIterator<(Arc<str>, usize)> for Names {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, usize)>>(names: I) -> Self {
        let hasher = RandomState::new();
        let entry = |(name, slot): (Arc<str>, usize)| Entry { hash: hasher.hash_one(&*name), name, slot };
        let entries = names.into_iter().map(entry).collect();
        Self::of(entries, hasher)
    }
}

/// The same names at the same slots, however they are spread.
impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().all(|(name, slot)| other.get(name) == Some(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn names_come_and_go_and_the_rest_is_shared() {
        let all: Vec<Arc<str>> = (0..5000).map(|n| format!("s{n}").into()).collect();
        let mut names = Names::default();
        let mut model = BTreeMap::new();
        // Grows one by one, changes, and shrinks: spread anew on the way up and down.
        let steps = all.iter().cloned().zip(0..).map(|(name, slot)| (name, Some(slot)));
        let steps = steps.chain(all.iter().step_by(3).map(|name| (Arc::clone(name), Some(7))));
        let steps = steps.chain(all.iter().skip(20).map(|name| (Arc::clone(name), None)));
        for (name, slot) in steps {
            let next = names.with([(Arc::clone(&name), slot)]);
            match slot {
                Some(slot) => drop(model.insert(name, slot)),
                None => drop(model.remove(&name)),
            }
            let same = names.pieces.iter().zip(&next.pieces).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
            assert!(next.pieces.len() != names.pieces.len() || same + 1 == names.pieces.len());
            names = next;
        }
        assert_eq!((names.len(), model.len(), names.pieces.len()), (20, 20, 1));
        assert!(model.iter().all(|(name, slot)| names.get(name) == Some(*slot)));
        assert!(!names.contains("s20") && names.contains("s19"));
        assert_eq!(names, model.into_iter().collect());
        assert!(Names::default().is_empty() && Names::default().get("").is_none());
    }
}
