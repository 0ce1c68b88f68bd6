//! Hashes that stay the same for ever: over versions of the SDK, machines and languages.
//!
//! Consistent hashing is only consistent if every sidecar computes the same numbers, so nothing here may change.
//! Not for secrets: whoever chooses the input can choose the hash.

/// 2^64 divided by the golden ratio: keeps zeros from hashing to zero.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every input bit over all output bits; a bijection. The finaliser of MurmurHash3 (Appleby 2011).
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Hashes two numbers into one; the order matters.
#[must_use]
pub const fn pair(a: u64, b: u64) -> u64 {
    mix(mix(a).wrapping_add(GOLDEN) ^ b)
}

/// Hashes bytes: `h = pair(h, word)` over words of eight bytes, little endian, the last one filled up with zeros,
/// beginning with `mix(length ^ 0x9e37_79b9_7f4a_7c15)`.
#[must_use]
pub fn bytes(data: &[u8]) -> u64 {
    let start = mix(data.len() as u64 ^ GOLDEN);
    data.chunks(8).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        pair(hash, u64::from_le_bytes(word))
    })
}

/// Hashes the UTF-8 bytes of a text.
#[must_use]
pub fn text(data: &str) -> u64 {
    bytes(data.as_bytes())
}

/// A number in `[0, 1)` from the upper 53 bits.
#[must_use]
pub fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_change() {
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(
            [text(""), text("a"), text("10.0.0.1:8080")],
            [0x9ca066f1a4ab2eea, 0x459411646895ffcb, 0x2b9426e209d8ea46]
        );
    }

    #[test]
    fn neighbours_spread_evenly() {
        let mut buckets = [0u32; 16];
        for i in 0..16_000 {
            buckets[(text(&format!("10.0.0.{i}")) >> 60) as usize] += 1;
        }
        assert!(buckets.iter().all(|&count| (850..1150).contains(&count)), "{buckets:?}");
    }

    #[test]
    fn length_and_order_matter() {
        assert_ne!(text("a"), text("a\0"));
        assert_ne!(pair(1, 2), pair(2, 1));
    }
}
