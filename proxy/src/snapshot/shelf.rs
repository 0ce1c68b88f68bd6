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

    /// Where the two do not hold the same, by this comparison. Pieces that they share are skipped, so the cost follows
    /// what differs.
    pub fn differing<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&T, &T) -> bool + 'a,
    ) -> impl Iterator<Item = usize> + 'a {
        let numbers = 0..self.pieces.len().max(other.pieces.len());
        let pieces = numbers.filter(|number| match (self.pieces.get(*number), other.pieces.get(*number)) {
            (Some(ours), Some(theirs)) => !Arc::ptr_eq(ours, theirs),
            _ => true,
        });
        let indices = pieces.flat_map(|number| number * PIECE..(number + 1) * PIECE);
        indices.filter(move |index| match (self.get(*index), other.get(*index)) {
            (Some(ours), Some(theirs)) => !same(ours, theirs),
            (ours, theirs) => ours.is_some() || theirs.is_some(),
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}

impl<T: Clone> Shelf<T> {
    /// The same list at this length, with these items at their indices. What is new at the end must be among them,
    /// without a gap; indices beyond the length are ignored.
    pub fn with(&self, len: usize, items: impl IntoIterator<Item = (usize, T)>) -> Self {
        let mut items: Vec<(usize, T)> = items.into_iter().filter(|(index, _)| *index < len).collect();
        items.sort_by_key(|(index, _)| *index);
        let mut items = items.into_iter().peekable();
        let mut pieces = self.pieces.clone();
        pieces.truncate(len.div_ceil(PIECE));
        while let Some((index, _)) = items.peek() {
            let number = index / PIECE;
            let mut piece = pieces.get(number).map_or_else(Vec::new, |piece| piece.to_vec());
            while let Some((index, item)) = items.next_if(|(index, _)| index / PIECE == number) {
                match piece.get_mut(index % PIECE) {
                    Some(place) => *place = item,
                    None => piece.push(item),
                }
            }
            match pieces.get_mut(number) {
                Some(place) => *place = piece.into(),
                None => pieces.push(piece.into()),
            }
        }
        let full = pieces.len().saturating_sub(1) * PIECE;
        if let Some(last) = pieces.last_mut().filter(|last| full + last.len() > len) {
            *last = last[..len - full].into();
        }
        let len = pieces.last().map_or(0, |last| full + last.len());
        Self { pieces, len }
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

    fn shared(a: &Shelf<usize>, b: &Shelf<usize>) -> usize {
        a.pieces.iter().zip(&b.pieces).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    #[test]
    fn a_change_copies_its_piece_and_shares_the_others() {
        let shelf: Shelf<usize> = (0..1000).collect();
        assert_eq!((shelf.len(), shelf[999], shelf.get(1000)), (1000, 999, None));
        let other = shelf.with(1000, [(130, 7), (131, 8), (5000, 9)]);
        assert_eq!((other[129], other[130], other[131], other.len()), (129, 7, 8, 1000));
        assert_eq!(shared(&shelf, &other), shelf.pieces.len() - 1);
        assert!(shelf.iter().copied().eq(0..1000));
        assert_eq!(shelf.differing(&other, |a, b| a == b).collect::<Vec<_>>(), [130, 131]);
        let shorter: Shelf<usize> = (0..998).collect();
        assert_eq!(shelf.differing(&shorter, |a, b| a == b).collect::<Vec<_>>(), [998, 999]);
        assert_eq!(shorter.differing(&shelf, |a, b| a == b).count(), 2);
        assert!(Shelf::<usize>::default().is_empty());
    }

    #[test]
    fn it_grows_and_shrinks_at_its_end() {
        let mut shelf = Shelf::default();
        let mut list = Vec::new();
        for len in [1, 128, 129, 300, 257, 256, 255, 3, 0, 130] {
            let next = shelf.with(len, (list.len()..len).map(|index| (index, index * 2)));
            list = (0..len).map(|index| index * 2).collect();
            assert!(next.iter().eq(&list), "{len}");
            assert_eq!((next.len(), next.get(len)), (len, None));
            assert!(shared(&shelf, &next) + 1 >= shelf.pieces.len().min(next.pieces.len()), "{len}");
            shelf = next;
        }
    }
}
