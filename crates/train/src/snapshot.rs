use std::{
    io,
    path::{Path, PathBuf},
};

use muster_checkpoint::FileEntry;
use muster_model::NamedTensor;
use muster_types::{Rank, WorldSize};
use tch::{Device, TchError, Tensor, no_grad};

use crate::{Trainer, bytes, part_file_name, part_of, shard_writer};

/// Why a checkpoint shard was not written. Nothing of that name is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Storage refused.
    #[error("cannot {action} {path}: {source}")]
    Storage {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// libtorch refused.
    #[error("libtorch could not read the snapshot: {0}")]
    Torch(#[from] TchError),
}

/// A copy of one rank's part of the state, in main memory: training goes on while it is written.
#[derive(Debug)]
pub struct Snapshot {
    tensors: Vec<NamedTensor>,
    file: String,
}

impl Snapshot {
    /// Copies the rank's part. The state must not change meanwhile; afterwards it may.
    ///
    /// # Errors
    /// libtorch's: memory that ran out.
    pub fn take(trainer: &Trainer, rank: Rank, world: WorldSize) -> Result<Self, TchError> {
        let mut all = trainer.tensors()?;
        let sizes: Vec<u64> = all.iter().map(|named| bytes::size(&named.tensor)).collect();
        let mut tensors = Vec::new();
        for index in part_of(&sizes, rank, world) {
            let live = &all[index].tensor;
            let mut copy = Tensor::f_empty(live.size(), (live.kind(), Device::Cpu))?;
            no_grad(|| copy.f_copy_(live))?;
            let name = std::mem::take(&mut all[index].name);
            tensors.push(NamedTensor { name, tensor: copy });
        }
        let file = part_file_name(rank, world);
        Ok(Self { tensors, file })
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|named| bytes::size(&named.tensor))
            .sum()
    }

    /// Writes the part into `directory`, which is made if it is missing, as a safetensors file: under a temporary name,
    /// made durable, renamed, the directory made durable. Digests are taken from the bytes as they are written.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn write(&self, directory: &Path) -> Result<FileEntry, SnapshotError> {
        shard_writer::write(&self.tensors, directory, &self.file)
    }
}
