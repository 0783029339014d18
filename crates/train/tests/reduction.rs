//! Ranks that sum their gradients: one thread a rank, real Gloo between them.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, thread};

use common::{sequences, spec, step, trainer};
use muster_c10d::{Abort, Group, GroupOptions, LocalStore, StoreBackend};
use muster_train::{Reduction, SlotLoss, SlotOrder, StepError, Trainer};
use muster_types::Step;

/// Slots of each rank, for 4 slots of 2 sequences.
const EVEN: [&[usize]; 2] = [&[0, 1], &[2, 3]];
const UNEVEN: [&[usize]; 3] = [&[0, 1], &[2], &[3]];

fn form(store: &Arc<LocalStore>, rank: usize, world: usize) -> Group {
    let store: Arc<dyn StoreBackend> = store.clone();
    Group::form(
        store,
        &GroupOptions::new(rank as u32, world as u32),
        &Abort::new(),
    )
    .unwrap()
}

/// Trains one step's slots on this rank.
fn slots(
    trainer: &mut Trainer,
    s: u64,
    slots: &[usize],
    reduction: Reduction<'_>,
) -> Result<SlotLoss, StepError> {
    trainer.begin_step()?;
    let mut loss = SlotLoss::default();
    for slot in slots {
        let batch = trainer
            .batch(&sequences(8 * s as usize + 2 * slot, 2))
            .unwrap();
        let order = if Some(slot) == slots.last() {
            SlotOrder::Last
        } else {
            SlotOrder::More
        };
        loss += trainer.forward_backward(&batch, Step(s), *slot as u32, order, Some(reduction))?;
    }
    Ok(loss)
}

/// Five steps on several ranks: each one's state hash and last gradient norm.
fn train<const N: usize>(dealt: [&'static [usize]; N]) -> Vec<(u64, f64, Trainer)> {
    let store = Arc::new(LocalStore::new());
    let ranks: Vec<_> = dealt
        .into_iter()
        .enumerate()
        .map(|(rank, own)| {
            let store = store.clone();
            thread::spawn(move || {
                let mut trainer = trainer(&spec());
                let group = form(&store, rank, N);
                let reducer = trainer.reducer(&group).unwrap();
                let reduction = Reduction {
                    group: &group,
                    reducer: &reducer,
                };
                let mut norm = 0.0;
                for s in 0..5 {
                    let loss = slots(&mut trainer, s, own, reduction).unwrap();
                    assert_eq!(loss.tokens, 24 * own.len() as u64);
                    norm = trainer.apply(Step(s), 96, 4.0).unwrap().gradient_norm;
                }
                (trainer.state_hash().unwrap(), norm, trainer)
            })
        })
        .collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

#[test]
fn ranks_agree_to_the_bit_and_with_one_rank_to_rounding() {
    let mut alone = trainer(&spec());
    let mut norm = 0.0;
    for s in 0..5 {
        norm = step(&mut alone, s, 8 * s as usize, 8, 2).1.gradient_norm;
    }
    for ranks in [train(EVEN), train(UNEVEN)] {
        for (hash, rank_norm, rank) in &ranks {
            assert_eq!((*hash, *rank_norm), (ranks[0].0, ranks[0].1));
            assert!(
                (rank_norm / norm - 1.0).abs() < 1e-3,
                "{rank_norm} against {norm}"
            );
            let differences = rank
                .parameters()
                .iter()
                .zip(alone.parameters())
                .map(|(a, b)| (a - b).abs().max().double_value(&[]))
                .fold(0.0, f64::max);
            // A tenth of one step's movement.
            assert!(differences < 1e-3, "{differences}");
        }
    }
}

#[test]
fn a_lost_peer_costs_the_step_and_nothing_else() {
    let store = Arc::new(LocalStore::new());
    let leaver = {
        let store = store.clone();
        thread::spawn(move || {
            let mut trainer = trainer(&spec());
            let group = form(&store, 1, 2);
            let reducer = trainer.reducer(&group).unwrap();
            slots(
                &mut trainer,
                0,
                EVEN[1],
                Reduction {
                    group: &group,
                    reducer: &reducer,
                },
            )
            .unwrap();
            trainer.apply(Step(0), 96, 4.0).unwrap();
        })
    };
    let mut survivor = trainer(&spec());
    {
        let group = form(&store, 0, 2);
        let reducer = survivor.reducer(&group).unwrap();
        let reduction = Reduction {
            group: &group,
            reducer: &reducer,
        };
        slots(&mut survivor, 0, EVEN[0], reduction).unwrap();
        survivor.apply(Step(0), 96, 4.0).unwrap();
        leaver.join().unwrap();

        let committed = survivor.state_hash().unwrap();
        let error = slots(&mut survivor, 1, EVEN[0], reduction).unwrap_err();
        assert!(matches!(error, StepError::Collective(_)), "{error}");
        survivor.drop_step().unwrap();
        assert_eq!(survivor.state_hash().unwrap(), committed);
    }
    // Alone, it goes on as one that had never had a peer would from the same state.
    let directory = tempfile::tempdir().unwrap();
    let snapshot =
        muster_train::Snapshot::take(&survivor, muster_types::Rank(0), muster_types::WorldSize(1))
            .unwrap();
    let manifest = common::manifest(vec![snapshot.write(directory.path()).unwrap()]);
    let mut fresh = trainer(&spec());
    muster_train::restore(&mut fresh, directory.path(), &manifest).unwrap();
    for trainer in [&mut survivor, &mut fresh] {
        step(trainer, 1, 8, 8, 2);
    }
    assert_eq!(survivor.state_hash().unwrap(), fresh.state_hash().unwrap());
}
