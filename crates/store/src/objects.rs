//! Checkpoints in object storage: committed by a manifest that is put only if absent, found, verified and removed.

mod checkpoint;
mod error;
mod find;
mod location;
mod store;
mod verify;

pub use checkpoint::Checkpoint;
pub use error::ObjectsError;
pub use find::find_checkpoints;
pub use location::Location;
pub use store::{CheckpointStore, Commit};
pub use verify::Verified;

/// The file that makes a directory a checkpoint.
const MANIFEST: &str = "manifest.json";

#[cfg(test)]
mod tests;
