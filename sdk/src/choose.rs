//! Draws of endpoints from random bits, without a division and with a bias below 2^-32 per endpoint.
//!
//! All of them take 64 random bits, usually `ctx.random` (or `ctx.hash`, to let a key decide), and return indices that
//! turn into a [`Choice`]: `choose::index(ctx.random, n).into()`.

use crate::balancer::Choice;
use crate::hash;

/// How often [`Weighted::two_distinct`] draws again when both draws fall on the same endpoint.
const REDRAWS: u32 = 4;

/// One of `n`, each as likely; `None` if `n` is 0.
#[must_use]
pub fn index(random: u64, n: u32) -> Option<u32> {
    (n > 0).then(|| scale(high(random), n).0)
}

/// Two different ones of `n`, each pair as likely; `None` if `n` is below 2.
#[must_use]
pub fn two_distinct(random: u64, n: u32) -> Option<(u32, u32)> {
    if n < 2 {
        return None;
    }
    let a = scale(high(random), n).0;
    let b = scale(random as u32, n - 1).0;
    Some((a, if b >= a { b + 1 } else { b }))
}

/// Draws in proportion to weights, in constant time: the alias method (Walker 1977, built as Vose 1991).
/// Building is linear. Equal weights need no table.
#[derive(Clone, Debug, Default)]
pub struct Weighted {
    count: u32,
    slots: Vec<Slot>,
}

/// The first `keep` / 2^32 of the slot belong to the endpoint of its index, the rest to `alias`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    keep: u32,
    alias: u32,
}

impl Weighted {
    /// From the weights in the order of the endpoints. A weight of 0 is never drawn, unless all are 0: then all are
    /// equal.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
        let count = weights.len() as u32;
        let total: u64 = weights.iter().sum();
        if total == 0 || weights.windows(2).all(|two| two[0] == two[1]) {
            return Self { count, slots: Vec::new() };
        }
        Self { count, slots: alias_table(&weights, total) }
    }

    /// The number of endpoints.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// One endpoint; `None` if there is none.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<u32> {
        (self.count > 0).then(|| self.draw(high(random)))
    }

    /// Two different endpoints, drawn one after the other; `None` if there are fewer than two. The first is drawn in
    /// proportion to the weights; the second, too, but for the few cases in which one weight dwarfs all others.
    #[must_use]
    pub fn two_distinct(&self, random: u64) -> Option<(u32, u32)> {
        if self.slots.is_empty() {
            return two_distinct(random, self.count);
        }
        let a = self.draw(high(random));
        let mut bits = random;
        for _ in 0..=REDRAWS {
            let b = self.draw(bits as u32);
            if b != a {
                return Some((a, b));
            }
            bits = hash::mix(bits.wrapping_add(1));
        }
        Some((a, (a + 1) % self.count))
    }

    fn draw(&self, bits: u32) -> u32 {
        let (index, rest) = scale(bits, self.count);
        match self.slots.get(index as usize) {
            Some(slot) if rest >= slot.keep => slot.alias,
            _ => index,
        }
    }
}

impl From<Option<u32>> for Choice {
    /// Nothing drawn means that there are no endpoints.
    fn from(drawn: Option<u32>) -> Self {
        drawn.map_or(Self::None, Self::Endpoint)
    }
}

fn high(random: u64) -> u32 {
    (random >> 32) as u32
}

/// Multiplies a fraction of 2^32 by `n`: the whole part, and what is left as a fraction of 2^32.
fn scale(bits: u32, n: u32) -> (u32, u32) {
    let product = u64::from(bits) * u64::from(n);
    (high(product), product as u32)
}

/// Fills each slot up to the average with a part of one heavier endpoint.
fn alias_table(weights: &[u64], total: u64) -> Vec<Slot> {
    let n = weights.len() as u64;
    let mut left: Vec<u64> = weights.iter().map(|weight| weight * n).collect();
    let (mut light, mut heavy): (Vec<u32>, Vec<u32>) = (0..n as u32).partition(|&i| left[i as usize] < total);
    let mut slots: Vec<Slot> = (0..n as u32).map(|i| Slot { keep: u32::MAX, alias: i }).collect();
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        let share = left[small as usize] as f64 / total as f64;
        slots[small as usize] = Slot { keep: (share * 4_294_967_296.0) as u32, alias: large };
        left[large as usize] -= total - left[small as usize];
        if left[large as usize] < total {
            heavy.pop();
            light.push(large);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(i: u64) -> u64 {
        hash::mix(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn indices_stay_inside_and_reach_everything() {
        assert_eq!(index(5, 0), None);
        assert_eq!([index(0, 3), index(u64::MAX, 3)], [Some(0), Some(2)]);
        let mut pairs = [0u32; 9];
        for i in 0..6_000 {
            let (a, b) = two_distinct(random(i), 3).unwrap();
            assert_ne!(a, b);
            pairs[(a * 3 + b) as usize] += 1;
        }
        assert!(
            pairs.iter().filter(|&&count| count > 0).all(|&count| (850..1150).contains(&count)),
            "{pairs:?}"
        );
        assert_eq!(two_distinct(1, 1), None);
    }

    #[test]
    fn weights_are_met() {
        let weights = [1, 2, 0, 3, 94];
        let table = Weighted::new(weights);
        let mut counts = [0u32; 5];
        for i in 0..100_000 {
            counts[table.pick(random(i)).unwrap() as usize] += 1;
        }
        for (weight, count) in weights.iter().zip(counts) {
            assert!(count.abs_diff(weight * 1_000) <= 300, "{counts:?}");
        }
    }

    #[test]
    fn two_are_always_distinct() {
        for weights in [vec![1, 1], vec![1, 65_535], vec![0, 1], vec![5, 1, 1]] {
            let table = Weighted::new(weights);
            for i in 0..1_000 {
                let (a, b) = table.two_distinct(random(i)).unwrap();
                assert!(a != b && a < table.count() && b < table.count());
            }
        }
    }

    #[test]
    fn empty_single_and_zero_weights() {
        assert_eq!(Weighted::new([]).pick(1), None);
        assert_eq!(Weighted::new([7]).pick(u64::MAX), Some(0));
        assert_eq!(Weighted::new([7]).two_distinct(1), None);
        assert_eq!(Weighted::new([0, 0]).pick(u64::MAX), Some(1));
    }
}
