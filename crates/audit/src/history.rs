use muster_types::{Digest, Position, Segment, StateId, Step};

/// What was fed over some stretch of a job's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens whose loss was counted.
    pub tokens: u64,
    /// Samples.
    pub samples: u64,
    /// Wrapping sum of hash(position, tokens) over the samples.
    pub evidence: u64,
}

impl Totals {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            samples: self.samples.saturating_add(other.samples),
            evidence: muster_plan::combine(self.evidence, other.evidence),
        }
    }

    /// What came after `before`. Counts that fall are a flaw of the history, and count as nothing here.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(before.tokens),
            samples: self.samples.saturating_sub(before.samples),
            evidence: self.evidence.wrapping_sub(before.evidence),
        }
    }
}

/// What one committed step brought, where that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// The state that it made.
    pub state: StateId,
    /// What it was fed.
    pub fed: Totals,
}

/// An entry of a job's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A stretch of the data order begins.
    Segment(Segment),
    /// Samples were left out because a step looked wrong; the segment that follows begins after them.
    Skipped {
        /// The first position.
        from: Position,
        /// The position after the last.
        to: Position,
    },
    /// A generation was formed.
    Formed {
        /// Which.
        generation: muster_types::Generation,
        /// The state that it started from.
        resume: StateId,
    },
    /// What the job was fed up to a state of its line.
    Watermark {
        /// The state.
        state: StateId,
        /// From the first step on.
        fed: Totals,
    },
    /// Some steps up to a state were never reported: the sum of the watermark there lacks their evidence.
    Gap {
        /// The state.
        state: StateId,
        /// How many steps.
        steps: u64,
    },
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may commit further steps.
    Open,
    /// It is over, before its last step or there.
    Over,
    /// It says that all its steps are done.
    Finished,
}

/// What is known of a job, and what it was to be trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHistory {
    /// Steps in all.
    pub total_steps: Step,
    /// Sequences a step.
    pub global_batch: u32,
    /// Tokens of a sequence that have a loss.
    pub context_length: u32,
    /// The dataset that it was submitted with.
    pub dataset: Digest,
    /// Whether more is to come.
    pub standing: Standing,
    /// The newest step that is known to be committed.
    pub committed: Step,
    /// In the order in which they were journaled.
    pub facts: Vec<Fact>,
}
