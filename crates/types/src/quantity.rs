use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub $inner);

        impl $type {
            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity! {
    /// One agreed membership of a job, and the fencing token that every message, store key and checkpoint carries. 0: none yet.
    Generation(u64)
}
quantity! {
    /// Committed optimizer steps. The state of step s is what s steps have made of the initial state.
    Step(u64)
}
quantity! {
    /// A worker's index in a generation.
    Rank(u32)
}
quantity! {
    /// The number of workers in a generation.
    WorldSize(u32)
}
quantity! {
    /// A sample's place in a job's data order, counted over all epochs from 0.
    Position(u64)
}
quantity! {
    /// What all of a job's randomness is derived from.
    Seed(u64)
}

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Step {
    /// The step after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
