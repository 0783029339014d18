use muster_types::{Digest, JobId, Segment, StateId};
use serde::{Deserialize, Serialize};

/// The manifest format that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What makes a directory a checkpoint: written last, and only if absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Whose state it is.
    pub job: JobId,
    /// Which state it is.
    pub state: StateId,
    /// Tokens trained on up to it.
    pub tokens_seen: u64,
    /// The resolved run spec.
    pub spec: serde_json::Value,
    /// The data order up to it.
    pub segments: Vec<Segment>,
    /// Under which numerics its bits were made.
    pub numerics_fingerprint: String,
    /// Its checkpoint shards.
    pub files: Vec<FileEntry>,
    /// Files beside the tensors, such as `tokenizer.json`.
    pub extra_files: Vec<ExtraFile>,
}

/// A checkpoint shard: a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name inside the checkpoint's directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// blake3 of the whole file.
    pub digest: Digest,
    /// What it holds.
    pub tensors: Vec<TensorEntry>,
}

/// A tensor in a checkpoint shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// `model.…`, `optimizer.exp_avg.…`, `optimizer.exp_avg_sq.…`, `optimizer.step` or `guard.window`.
    pub name: String,
    /// safetensors' word for it: F32, BF16, I64 …
    pub dtype: String,
    /// Extent of each dimension, in elements.
    pub shape: Vec<u64>,
    /// blake3 of the little-endian bytes.
    pub digest: Digest,
}

/// A file beside the tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraFile {
    /// Name inside the checkpoint's directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// blake3 of it.
    pub digest: Digest,
}
