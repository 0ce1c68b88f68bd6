//! A list in pieces that are shared, so that a list with one other item costs one piece and not all of it.
//!
//! Control keeps pools and members in it, workers what they attach to pools: a registry change touches a handful of
//! items among ten thousand. Reading costs one more pointer than a vector.

use std::ops::Index;
use std::sync::Arc;

/// Items per piece: what a change of one item copies. The number of pieces is copied as well.
const PIECE: usize = 128;

/// Never changes in place; cheap to clone.
#[derive(Debug, Clone)]
pub struct Shelf<T> {
    pieces: Vec<Arc<[T]>>,
    len: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }
}

impl<T> Shelf<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        self.pieces.get(index / PIECE)?.get(index % PIECE)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}

impl<T: Clone> Shelf<T> {
    /// The same list with these items in place of those at their indices. Indices beyond the end are ignored.
    pub fn with(&self, items: impl IntoIterator<Item = (usize, T)>) -> Self {
        let mut opened: Vec<(usize, Vec<T>)> = Vec::new();
        for (index, item) in items {
            let Some(piece) = self.pieces.get(index / PIECE) else { continue };
            let known = opened.iter().position(|(number, _)| *number == index / PIECE);
            let known = known.unwrap_or_else(|| {
                opened.push((index / PIECE, piece.to_vec()));
                opened.len() - 1
            });
            if let Some(place) = opened[known].1.get_mut(index % PIECE) {
                *place = item;
            }
        }
        let mut pieces = self.pieces.clone();
        for (number, items) in opened {
            pieces[number] = items.into();
        }
        Self { pieces, len: self.len }
    }
}

impl<T> FromIterator<T> for Shelf<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let (mut pieces, mut len) = (Vec::new(), 0);
        loop {
            let piece: Arc<[T]> = items.by_ref().take(PIECE).collect();
            if piece.is_empty() {
                return Self { pieces, len };
            }
            len += piece.len();
            pieces.push(piece);
        }
    }
}

impl<T> Index<usize> for Shelf<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.pieces[index / PIECE][index % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_its_piece_and_shares_the_others() {
        let shelf: Shelf<usize> = (0..1000).collect();
        assert_eq!((shelf.len(), shelf[999], shelf.get(1000)), (1000, 999, None));
        let other = shelf.with([(130, 7), (131, 8), (5000, 9)]);
        assert_eq!((other[129], other[130], other[131], other.len()), (129, 7, 8, 1000));
        let shared = shelf.pieces.iter().zip(&other.pieces).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, shelf.pieces.len() - 1);
        assert!(shelf.iter().copied().eq(0..1000));
        assert!(Shelf::<usize>::default().is_empty());
    }
}
