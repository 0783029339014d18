//! Checkpoint manifests, lineage, eligibility, retention and the layout-free state digest.

mod manifest;

pub use manifest::{ExtraFile, FORMAT_VERSION, FileEntry, Manifest, TensorEntry};
