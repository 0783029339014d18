use muster_types::{BatchSlots, Rank, WorldSize};

use crate::PlanError;

/// Deals the slots of the batch, `0 .. slots`, to the ranks in order: contiguous runs whose lengths differ by at most one,
/// the longer ones first.
///
/// # Errors
/// With no worker, and with more workers than slots: each rank trains at least one.
pub fn deal(slots: u32, world: WorldSize) -> Result<Vec<BatchSlots>, PlanError> {
    let world = world.get();
    if world == 0 {
        return Err(PlanError::NoWorkers { slots });
    }
    if world > slots {
        return Err(PlanError::TooManyWorkers { slots, world });
    }
    let (each, longer) = (slots / world, slots % world);
    Ok((0..world)
        .map(|rank| BatchSlots {
            rank: Rank(rank),
            first: rank * each + rank.min(longer),
            count: each + u32::from(rank < longer),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longer_runs_come_first() {
        let dealt = deal(8, WorldSize(3)).unwrap();
        let runs: Vec<_> = dealt
            .iter()
            .map(|run| (run.rank.get(), run.first, run.count))
            .collect();
        assert_eq!(runs, [(0, 0, 3), (1, 3, 3), (2, 6, 2)]);
    }

    #[test]
    fn refuses_what_would_leave_a_rank_idle() {
        assert_eq!(
            deal(4, WorldSize(0)),
            Err(PlanError::NoWorkers { slots: 4 })
        );
        assert_eq!(
            deal(4, WorldSize(5)),
            Err(PlanError::TooManyWorkers { slots: 4, world: 5 })
        );
        assert!(deal(0, WorldSize(1)).is_err());
        assert!(deal(u32::MAX, WorldSize(3)).is_ok());
    }

    proptest! {
        #[test]
        fn covers_each_slot_once_and_evenly(slots in 1u32..5000, world in 1u32..300) {
            prop_assume!(world <= slots);
            let dealt = deal(slots, WorldSize(world)).unwrap();
            prop_assert_eq!(dealt.len(), world as usize);
            let mut next = 0;
            for (rank, run) in dealt.iter().enumerate() {
                prop_assert_eq!(run.rank.get() as usize, rank);
                prop_assert_eq!(run.first, next);
                prop_assert!(run.count == slots / world || run.count == slots.div_ceil(world));
                next += run.count;
            }
            prop_assert_eq!(next, slots);
        }
    }
}
