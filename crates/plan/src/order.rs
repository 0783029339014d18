use muster_types::{Position, Seed};

use crate::{
    PlanError,
    permutation::{Permutation, key},
};

/// Neighbouring samples that stay together in the first shuffle, so that a data shard is read in runs.
const BLOCK_SAMPLES: u64 = 1024;
/// Samples that the second shuffle mixes: 64 blocks from all over the dataset. A smaller dataset is shuffled as a whole.
const WINDOW_SAMPLES: u64 = 64 * BLOCK_SAMPLES;

// What keeps the keys of the three uses apart.
const KEY_BLOCKS: u64 = 1;
const KEY_REMAINDER: u64 = 2;
const KEY_WINDOW: u64 = 3;

/// One sample of the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleRef {
    /// How often the dataset had been gone through before, counted from 0.
    pub epoch: u64,
    /// Index of the data shard.
    pub shard: u32,
    /// Index of the sample in the data shard.
    pub index: u64,
}

/// The order in which a job sees its samples: a pure function of seed, epoch and position.
///
/// An epoch is the dataset's samples, shard after shard, cut into blocks of 1024 neighbours. The blocks are put in a keyed
/// order; then the samples in each window of 65,536 positions are put in a keyed order. Both are Feistel permutations, so
/// any position is found in O(log shards) with nothing but the shards' sizes in memory.
/// The order is part of a job's history: a change to it would break every resumed job, so known answers pin it.
#[derive(Clone, Debug)]
pub struct SampleOrder {
    seed: Seed,
    /// Entry k: samples in all shards up to and including k.
    ends: Vec<u64>,
    samples: u64,
}

impl SampleOrder {
    /// The order over data shards of these many samples each. Shards without a sample are allowed.
    ///
    /// # Errors
    /// When there is no sample at all, or more than 2^63.
    pub fn new(seed: Seed, shard_samples: &[u64]) -> Result<Self, PlanError> {
        let mut samples = 0u64;
        let mut ends = Vec::with_capacity(shard_samples.len());
        for &shard in shard_samples {
            samples = samples
                .checked_add(shard)
                .filter(|&sum| sum <= 1 << 63)
                .ok_or(PlanError::TooManySamples)?;
            ends.push(samples);
        }
        if samples == 0 {
            return Err(PlanError::NoSamples);
        }
        Ok(Self {
            seed,
            ends,
            samples,
        })
    }

    /// Samples in an epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        self.samples
    }

    /// The sample at a position of the data order.
    pub fn sample(&self, position: Position) -> SampleRef {
        let epoch = position.get() / self.samples;
        let place = self.in_window(epoch, position.get() % self.samples);
        let sample = self.in_blocks(epoch, place);
        let shard = self.ends.partition_point(|&end| end <= sample);
        let before = if shard == 0 { 0 } else { self.ends[shard - 1] };
        // A shard is a file; there are fewer than 2^32 of them.
        SampleRef {
            epoch,
            shard: shard as u32,
            index: sample - before,
        }
    }

    /// The second shuffle: places within one window.
    fn in_window(&self, epoch: u64, place: u64) -> u64 {
        let window = place / WINDOW_SAMPLES;
        let start = window * WINDOW_SAMPLES;
        let len = WINDOW_SAMPLES.min(self.samples - start);
        start
            + Permutation::new(len, key(&[self.seed.get(), epoch, KEY_WINDOW, window]))
                .apply(place - start)
    }

    /// The first shuffle: whole blocks. The remainder that fills no block has a keyed place between them, so that all other
    /// blocks keep one length and can be found by division.
    fn in_blocks(&self, epoch: u64, place: u64) -> u64 {
        let blocks = self.samples / BLOCK_SAMPLES;
        let remainder = self.samples % BLOCK_SAMPLES;
        let remainder_start =
            key(&[self.seed.get(), epoch, KEY_REMAINDER]) % (blocks + 1) * BLOCK_SAMPLES;
        let place = if place < remainder_start {
            place
        } else if place < remainder_start + remainder {
            return blocks * BLOCK_SAMPLES + (place - remainder_start);
        } else {
            place - remainder
        };
        let order = Permutation::new(blocks, key(&[self.seed.get(), epoch, KEY_BLOCKS]));
        order.apply(place / BLOCK_SAMPLES) * BLOCK_SAMPLES + place % BLOCK_SAMPLES
    }
}
