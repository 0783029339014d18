//! The canonical sum: the same bits from any number of ranks. One thread a rank, real Gloo between them.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, thread};

use common::{sequences, spec, step, trainer};
use muster_c10d::{Abort, Group, GroupOptions, LocalStore, StoreBackend};
use muster_plan::deal;
use muster_spec::{RunSpec, TrainSpec};
use muster_train::{CanonicalSum, SlotOrder, Trainer};
use muster_types::{BatchSlots, Step, WorldSize};

const STEPS: u64 = 4;

/// Trains with slots of one sequence, on the rank's own slots.
fn train(
    trainer: &mut Trainer,
    dealt: &[BatchSlots],
    rank: usize,
    batch: u32,
    group: Option<&Group>,
) {
    let mut sum = CanonicalSum::new(&trainer.parameters(), dealt, rank);
    for s in 0..STEPS {
        sum.begin();
        let own = dealt[rank];
        for slot in own.first..own.first + own.count {
            trainer.begin_step().unwrap();
            let first = (s * u64::from(batch)) as usize + slot as usize;
            let rows = trainer.batch(&sequences(first, 1)).unwrap();
            let more = SlotOrder::More;
            trainer
                .forward_backward(&rows, Step(s), slot, more, None)
                .unwrap();
            trainer.add_to(&mut sum, Step(s), slot).unwrap();
        }
        trainer.take_sum(&mut sum, Step(s), group).unwrap();
        trainer.apply(Step(s), u64::from(batch) * 12, 4.0).unwrap();
    }
}

fn of(batch: u32) -> RunSpec {
    RunSpec {
        train: TrainSpec {
            global_batch: batch,
            micro_batch: 1,
            ..spec().train
        },
        ..spec()
    }
}

/// The state's hash after a few steps on `world` ranks, which have to agree.
fn hash(batch: u32, world: u32) -> u64 {
    let dealt = deal(batch, WorldSize(world)).unwrap();
    let store = Arc::new(LocalStore::new());
    let ranks: Vec<_> = (0..world as usize)
        .map(|rank| {
            let (store, dealt) = (store.clone(), dealt.clone());
            thread::spawn(move || {
                let mut trainer = trainer(&of(batch));
                let group = (world > 1).then(|| {
                    let store: Arc<dyn StoreBackend> = store;
                    let options = GroupOptions::new(rank as u32, world);
                    Group::form(store, &options, &Abort::new()).unwrap()
                });
                train(&mut trainer, &dealt, rank, batch, group.as_ref());
                let hash = trainer.state_hash().unwrap();
                // A group that goes ends its peers' collectives.
                if let Some(group) = &group {
                    group.barrier().unwrap();
                }
                hash
            })
        })
        .collect();
    let hashes: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    hashes[0]
}

#[test]
fn any_number_of_ranks_makes_the_same_bits() {
    for (batch, worlds) in [(8, vec![2, 3, 4, 5, 7, 8]), (7, vec![2, 3, 6]), (1, vec![])] {
        let alone = hash(batch, 1);
        for world in worlds {
            assert_eq!(hash(batch, world), alone, "{batch} slots on {world} ranks");
        }
    }
}

#[test]
fn it_is_the_same_sum_but_for_rounding() {
    let mut plain = trainer(&of(8));
    for s in 0..STEPS {
        step(&mut plain, s, 8 * s as usize, 8, 1);
    }
    let mut canonical = trainer(&of(8));
    let dealt = deal(8, WorldSize(1)).unwrap();
    train(&mut canonical, &dealt, 0, 8, None);
    let pairs = canonical.parameters().into_iter().zip(plain.parameters());
    let difference = pairs
        .map(|(a, b)| (a - b).abs().max().double_value(&[]))
        .fold(0.0, f64::max);
    assert!(difference < 1e-3, "{difference}");
}
