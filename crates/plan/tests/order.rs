//! The data order: every sample once an epoch, well mixed, and never another than it was.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use muster_plan::{PlanError, SampleOrder, SampleRef};
use muster_types::{Position, Seed};
use proptest::prelude::*;

fn order(seed: u64, shards: &[u64]) -> SampleOrder {
    SampleOrder::new(Seed(seed), shards).unwrap()
}

fn epoch(order: &SampleOrder, epoch: u64) -> Vec<SampleRef> {
    let samples = order.samples_per_epoch();
    (epoch * samples..(epoch + 1) * samples)
        .map(|position| order.sample(Position(position)))
        .collect()
}

/// Counts over all shards, in place of (shard, index).
fn flat(shards: &[u64], sample: SampleRef) -> u64 {
    shards[..sample.shard as usize].iter().sum::<u64>() + sample.index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sizes around those of a block, so that remainders, single blocks and empty shards all occur.
    #[test]
    fn an_epoch_visits_every_sample_once(
        seed in any::<u64>(),
        shards in proptest::collection::vec(prop_oneof![Just(0u64), 1..40u64, 900..1200u64, 2000..5000u64], 1..6),
        which in prop_oneof![0u64..3, Just(1 << 40)],
    ) {
        prop_assume!(shards.iter().sum::<u64>() > 0);
        let order = order(seed, &shards);
        let visited: BTreeSet<_> = epoch(&order, which).into_iter().collect();
        let expected: BTreeSet<_> = shards
            .iter()
            .zip(0..)
            .flat_map(|(&samples, shard)| (0..samples).map(move |index| SampleRef { epoch: which, shard, index }))
            .collect();
        prop_assert_eq!(visited, expected);
    }

    #[test]
    fn any_position_has_a_sample(seed in any::<u64>(), shards in proptest::collection::vec(0..1u64 << 40, 1..50), position in any::<u64>()) {
        prop_assume!(shards.iter().sum::<u64>() > 0);
        let order = order(seed, &shards);
        let sample = order.sample(Position(position));
        prop_assert_eq!(sample.epoch, position / order.samples_per_epoch());
        prop_assert!(sample.index < shards[sample.shard as usize]);
    }
}

/// Larger than one window, with a remainder that fills no block.
#[test]
fn an_epoch_of_many_windows_visits_every_sample_once() {
    let shards = [150_000, 0, 70_001, 3];
    let order = order(3, &shards);
    for which in [0, 1] {
        let visited = epoch(&order, which);
        let places: BTreeSet<_> = visited
            .iter()
            .map(|&sample| flat(&shards, sample))
            .collect();
        assert_eq!(
            (places.len(), places.first(), places.last()),
            (220_004, Some(&0), Some(&220_003))
        );
    }
}

#[test]
fn seeds_and_epochs_differ() {
    let shards = [5000];
    let base = order(1, &shards);
    let places = |order: &SampleOrder, which| {
        epoch(order, which)
            .iter()
            .map(|sample| sample.index)
            .collect::<Vec<_>>()
    };
    let first = places(&base, 0);
    let same_place = |other: Vec<u64>| first.iter().zip(&other).filter(|(a, b)| a == b).count();
    // Two random permutations agree in one place on average; in ten or more once in ten million.
    assert!(same_place(places(&base, 1)) < 10);
    assert!(same_place(places(&order(2, &shards), 0)) < 10);
    assert_eq!(places(&order(1, &shards), 0), first);
}

#[test]
fn neighbours_are_torn_apart() {
    let shards = [30_000, 30_000];
    let order = order(11, &shards);
    let places: Vec<f64> = epoch(&order, 0)
        .iter()
        .map(|&sample| flat(&shards, sample) as f64)
        .collect();
    let n = places.len() as f64;
    // Mean distance of two random places is n/3; its standard error here is about n/1000.
    let distance = places
        .windows(2)
        .map(|pair| (pair[0] - pair[1]).abs())
        .sum::<f64>()
        / (n - 1.0);
    assert!(
        (distance / n - 1.0 / 3.0).abs() < 0.01,
        "mean distance {distance} of {n}"
    );
    // Each sixteenth of the epoch sees each sixteenth of the dataset about equally often.
    let mut counts = [[0f64; 16]; 16];
    for (position, place) in places.iter().enumerate() {
        counts[(position as f64 / n * 16.0) as usize][(place / n * 16.0) as usize] += 1.0;
    }
    let expected = n / 256.0;
    let chi_square: f64 = counts
        .iter()
        .flatten()
        .map(|count| (count - expected).powi(2) / expected)
        .sum();
    // 15 x 15 = 225 degrees of freedom: standard deviation 21.
    assert!(chi_square < 225.0 + 6.0 * 21.2, "chi-square {chi_square}");
}

/// Within a window, samples come from a few runs of the dataset, so that reading stays local.
#[test]
fn a_window_reads_few_runs() {
    let order = order(5, &[1 << 30]);
    let blocks: BTreeSet<u64> = (0..65_536)
        .map(|position| order.sample(Position(position)).index / 1024)
        .collect();
    assert!((64..=66).contains(&blocks.len()), "{} blocks", blocks.len());
    let spread = blocks.last().unwrap() - blocks.first().unwrap();
    assert!(
        spread > 1 << 19,
        "the blocks of a window come from all over the dataset: {spread}"
    );
}

/// These answers are part of the format: a change to them would break every job that resumes.
#[test]
fn known_answers() {
    let order = order(42, &[100_000, 1, 250_000]);
    let answers: Vec<_> = [0, 1, 2, 65_535, 65_536, 350_000, 350_001, 700_001, 1 << 50]
        .map(|position| {
            let sample = order.sample(Position(position));
            (sample.epoch, sample.shard, sample.index)
        })
        .to_vec();
    assert_eq!(
        answers,
        [
            (0, 0, 94281),
            (0, 2, 59537),
            (0, 0, 85194),
            (0, 0, 74746),
            (0, 2, 33868),
            (0, 2, 82471),
            (1, 2, 208337),
            (1, 0, 14044),
            (3216847685, 2, 13458)
        ]
    );
}

#[test]
fn datasets_without_samples_are_refused() {
    assert_eq!(
        SampleOrder::new(Seed(1), &[]).unwrap_err(),
        PlanError::NoSamples
    );
    assert_eq!(
        SampleOrder::new(Seed(1), &[0, 0]).unwrap_err(),
        PlanError::NoSamples
    );
    assert_eq!(
        SampleOrder::new(Seed(1), &[u64::MAX, 2]).unwrap_err(),
        PlanError::TooManySamples
    );
    assert_eq!(
        SampleOrder::new(Seed(1), &[1 << 63, 1]).unwrap_err(),
        PlanError::TooManySamples
    );
    assert_eq!(
        order(1, &[1]).sample(Position(7)),
        SampleRef {
            epoch: 7,
            shard: 0,
            index: 0
        }
    );
}
