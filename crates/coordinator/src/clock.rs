use std::time::Instant;

use muster_types::{Monotonic, Now, Timestamp};

/// Reads both clocks for the core, which has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    pub(crate) fn now(self) -> Now {
        Now {
            monotonic: Monotonic(self.origin.elapsed()),
            wall: Timestamp(jiff::Timestamp::now().as_microsecond()),
        }
    }

    /// The instant of a reading, for timers.
    pub(crate) fn instant(self, at: Monotonic) -> Instant {
        self.origin + at.0
    }
}
