//! An operation in flight.
use std::sync::Arc;

use cxx::UniquePtr;

use crate::group::Inner;
use crate::{CollectiveError, ffi};

/// A collective that was started. It keeps its tensors alive until it is over.
///
/// On a GPU it runs on a stream of its own; [`wait`](Self::wait) blocks the host until it is done, and orders the
/// current stream after it.
#[derive(Debug)]
#[must_use = "an operation is over, and its outcome known, only after `wait`"]
pub struct Work {
    raw: Raw,
    operation: &'static str,
    group: Arc<Inner>,
}

struct Raw(UniquePtr<ffi::Work>);
// SAFETY: c10d's Work guards its state with a mutex, and is made to be waited for by another thread than its maker.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Work {
    pub(crate) fn new(
        raw: UniquePtr<ffi::Work>,
        operation: &'static str,
        group: Arc<Inner>,
    ) -> Self {
        Self {
            raw: Raw(raw),
            operation,
            group,
        }
    }

    /// Blocks until the operation is over on this rank.
    ///
    /// `Ok` only if the group was not aborted meanwhile: an aborted NCCL kernel can end as if it had succeeded.
    pub fn wait(self) -> Result<(), CollectiveError> {
        ffi::work_wait(&self.raw.0)
            .map_err(|error| self.group.explain(self.operation, error.what()))?;
        self.group.alive(self.operation)
    }

    /// Whether the operation is over, well or not: [`wait`](Self::wait) would not block.
    pub fn is_done(&self) -> bool {
        // What cannot be asked has failed, and waiting says how.
        ffi::work_done(&self.raw.0).unwrap_or(true)
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw")
    }
}
