//! What outlives a process: the coordinator's journal in SQLite, and checkpoints in object storage.

mod journal;
mod objects;

pub use journal::{Entry, Journal, JournalError, JournalReader};
pub use objects::{
    Checkpoint, CheckpointStore, Commit, Location, ObjectsError, Verified, find_checkpoints,
};
