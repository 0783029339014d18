/// Rounds of the Feistel network. Four suffice for pseudo-randomness of a pair of halves (Luby & Rackoff 1988); tiny
/// domains, whose halves have one or two bits, need more to mix.
const ROUNDS: u64 = 8;

/// The fractional part of the golden ratio, as splitmix64 uses it to space its states.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A keyed bijection of `0 .. len`, evaluated point by point: a balanced Feistel network over the next even number of bits,
/// with cycle walking (Black & Rogaway 2002) back into the domain, which is at least a quarter of the network's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// A permutation of `0 .. len`; `len` is at most 2^63.
    pub(crate) fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self {
            len,
            half_bits: bits.div_ceil(2),
            key,
        }
    }

    /// Where `index` goes.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(
            index < self.len,
            "{index} is outside a permutation of {}",
            self.len
        );
        if self.half_bits == 0 {
            return index;
        }
        let mut image = self.network(index);
        while image >= self.len {
            image = self.network(image);
        }
        image
    }

    fn network(&self, block: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (block >> self.half_bits, block & mask);
        for round in 0..ROUNDS {
            let scrambled = mix(mix(self.key.wrapping_add(round.wrapping_mul(GOLDEN))) ^ right);
            // The high bits of the mixer are its best ones.
            (left, right) = (right, left ^ (scrambled >> (u64::BITS - self.half_bits)));
        }
        (left << self.half_bits) | right
    }
}

/// Folds words into one key, order-sensitively.
pub(crate) fn key(words: &[u64]) -> u64 {
    words
        .iter()
        .fold(0, |key, &word| mix(mix(key.wrapping_add(GOLDEN)) ^ word))
}

/// The finalizer of splitmix64 (Steele, Lea & Flood 2014): a bijection of 64 bits.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(GOLDEN);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_bijection(len in 1u64..3000, key in any::<u64>()) {
            let permutation = Permutation::new(len, key);
            let images: BTreeSet<u64> = (0..len).map(|index| permutation.apply(index)).collect();
            prop_assert_eq!(images.len() as u64, len);
            prop_assert!(images.last().is_none_or(|&last| last < len));
        }

        #[test]
        fn stays_inside_large_domains(len in 1u64..=1 << 63, index in any::<u64>(), key in any::<u64>()) {
            prop_assert!(Permutation::new(len, key).apply(index % len) < len);
        }
    }

    #[test]
    fn mixer_is_the_published_one() {
        // First output of splitmix64 from state 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    /// Over many keys, every (index, image) pair of a small domain is about equally frequent.
    #[test]
    fn images_are_uniform() {
        const LEN: u64 = 12;
        const KEYS: u64 = 24_000;
        let mut counts = [[0u32; LEN as usize]; LEN as usize];
        for seed in 0..KEYS {
            let permutation = Permutation::new(LEN, key(&[seed]));
            for index in 0..LEN {
                counts[index as usize][permutation.apply(index) as usize] += 1;
            }
        }
        let expected = (KEYS / LEN) as f64;
        let chi_square: f64 = counts
            .iter()
            .flatten()
            .map(|&count| (f64::from(count) - expected).powi(2) / expected)
            .sum();
        // (12 - 1)^2 = 121 degrees of freedom: mean 121, standard deviation 15.6.
        assert!(chi_square < 121.0 + 6.0 * 15.6, "chi-square {chi_square}");
    }
}
