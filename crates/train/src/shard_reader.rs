use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use muster_checkpoint::{FileEntry, TensorEntry};
use muster_types::Digest;
use serde_json::Value;
use tch::{Tensor, no_grad};

use crate::{RestoreError, bytes};

/// A checkpoint shard, opened and found to be laid out as its manifest says.
pub(crate) struct ShardReader {
    file: File,
    path: PathBuf,
    /// Where each tensor's bytes lie in the file: first byte and length.
    places: BTreeMap<String, (u64, u64)>,
}

impl ShardReader {
    /// Opens the shard and compares its length and header with the manifest's entry.
    pub(crate) fn open(directory: &Path, entry: &FileEntry) -> Result<Self, RestoreError> {
        let path = directory.join(&entry.file);
        let file = File::open(&path).map_err(|source| match source.kind() {
            // Storage answers, and the shard is not there.
            ErrorKind::NotFound if directory.is_dir() => {
                RestoreError::corrupt(&path, "it is missing")
            }
            _ => RestoreError::storage(&path, source),
        })?;
        let length = file
            .metadata()
            .map_err(|e| RestoreError::storage(&path, e))?
            .len();
        if length != entry.bytes {
            let problem = format!(
                "it has {length} bytes where the manifest says {}",
                entry.bytes
            );
            return Err(RestoreError::corrupt(&path, problem));
        }
        let places = BTreeMap::new();
        let mut reader = Self { file, path, places };
        reader.read_header(entry)?;
        Ok(reader)
    }

    fn read_header(&mut self, entry: &FileEntry) -> Result<(), RestoreError> {
        let mut length = [0; 8];
        self.read(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > entry.bytes.saturating_sub(8) {
            return Err(self.corrupt("its header is longer than the file"));
        }
        let mut text = vec![0; length as usize];
        self.read(&mut text)?;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&text)
            .map_err(|error| self.corrupt(format!("its header is no JSON object: {error}")))?;
        let data = 8 + length;
        let named = header.keys().filter(|name| *name != "__metadata__").count();
        if named != entry.tensors.len() {
            let expected = entry.tensors.len();
            return Err(self.corrupt(format!(
                "it holds {named} tensors where the manifest says {expected}"
            )));
        }
        for tensor in &entry.tensors {
            let name = &tensor.name;
            let described = header.get(name).and_then(|value| place(value, tensor));
            let Some((start, end)) = described.filter(|(_, end)| data + end <= entry.bytes) else {
                return Err(self.corrupt(format!(
                    "its header does not describe {name} as the manifest does"
                )));
            };
            self.places
                .insert(name.clone(), (data + start, end - start));
        }
        Ok(())
    }

    /// Reads one tensor into `target`, whose type and shape are the entry's, and checks its digest.
    pub(crate) fn read_into(
        &mut self,
        entry: &TensorEntry,
        target: &Tensor,
    ) -> Result<(), RestoreError> {
        let place = self.places.get(&entry.name).copied();
        let target = bytes::view(target)?;
        let Some((start, length)) = place.filter(|(_, length)| *length == target.numel() as u64)
        else {
            return Err(self.corrupt(format!(
                "{} has another length than its shape says",
                entry.name
            )));
        };
        self.file
            .seek(SeekFrom::Start(start))
            .map_err(|source| RestoreError::storage(&self.path, source))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; bytes::CHUNK_BYTES];
        for offset in (0..length).step_by(bytes::CHUNK_BYTES) {
            let chunk = &mut buffer[..(length - offset).min(bytes::CHUNK_BYTES as u64) as usize];
            self.read(chunk)?;
            hasher.update(chunk);
            let mut part = target.f_narrow(0, offset as i64, chunk.len() as i64)?;
            no_grad(|| part.f_copy_(&Tensor::f_from_slice(chunk)?))?;
        }
        let digest = Digest::new(*hasher.finalize().as_bytes());
        if digest != entry.digest {
            let problem = format!(
                "{} has digest {digest} where the manifest says {}",
                entry.name, entry.digest
            );
            return Err(self.corrupt(problem));
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), RestoreError> {
        self.file
            .read_exact(into)
            .map_err(|source| match source.kind() {
                ErrorKind::UnexpectedEof => self.corrupt("it ends too early"),
                _ => RestoreError::storage(&self.path, source),
            })
    }

    fn corrupt(&self, problem: impl Into<String>) -> RestoreError {
        RestoreError::corrupt(&self.path, problem)
    }
}

/// The tensor's offsets into the data, if the header's words for it are the manifest's.
fn place(header: &Value, entry: &TensorEntry) -> Option<(u64, u64)> {
    let shape: Vec<u64> = header["shape"]
        .as_array()?
        .iter()
        .map(Value::as_u64)
        .collect::<Option<_>>()?;
    let (start, end) = (
        header["data_offsets"][0].as_u64()?,
        header["data_offsets"][1].as_u64()?,
    );
    let same = header["dtype"].as_str()? == entry.dtype && shape == entry.shape;
    (same && start <= end).then_some((start, end))
}
