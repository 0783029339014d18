//! Counter-based randomness: a draw is a pure function of what it is for, so nothing needs to be saved and nothing
//! depends on the device, the number of threads or what was drawn before.

/// 2^64 / φ, the increment of splitmix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64's finaliser (Steele, Lea & Flood 2014, variant 13 of Stafford's mixers).
const fn finalise(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Folds words into one key; the order of the words counts.
pub fn key(words: &[u64]) -> u64 {
    words.iter().fold(0, |key, word| {
        finalise((key ^ finalise(word.wrapping_add(GOLDEN))).wrapping_add(GOLDEN))
    })
}

/// The `index`-th 64 random bits of a key: splitmix64, evaluated at one point.
pub const fn bits(key: u64, index: u64) -> u64 {
    finalise(key.wrapping_add(GOLDEN.wrapping_mul(index.wrapping_add(1))))
}

/// The `index`-th uniform draw of a key, in \[0, 1), with 53 random bits.
pub fn uniform(key: u64, index: u64) -> f64 {
    (bits(key, index) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// The `pair`-th two independent standard normal draws of a key (Box & Muller 1958).
///
/// The logarithm and the circular functions are a portable implementation's, not the platform's: machines with different
/// C libraries draw the same bits.
pub fn normal_pair(key: u64, pair: u64) -> (f64, f64) {
    let radius = (-2.0 * libm::log(1.0 - uniform(key, 2 * pair))).sqrt();
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * uniform(key, 2 * pair + 1));
    (radius * cos, radius * sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_splitmix64s() {
        // The first outputs of the reference implementation, seeded with 0.
        let outputs = [0, 1, 2].map(|index| bits(0, index));
        assert_eq!(
            outputs,
            [
                0xE220_A839_7B1D_CDAF,
                0x6E78_9E6A_A1B9_65F4,
                0x06C4_5D18_8009_454F
            ]
        );
    }

    #[test]
    fn keys_depend_on_every_word_and_on_the_order() {
        let keys = [
            key(&[1, 2, 3]),
            key(&[3, 2, 1]),
            key(&[1, 2, 4]),
            key(&[0, 1, 2, 3]),
            key(&[1, 2]),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b), "{keys:x?}");
        }
    }

    #[test]
    fn normal_draws_have_the_moments_of_a_normal_distribution() {
        let key = key(&[7]);
        let draws: Vec<f64> = (0..100_000)
            .flat_map(|pair| {
                let (a, b) = normal_pair(key, pair);
                [a, b]
            })
            .collect();
        let moment = |power| draws.iter().map(|x| x.powi(power)).sum::<f64>() / draws.len() as f64;
        // Five standard errors of each sample moment.
        let tolerance = |variance: f64| 5.0 * (variance / draws.len() as f64).sqrt();
        assert!(moment(1).abs() < tolerance(1.0));
        assert!((moment(2) - 1.0).abs() < tolerance(2.0));
        assert!(moment(3).abs() < tolerance(15.0));
        assert!((moment(4) - 3.0).abs() < tolerance(96.0));
        let correlation = (0..100_000)
            .map(|pair| {
                let (a, b) = normal_pair(key, pair);
                a * b
            })
            .sum::<f64>()
            / 1e5;
        assert!(correlation.abs() < 5.0 / 1e5_f64.sqrt());
    }
}
