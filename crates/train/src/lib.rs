//! The trainer: model, optimizer and schedule as one state that steps, hashes, and moves to and from checkpoints.
//!
//! A step, as the worker drives it:
//!
//! 1. [`Trainer::begin_step`];
//! 2. [`Trainer::forward_backward`] for each of the rank's slots of the batch, the last one marked
//!    [`SlotOrder::Last`] and given the group's reducer, so that gradients are summed over ranks during its backward;
//! 3. the control all-reduce of the ranks' [`SlotLoss`]es, and [`Trainer::judge`] on their sum and the gradient's norm;
//! 4. [`Trainer::apply`] under the fence, or [`Trainer::drop_step`].
//!
//! Gradients and losses are sums over tokens; [`Trainer::apply`] divides once by the tokens of the global batch, so
//! neither the world size nor the split into slots shows in the result but by rounding.

mod batch;
mod bytes;
mod canonical;
mod fixed_point;
mod guard;
mod hugging_face;
mod masking;
pub mod numerics;
mod optimizer;
mod part;
mod restore;
mod schedule;
mod self_test;
mod shard_reader;
mod shard_writer;
mod snapshot;
mod state_hash;
mod step;
mod step_error;
mod trainer;

pub use batch::{Batch, BatchError};
pub use canonical::CanonicalSum;
pub use fixed_point::{MAX_SLOT_NATS, SlotLoss, UNITS_PER_NAT, nats};
pub use guard::{Scores, Verdict};
pub use hugging_face::{HuggingFaceError, HuggingFaceModel, write_hugging_face_weights};
pub use masking::{Masking, Origin};
pub use part::{part_file_name, part_of};
pub use restore::{RestoreError, restore, restore_model};
pub use schedule::learning_rate;
pub use self_test::{SelfTestError, self_test};
pub use shard_writer::write as write_tensors;
pub use snapshot::{Snapshot, SnapshotError};
pub use step::{Reduction, SlotOrder, Update};
pub use step_error::StepError;
pub use trainer::{TrainError, Trainer};
