use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Generation, Step};

/// The name of one committed state. A step number alone names nothing: two ranks "at step 1000" of different generations
/// hold different bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateId {
    /// The generation in which the step was committed (0: the initial state, made from the seed).
    pub generation: Generation,
    /// Committed optimizer steps.
    pub step: Step,
}

impl StateId {
    /// The state that a fresh job starts from.
    pub const INITIAL: Self = Self {
        generation: Generation(0),
        step: Step(0),
    };

    /// Names the state of `step`, committed in `generation`.
    pub const fn new(generation: Generation, step: Step) -> Self {
        Self { generation, step }
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} of generation {}", self.step, self.generation)
    }
}
