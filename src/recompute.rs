use std::{ops::Range, path::Path};

use muster_data::{Dataset, DatasetError, Split};
use muster_plan::{SampleOrder, combine, evidence};
use muster_types::{Digest, Position, Seed};
use rayon::prelude::*;

use crate::failure::Failure;

/// A dataset in the order in which a job goes through it: what workers should have fed, read without them.
pub struct Recompute {
    dataset: Dataset,
    order: SampleOrder,
    context_length: u32,
}

impl Recompute {
    /// Opens the dataset at `path`, which has to be the one with the digest `expected`.
    pub fn open(
        path: &Path,
        expected: Digest,
        seed: Seed,
        context_length: u32,
    ) -> Result<Self, Failure> {
        let dataset = Dataset::open(path).map_err(|error| {
            Failure::operation(error).help(
                "the job's dataset is needed; if it was moved, name where it is now with --data",
            )
        })?;
        let found = dataset.digest();
        if found != expected {
            return Err(Failure::operation(format!(
                "the dataset at {} is not the one that the job was trained on: its index has blake3 {found}, but the job's \
                 history says {expected}",
                path.display()
            ))
            .help("name the job's own dataset with --data; if this should be it, it was changed after the job was submitted"));
        }
        let samples = dataset.shard_samples(Split::Train, context_length);
        let order = SampleOrder::new(seed, &samples).map_err(Failure::operation)?;
        Ok(Self {
            dataset,
            order,
            context_length,
        })
    }

    /// The evidence of the samples at each of some stretches of positions.
    pub fn evidence(&self, stretches: &[Range<u64>]) -> Result<Vec<u64>, DatasetError> {
        let of_stretch = |tokens: &mut Vec<i64>, stretch: &Range<u64>| {
            let mut sum = 0;
            for position in stretch.clone().map(Position) {
                let sample = self.order.sample(position);
                tokens.clear();
                self.dataset.read_sample(
                    Split::Train,
                    sample.shard,
                    sample.index,
                    self.context_length,
                    tokens,
                )?;
                sum = combine(sum, evidence(position, tokens));
            }
            Ok(sum)
        };
        let stretches = stretches.par_iter();
        stretches.map_init(Vec::new, of_stretch).collect()
    }
}
