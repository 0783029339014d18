use muster_data::{Dataset, DatasetError, Split, TokenizerError};
use muster_plan::{PlanError, SampleOrder, combine, evidence};
use muster_spec::RunSpec;
use muster_train::Masking;
use muster_types::{Digest, Position, Seed};

/// One slot of the batch, ready to be trained, with the evidence of what is in it.
pub struct SlotBatch {
    /// Token ids: `context_length` + 1 a sample, one sample after the other.
    pub ids: Vec<i64>,
    /// Wrapping sum of hash(position, tokens) over its samples.
    pub evidence: u64,
    /// How many samples it holds.
    pub samples: u64,
}

/// Why a slot could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The dataset could not be read.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// The dataset's tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The data order is inconsistent.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Reads the samples of a data order. It hashes what it hands out, not what the plan says it should have been.
pub struct Feed {
    dataset: Dataset,
    order: SampleOrder,
    context_length: u32,
}

impl Feed {
    /// The training split of `dataset` in the order that `seed` gives, cut into samples of `context_length` + 1 tokens.
    ///
    /// # Errors
    /// [`FeedError::Plan`] where the split holds no sample of that length.
    pub fn new(dataset: Dataset, seed: Seed, context_length: u32) -> Result<Self, FeedError> {
        let order = SampleOrder::new(seed, &dataset.shard_samples(Split::Train, context_length))?;
        Ok(Self {
            dataset,
            order,
            context_length,
        })
    }

    /// Names the dataset's content.
    pub fn dataset_digest(&self) -> Digest {
        self.dataset.digest()
    }

    /// How tokens are hidden from a model that learns to name them.
    ///
    /// # Errors
    /// [`FeedError::Tokenizer`].
    pub fn masking(&self, spec: &RunSpec) -> Result<Masking, FeedError> {
        let tokenizer = self.dataset.tokenizer()?;
        Ok(Masking {
            seed: spec.train.seed,
            fraction: spec.train.mask_fraction,
            mask_id: tokenizer.mask_id().into(),
            vocabulary: tokenizer.vocab_size().into(),
            special: tokenizer.special_ids().into_iter().map(i64::from).collect(),
        })
    }

    /// The samples at `positions`, in order.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn training_slot(&self, positions: std::ops::Range<u64>) -> Result<SlotBatch, FeedError> {
        let samples = positions.end - positions.start;
        let mut ids = Vec::with_capacity(samples as usize * (self.context_length as usize + 1));
        let mut proof = 0;
        for position in positions {
            let sample = self.order.sample(Position(position));
            let start = ids.len();
            self.dataset.read_sample(
                Split::Train,
                sample.shard,
                sample.index,
                self.context_length,
                &mut ids,
            )?;
            proof = combine(proof, evidence(Position(position), &ids[start..]));
        }
        Ok(SlotBatch {
            ids,
            evidence: proof,
            samples,
        })
    }

    /// Held-out samples in file order, at most `limit`: how many there are.
    pub fn held_out_samples(&self, limit: u32) -> u64 {
        let all: u64 = self
            .dataset
            .shard_samples(Split::Validation, self.context_length)
            .iter()
            .sum();
        all.min(limit.into())
    }

    /// The token ids of the held-out samples `range`, in file order: `context_length` + 1 a sample.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn held_out(&self, range: std::ops::Range<u64>) -> Result<Vec<i64>, FeedError> {
        let mut ids = Vec::new();
        let mut first = 0;
        for (shard, samples) in self
            .dataset
            .shard_samples(Split::Validation, self.context_length)
            .into_iter()
            .enumerate()
        {
            for index in range.start.max(first)..range.end.min(first + samples) {
                self.dataset.read_sample(
                    Split::Validation,
                    shard as u32,
                    index - first,
                    self.context_length,
                    &mut ids,
                )?;
            }
            first += samples;
        }
        Ok(ids)
    }
}
