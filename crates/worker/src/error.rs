use muster_c10d::{CollectiveError, GroupError};
use muster_plan::PlanError;
use muster_train::BatchError;
use muster_types::{Digest, Generation, Step};

use crate::{feed::FeedError, fence::Superseded, heal::HealError};

/// Why a rank left a generation before its end. [`GenerationError::class`] tells the coordinator whose fault it was.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The generation is over.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// The collectives could not be built.
    #[error("cannot build the generation's collectives: {0}")]
    Group(#[from] GroupError),
    /// A collective failed: a peer is gone, or the group was aborted.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The state could not be healed.
    #[error(transparent)]
    Heal(#[from] HealError),
    /// Samples could not be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The data order is inconsistent.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The samples do not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The step failed.
    #[error(transparent)]
    Step(#[from] muster_train::StepError),
    /// libtorch refused.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// The node reads another dataset than the job was submitted with.
    #[error(
        "the dataset here has the digest {here}, the job's has {wanted}; put the same files at data.path on every node"
    )]
    OtherDataset {
        /// What this node reads.
        here: Digest,
        /// What the job trains on.
        wanted: Digest,
    },
    /// The ranks' states differ between two steps. The coordinator is told each one's hash, and judges.
    #[error("the ranks' states of step {step} differ: {hashes:016x?}; this rank's is {mine:016x}")]
    Diverged {
        /// Committed steps.
        step: Step,
        /// This rank's hash.
        mine: u64,
        /// All ranks' hashes, by rank.
        hashes: Vec<u64>,
    },
}

impl GenerationError {
    /// The generation is over.
    pub fn over(generation: Generation) -> Self {
        Self::Superseded(Superseded(generation))
    }

    /// What the rank was about: `Failed.phase` on the wire.
    pub fn phase(&self) -> &'static str {
        match self {
            Self::Group(_) => "building",
            Self::Heal(_) => "healing",
            _ => "training",
        }
    }

    /// Whether a device of this rank is at fault, whatever operation has noticed it.
    fn is_of_the_device(&self) -> bool {
        let words = self.to_string();
        words.contains("CUDA error") || words.contains("out of memory")
    }

    /// collective, data, memory, divergence, state, storage or other: `Failed.class` on the wire.
    pub fn class(&self) -> &'static str {
        use muster_train::StepError;
        match self {
            Self::Group(error) if error.is_own_fault() => "other",
            Self::Group(_)
            | Self::Collective(_)
            | Self::Step(_)
            | Self::Torch(_)
            | Self::Heal(_)
                if self.is_of_the_device() =>
            {
                "memory"
            }
            Self::Superseded(_)
            | Self::Group(_)
            | Self::Collective(_)
            | Self::Step(StepError::Collective(_)) => "collective",
            Self::Heal(error) => match error {
                HealError::Superseded(_) | HealError::Collective(_) => "collective",
                HealError::Checkpoint { .. } => "storage",
                HealError::Init { .. } => "data",
                HealError::Train(_) | HealError::Torch(_) => "other",
                HealError::NotASource { .. } | HealError::Diverged { .. } => "state",
            },
            Self::Feed(_) | Self::Plan(_) | Self::Batch(_) | Self::OtherDataset { .. } => "data",
            Self::Step(StepError::NotFinite { .. }) => "divergence",
            Self::Diverged { .. } | Self::Step(StepError::StateInvalid { .. }) => "state",
            Self::Step(_) | Self::Torch(_) => "other",
        }
    }
}
