use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use muster_checkpoint::{Manifest, TensorEntry};
use muster_model::{Model, NamedTensor};
use tch::{TchError, Tensor};

use crate::{
    Trainer, bytes, guard::GUARD_WINDOW, shard_reader::ShardReader, trainer::model_tensors,
};

/// Why a state could not be read. The state that was to be overwritten is invalid: heal it, or restore another.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Storage does not answer; the checkpoint may be whole. Wait and try again.
    #[error("cannot read {path}: {source}")]
    Storage {
        /// What was read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The checkpoint is damaged. Use an older one.
    #[error("the checkpoint shard {path} is corrupt: {problem}")]
    Corrupt {
        /// The damaged shard.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint is of another model or optimizer than the run spec's.
    #[error("the checkpoint does not fit the run spec: {problem}")]
    OtherState {
        /// The first difference.
        problem: String,
    },
    /// libtorch refused.
    #[error("libtorch could not take the restored state: {0}")]
    Torch(#[from] TchError),
}

impl RestoreError {
    pub(crate) fn storage(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        Self::Storage { path, source }
    }

    pub(crate) fn corrupt(path: &Path, problem: impl Into<String>) -> Self {
        let (path, problem) = (path.into(), problem.into());
        Self::Corrupt { path, problem }
    }
}

/// Overwrites the trainer's whole state with a checkpoint's, written at any world size. Every tensor's name, type, shape
/// and digest is checked. Drops any step in flight.
///
/// # Errors
/// See [`RestoreError`]; the trainer's state is then invalid.
pub fn restore(
    trainer: &mut Trainer,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), RestoreError> {
    muster_ops::clear_grads(&trainer.parameters())
        .map_err(|error| TchError::Torch(error.to_string()))?;
    trainer.summed_norm = None;
    trainer.guard.forget();
    let tensors = trainer.tensors()?;
    let known: usize = manifest.files.iter().map(|file| file.tensors.len()).sum();
    let mut targets = index(tensors);
    let stored = |name: &str| {
        let mut entries = manifest.files.iter().flat_map(|file| &file.tensors);
        entries.any(|entry| entry.name == name)
    };
    if !stored(GUARD_WINDOW) {
        // Written before there was one: it fills again.
        trainer.guard.reset()?;
        targets.remove(GUARD_WINDOW);
    }
    for entry in manifest.files.iter().flat_map(|file| &file.tensors) {
        if !targets.contains_key(entry.name.as_str()) {
            let problem = format!("{} is not part of the run's state", entry.name);
            return Err(RestoreError::OtherState { problem });
        }
    }
    if known > targets.len() {
        let problem = format!(
            "it holds {known} tensors where the state has {}",
            targets.len()
        );
        return Err(RestoreError::OtherState { problem });
    }
    load(targets, directory, manifest)
}

/// Overwrites a model's parameters with a checkpoint's and leaves its optimizer state unread.
///
/// # Errors
/// See [`RestoreError`]; the model's parameters are then invalid.
pub fn restore_model(
    model: &dyn Model,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), RestoreError> {
    load(index(model_tensors(model)?), directory, manifest)
}

fn index(tensors: Vec<NamedTensor>) -> BTreeMap<String, Tensor> {
    tensors
        .into_iter()
        .map(|named| (named.name, named.tensor))
        .collect()
}

/// Fills every target from the shard that holds it.
fn load(
    mut targets: BTreeMap<String, Tensor>,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), RestoreError> {
    for file in &manifest.files {
        if !file
            .tensors
            .iter()
            .any(|entry| targets.contains_key(&entry.name))
        {
            continue;
        }
        let mut shard = ShardReader::open(directory, file)?;
        for entry in &file.tensors {
            if let Some(target) = targets.remove(&entry.name) {
                fits(entry, &target)?;
                shard.read_into(entry, &target)?;
            }
        }
    }
    match targets.keys().next() {
        None => Ok(()),
        Some(name) => Err(RestoreError::OtherState {
            problem: format!("it has no {name}"),
        }),
    }
}

/// Whether a stored tensor is of its target's type and shape.
fn fits(entry: &TensorEntry, target: &Tensor) -> Result<(), RestoreError> {
    let (dtype, shape) = (bytes::dtype(target)?, bytes::shape(target));
    if entry.dtype == dtype && entry.shape == shape {
        return Ok(());
    }
    let TensorEntry {
        name,
        dtype: stored_dtype,
        shape: stored_shape,
        ..
    } = entry;
    let problem =
        format!("{name} is {stored_dtype} {stored_shape:?} where the model has {dtype} {shape:?}");
    Err(RestoreError::OtherState { problem })
}
