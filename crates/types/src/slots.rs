use serde::{Deserialize, Serialize};

use crate::{Digest, Position, Rank, Step};

/// The slots of the batch, `first .. first + count`, that one rank trains in every step of a generation.
/// Slot k holds the step's sequences `k * micro_batch .. (k + 1) * micro_batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSlots {
    /// Who trains them.
    pub rank: Rank,
    /// The first slot.
    pub first: u32,
    /// How many; at least one.
    pub count: u32,
}

/// A journaled stretch of a job's data order. Within it, step s (0-based: the step that makes state s+1) trains the
/// positions `start_position + (s - start_step) * global_batch ..` of length `global_batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Committed steps before the segment's first step.
    pub start_step: Step,
    /// Position of that step's first sample.
    pub start_position: Position,
    /// Sequences a step.
    pub global_batch: u32,
    /// blake3 of the dataset's `index.json`.
    pub dataset_digest: Digest,
}
