use std::cmp::Reverse;

use muster_types::{Rank, WorldSize};

/// The part of a state that a rank writes to a checkpoint: indices into `sizes`, the tensors' bytes, ascending.
///
/// Every tensor belongs to exactly one rank, and no rank gets more than an even share plus one tensor: the largest
/// tensors are dealt first, each to the rank with the least so far (Graham 1969). A pure function, so that all ranks
/// agree without a word.
pub fn part_of(sizes: &[u64], rank: Rank, world: WorldSize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&index| (Reverse(sizes[index]), index));
    let mut loads = vec![0_u64; world.get() as usize];
    let mut part = Vec::new();
    for index in order {
        let lightest = loads
            .iter()
            .zip(0_u32..)
            .min_by_key(|(load, rank)| (**load, *rank));
        let Some((_, owner)) = lightest else { break };
        loads[owner as usize] += sizes[index];
        if owner == rank.get() {
            part.push(index);
        }
    }
    part.sort_unstable();
    part
}

/// The name of a rank's checkpoint shard, such as `rank-00000-of-00002.safetensors`.
pub fn part_file_name(rank: Rank, world: WorldSize) -> String {
    format!("rank-{:05}-of-{:05}.safetensors", rank.get(), world.get())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_tensor_belongs_to_exactly_one_rank_and_parts_are_even(
            sizes in prop::collection::vec(0u64..1 << 40, 0..60),
            world in 1u32..20,
        ) {
            let parts: Vec<_> = (0..world).map(|r| part_of(&sizes, Rank(r), WorldSize(world))).collect();
            let mut all: Vec<usize> = parts.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());

            let even = sizes.iter().sum::<u64>() / u64::from(world);
            let largest = sizes.iter().copied().max().unwrap_or(0);
            for part in &parts {
                prop_assert!(part.is_sorted());
                prop_assert!(part.iter().map(|&i| sizes[i]).sum::<u64>() <= even + largest);
            }
        }
    }

    #[test]
    fn more_ranks_than_tensors_leave_some_with_nothing() {
        let parts = [0, 1, 2].map(|rank| part_of(&[5, 7], Rank(rank), WorldSize(3)));
        assert_eq!(parts, [vec![1], vec![0], vec![]]);
        assert!(part_of(&[5, 7], Rank(3), WorldSize(3)).is_empty());
    }

    #[test]
    fn file_names_sort_by_rank() {
        assert_eq!(
            part_file_name(Rank(7), WorldSize(12)),
            "rank-00007-of-00012.safetensors"
        );
    }
}
