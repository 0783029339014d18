use muster_types::StateId;

/// What a job has been trained on up to one state of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The state.
    pub state: StateId,
    /// Tokens whose loss was counted.
    pub tokens: u64,
    /// Wrapping sum of the evidence of the samples that were fed.
    pub evidence: u64,
    /// Samples that were fed.
    pub samples: u64,
}

impl Totals {
    /// Of the initial state.
    pub const ZERO: Self = Self {
        state: StateId::INITIAL,
        tokens: 0,
        evidence: 0,
        samples: 0,
    };
}
