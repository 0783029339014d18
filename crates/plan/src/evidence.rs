use muster_types::Position;
use xxhash_rust::xxh3::Xxh3;

/// Tokens hashed at a time, so that the hash sees few, long updates.
const CHUNK: usize = 256;

/// What one sample adds to a step's evidence: XXH3-64 (seed 0) over the position as u64 and each token as u32, all
/// little-endian. `tokens` are the ones actually fed, inputs and targets together: context length + 1 of them.
pub fn evidence(position: Position, tokens: &[i64]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&position.get().to_le_bytes());
    let mut bytes = [0u8; CHUNK * 4];
    for chunk in tokens.chunks(CHUNK) {
        for (place, &token) in bytes.chunks_exact_mut(4).zip(chunk) {
            debug_assert!(u32::try_from(token).is_ok(), "token id {token} is no u32");
            place.copy_from_slice(&(token as u32).to_le_bytes());
        }
        hash.update(&bytes[..chunk.len() * 4]);
    }
    hash.digest()
}

/// Joins the evidence of two disjoint sets of samples: a wrapping sum, so that neither order nor grouping matters and a
/// sum all-reduce over int64 computes it.
pub const fn combine(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    type Sample = (u64, Vec<i64>);

    fn total(samples: &[Sample]) -> u64 {
        samples.iter().fold(0, |sum, (position, tokens)| {
            combine(sum, evidence(Position(*position), tokens))
        })
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let tokens = proptest::collection::vec(0i64..=i64::from(u32::MAX), 1..600);
        proptest::collection::vec(tokens, 2..8).prop_map(|all| {
            all.into_iter()
                .enumerate()
                .map(|(i, tokens)| (i as u64 + 100, tokens))
                .collect()
        })
    }

    #[test]
    fn known_answers() {
        assert_eq!(evidence(Position(0), &[]), xxh3_64(&[0; 8]));
        assert_eq!(evidence(Position(0), &[]), 0xc77b_3abb_6f87_acd9);
        let fed: Vec<i64> = (0..257).collect();
        let mut bytes = 5u64.to_le_bytes().to_vec();
        bytes.extend(fed.iter().flat_map(|&token| (token as u32).to_le_bytes()));
        assert_eq!(evidence(Position(5), &fed), xxh3_64(&bytes));
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter(all in samples(), cut in 0usize..8) {
            let whole = total(&all);
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(total(&reversed), whole);
            let (left, right) = all.split_at(cut.min(all.len()));
            prop_assert_eq!(combine(total(left), total(right)), whole);
            prop_assert_eq!(combine(total(right), total(left)), whole);
        }

        #[test]
        fn loss_duplication_and_alteration_show(all in samples(), at in 0usize..1000, place in 0usize..1000) {
            let whole = total(&all);
            let (at, other) = (at % all.len(), (at + 1) % all.len());
            let mut altered = all.clone();
            let place = place % altered[at].1.len();
            altered[at].1[place] ^= 1;
            prop_assert_ne!(total(&altered), whole);
            let mut lost = all.clone();
            lost.remove(at);
            prop_assert_ne!(total(&lost), whole);
            let mut twice = all.clone();
            twice[other] = twice[at].clone();
            prop_assert_ne!(total(&twice), whole);
            // The right tokens under each other's positions.
            let mut swapped = all.clone();
            let tokens = std::mem::take(&mut swapped[at].1);
            swapped[at].1 = std::mem::replace(&mut swapped[other].1, tokens);
            prop_assert!(total(&swapped) != whole || swapped[at].1 == swapped[other].1);
        }
    }
}
