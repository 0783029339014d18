use std::ops::Range;

use muster_plan::PlanError;
use muster_types::{Digest, Generation, Position, StateId, Step};

/// What is wrong with a history, whatever was fed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The data order has a hole or an overlap.
    #[error(
        "the segment from step {step} starts at position {found}, but the steps before it end at position {expected}"
    )]
    NotContiguous {
        /// Where the segment starts.
        step: Step,
        /// Its first position.
        found: Position,
        /// The position that is next.
        expected: Position,
    },
    /// Other samples were left out than those that came next.
    #[error(
        "before the segment from step {step} the positions {skipped:?} were skipped, but the steps before it end at position {expected}"
    )]
    OtherSkip {
        /// Where the segment starts.
        step: Step,
        /// What was skipped.
        skipped: Range<u64>,
        /// The position that is next.
        expected: Position,
    },
    /// The data order does not start with the job.
    #[error("the first segment starts at step {step}, not with the first step")]
    LateStart {
        /// Where it starts.
        step: Step,
    },
    /// Not the global batch of the spec.
    #[error(
        "the segment from step {step} has a global batch of {found}, but the spec says {expected}"
    )]
    OtherBatch {
        /// Where the segment starts.
        step: Step,
        /// Its global batch.
        found: u32,
        /// The spec's.
        expected: u32,
    },
    /// Not the dataset of the submit.
    #[error(
        "the segment from step {step} is of dataset {found}, but the job was submitted with {expected}"
    )]
    OtherDataset {
        /// Where the segment starts.
        step: Step,
        /// Its dataset.
        found: Digest,
        /// The submission's.
        expected: Digest,
    },
    /// The data order names no positions for steps that were committed.
    #[error("what steps {from} to {to} should have trained on cannot be said: {error}")]
    NoPlan {
        /// The first of them.
        from: Step,
        /// The last of them.
        to: Step,
        /// Why.
        error: PlanError,
    },
    /// Generations are numbered upwards.
    #[error("generation {generation} was formed after generation {newest}")]
    NotNewer {
        /// Formed later.
        generation: Generation,
        /// Formed before.
        newest: Generation,
    },
    /// Two branches.
    #[error(
        "generation {generation} started from {resume}, which does not lie on the one line of the job"
    )]
    ResumeOffLine {
        /// Which generation.
        generation: Generation,
        /// Where it started.
        resume: StateId,
    },
    /// A sum over another branch.
    #[error("the watermark of {state} does not lie on the one line of the job")]
    MarkOffLine {
        /// Its state.
        state: StateId,
    },
    /// Counts only rise.
    #[error("the watermark of {state} counts fewer samples than the one of step {before}")]
    MarkFalls {
        /// Its state.
        state: StateId,
        /// The watermark before it.
        before: Step,
    },
    /// Two sums for one stretch.
    #[error("two watermarks of {state} say different things")]
    MarksContradict {
        /// Their state.
        state: StateId,
    },
    /// Less than everything.
    #[error("the job is finished, but only {committed} of its {total} steps are on its line")]
    NotDone {
        /// Steps on the line.
        committed: Step,
        /// Steps in all.
        total: Step,
    },
}
