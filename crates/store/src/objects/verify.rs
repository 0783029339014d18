use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use muster_checkpoint::{FileEntry, Manifest, TensorEntry};
use muster_types::Digest;
use object_store::{ObjectStoreExt, local::LocalFileSystem, path::Path};
use safetensors::tensor::Metadata;

use super::ObjectsError;

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 8 << 20;
/// The length of a safetensors header stands in the first eight bytes, little-endian.
const HEADER_LENGTH_BYTES: u64 = 8;
/// safetensors' own bound.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What was read and found to be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files, those beside the tensors included.
    pub files: u64,
    /// Tensors.
    pub tensors: u64,
    /// Bytes read.
    pub bytes: u64,
}

pub(super) async fn verify(
    storage: &LocalFileSystem,
    uri: &str,
    manifest: &Manifest,
) -> Result<Verified, ObjectsError> {
    let mut verified = Verified::default();
    for entry in &manifest.files {
        let reader = Reader {
            storage,
            uri,
            file: &entry.file,
        };
        let (digest, tensors) = reader.shard(entry).await?;
        reader.compare("blake3", &entry.digest, &digest)?;
        reader.compare_tensors(&entry.tensors, &tensors)?;
        verified.files += 1;
        verified.tensors += tensors.len() as u64;
        verified.bytes += entry.bytes;
    }
    for entry in &manifest.extra_files {
        let reader = Reader {
            storage,
            uri,
            file: &entry.file,
        };
        reader.check_length(entry.bytes).await?;
        let mut hasher = blake3::Hasher::new();
        reader
            .stream(0..entry.bytes, |chunk| {
                hasher.update(chunk);
            })
            .await?;
        reader.compare("blake3", &entry.digest, &finish(&hasher))?;
        verified.files += 1;
        verified.bytes += entry.bytes;
    }
    Ok(verified)
}

struct Reader<'a> {
    storage: &'a LocalFileSystem,
    uri: &'a str,
    file: &'a str,
}

impl Reader<'_> {
    /// One pass over a checkpoint shard: the digest of the file and of each tensor in it.
    async fn shard(&self, entry: &FileEntry) -> Result<(Digest, Vec<TensorEntry>), ObjectsError> {
        self.check_length(entry.bytes).await?;
        let mut whole = blake3::Hasher::new();
        if entry.bytes < HEADER_LENGTH_BYTES {
            return Err(self.corrupt("it is too short for a safetensors file"));
        }
        let prefix = self.read(0..HEADER_LENGTH_BYTES).await?;
        let length = prefix
            .iter()
            .rev()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let body = HEADER_LENGTH_BYTES.saturating_add(length);
        if length > MAX_HEADER_BYTES || body > entry.bytes {
            return Err(self.corrupt(&format!("its header claims {length} bytes")));
        }
        let header = self.read(HEADER_LENGTH_BYTES..body).await?;
        whole.update(&prefix).update(&header);
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| self.corrupt(&format!("its header does not parse: {e}")))?;
        if body + metadata.data_len() as u64 != entry.bytes {
            return Err(self.corrupt("its tensors do not fill it"));
        }
        let mut tensors = Vec::new();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else {
                continue;
            };
            let (start, end) = info.data_offsets;
            let mut one = blake3::Hasher::new();
            self.stream(body + start as u64..body + end as u64, |chunk| {
                whole.update(chunk);
                one.update(chunk);
            })
            .await?;
            tensors.push(TensorEntry {
                dtype: info.dtype.to_string(),
                shape: info.shape.iter().map(|extent| *extent as u64).collect(),
                digest: finish(&one),
                name,
            });
        }
        Ok((finish(&whole), tensors))
    }

    async fn check_length(&self, expected: u64) -> Result<(), ObjectsError> {
        match self.storage.head(&Path::from(self.file)).await {
            Ok(found) if found.size == expected => Ok(()),
            Ok(found) => {
                let size = found.size;
                Err(self.corrupt(&format!(
                    "it has {size} bytes, the manifest says {expected}"
                )))
            }
            Err(object_store::Error::NotFound { .. }) => Err(self.corrupt("it is missing")),
            Err(source) => Err(self.storage_error(source)),
        }
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, ObjectsError> {
        self.storage
            .get_range(&Path::from(self.file), range)
            .await
            .map_err(|source| self.storage_error(source))
    }

    async fn stream(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(), ObjectsError> {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + WINDOW_BYTES);
            visit(&self.read(start..end).await?);
            start = end;
        }
        Ok(())
    }

    fn compare(&self, what: &str, expected: &Digest, found: &Digest) -> Result<(), ObjectsError> {
        if expected == found {
            return Ok(());
        }
        Err(self.corrupt(&format!(
            "its {what} is {found}, the manifest says {expected}"
        )))
    }

    fn compare_tensors(
        &self,
        expected: &[TensorEntry],
        found: &[TensorEntry],
    ) -> Result<(), ObjectsError> {
        let by_name = |entries: &[TensorEntry]| -> BTreeMap<String, TensorEntry> {
            entries
                .iter()
                .map(|entry| (entry.name.clone(), entry.clone()))
                .collect()
        };
        let (expected, found) = (by_name(expected), by_name(found));
        for (name, tensor) in &expected {
            match found.get(name) {
                None => return Err(self.corrupt(&format!("it lacks the tensor {name}"))),
                Some(other) if other != tensor => {
                    return Err(
                        self.corrupt(&format!("the tensor {name} differs from the manifest"))
                    );
                }
                Some(_) => {}
            }
        }
        match found.keys().find(|name| !expected.contains_key(*name)) {
            Some(name) => Err(self.corrupt(&format!(
                "it holds the tensor {name}, unknown to the manifest"
            ))),
            None => Ok(()),
        }
    }

    fn corrupt(&self, reason: &str) -> ObjectsError {
        ObjectsError::corrupt(self.uri, format!("{}: {reason}", self.file))
    }

    fn storage_error(&self, source: object_store::Error) -> ObjectsError {
        ObjectsError::Storage {
            uri: format!("{}/{}", self.uri, self.file),
            source,
        }
    }
}

fn finish(hasher: &blake3::Hasher) -> Digest {
    Digest::new(*hasher.finalize().as_bytes())
}
