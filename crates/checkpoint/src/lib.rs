//! Checkpoint manifests, lineage, eligibility, retention and the layout-free state digest.
//!
//! A checkpoint is a directory named after one state ([`directory_name`]) that holds checkpoint shards and a [`Manifest`].
//! [`History`] says which states, and so which checkpoints, lie on the job's one line; [`deletable`] which may go.

mod digest;
mod lineage;
mod manifest;
mod manifest_json;
mod naming;
mod retention;

pub use digest::state_digest;
pub use lineage::History;
pub use manifest::{ExtraFile, FORMAT_VERSION, FileEntry, Manifest, TensorEntry};
pub use manifest_json::ManifestError;
pub use naming::{directory_name, parse_directory_name};
pub use retention::{Committed, deletable};
