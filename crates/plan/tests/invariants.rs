//! Exactly once, and a constant global batch, across steps of changing world sizes: the invariants that the plan owns.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use muster_plan::{SampleOrder, combine, deal, evidence, positions, slot_positions};
use muster_types::{Digest, Position, Seed, Segment, Step, WorldSize};
use proptest::prelude::*;

fn segment(start_step: u64, start_position: u64, global_batch: u32) -> Segment {
    Segment {
        start_step: Step(start_step),
        start_position: Position(start_position),
        global_batch,
        dataset_digest: Digest::new([1; 32]),
    }
}

/// The positions that each rank trains in a step.
fn trained(segments: &[Segment], step: u64, micro_batch: u32, world: u32) -> Vec<Vec<u64>> {
    let (segment, range) = positions(segments, Step(step)).unwrap();
    let ranks = deal(segment.global_batch / micro_batch, WorldSize(world)).unwrap();
    ranks
        .iter()
        .map(|run| {
            (run.first..run.first + run.count)
                .flat_map(|slot| slot_positions(&range, micro_batch, slot).unwrap())
                .collect()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the world sizes, `epochs` of positions train each sample so many times, and each step the same number.
    #[test]
    fn every_sample_once_an_epoch(
        seed in any::<u64>(),
        micro_batch in 1u32..5,
        slots in 1u32..9,
        steps_an_epoch in 1u64..60,
        epochs in 1u64..3,
        worlds in proptest::collection::vec(0u32..8, 1..40),
        cut in 1u64..1000,
    ) {
        let global_batch = micro_batch * slots;
        let samples = steps_an_epoch * u64::from(global_batch);
        let shards = [samples * cut / 1000, samples - samples * cut / 1000];
        let order = SampleOrder::new(Seed(seed), &shards).unwrap();
        let steps = steps_an_epoch * epochs;
        // A second segment, opened midway where the first one stands, with half the slots or as many.
        let half = slots.div_ceil(2);
        let (first_steps, second_batch) = match slots % 2 {
            0 if steps > 1 => (steps / 2, half * micro_batch),
            _ => (steps, global_batch),
        };
        let turn = first_steps * u64::from(global_batch);
        let segments = [segment(0, 0, global_batch), segment(first_steps, turn, second_batch)];
        let all_steps = first_steps + (samples * epochs - turn) / u64::from(second_batch);

        let mut times = BTreeMap::new();
        for step in 0..all_steps {
            let (covering, _) = positions(&segments, Step(step)).unwrap();
            let most = covering.global_batch / micro_batch;
            let world = 1 + worlds[step as usize % worlds.len()] % most;
            let ranks = trained(&segments, step, micro_batch, world);
            prop_assert_eq!(ranks.len() as u32, world);
            prop_assert!(ranks.iter().all(|rank| !rank.is_empty()));
            let all: Vec<u64> = ranks.concat();
            prop_assert_eq!(all.len() as u32, covering.global_batch);
            // What is trained, and in which slots, is the same as with one worker.
            prop_assert_eq!(&all, &trained(&segments, step, micro_batch, 1).concat());
            for position in all {
                let sample = order.sample(Position(position));
                *times.entry((sample.shard, sample.index)).or_insert(0u64) += 1;
            }
        }
        prop_assert_eq!(times.len() as u64, samples);
        prop_assert!(times.values().all(|&count| count == epochs));
    }

    /// The evidence of a step is the same for every world size.
    #[test]
    fn evidence_does_not_depend_on_the_world(step in 0u64..1000, slots in 1u32..9, micro_batch in 1u32..4, world in 0u32..8) {
        let segments = [segment(0, 17, slots * micro_batch)];
        let total = |world: u32| {
            let ranks = trained(&segments, step, micro_batch, world);
            let rank = |positions: &Vec<u64>| {
                let fed = |&position: &u64| evidence(Position(position), &[position as i64 & 0xff, 3]);
                positions.iter().map(fed).fold(0, combine)
            };
            ranks.iter().map(rank).fold(0, combine)
        };
        prop_assert_eq!(total(1 + world % slots), total(1));
    }
}
