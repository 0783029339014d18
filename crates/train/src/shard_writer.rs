use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use muster_checkpoint::{FileEntry, TensorEntry};
use muster_model::NamedTensor;
use muster_types::Digest;
use serde_json::{Map, Value, json};

use crate::{SnapshotError, bytes};

/// safetensors pads its header so that the data starts at a multiple of this.
const HEADER_ALIGNMENT: usize = 8;

/// Writes tensors as the safetensors file `directory/name`, so that it is whole and durable, or absent. The directory is made where
/// there is none. Returns what a manifest says of the file.
///
/// # Errors
/// See [`SnapshotError`].
pub fn write(
    tensors: &[NamedTensor],
    directory: &Path,
    name: &str,
) -> Result<FileEntry, SnapshotError> {
    let storage = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| SnapshotError::Storage {
            action,
            path,
            source,
        }
    };
    fs::create_dir_all(directory).map_err(storage("create", directory))?;
    let (path, temporary) = (
        directory.join(name),
        directory.join(format!(".{name}.partial")),
    );
    let written = (|| -> Result<FileEntry, SnapshotError> {
        let mut file = File::create(&temporary).map_err(storage("create", &temporary))?;
        let entry = stream(tensors, name, |chunk| {
            file.write_all(chunk).map_err(storage("write", &temporary))
        })?;
        file.sync_all()
            .map_err(storage("make durable", &temporary))?;
        fs::rename(&temporary, &path).map_err(storage("rename a new shard to", &path))?;
        Ok(entry)
    })();
    if written.is_err() {
        // The error that led here is the one to report; a leftover has no name that anybody reads.
        let _ = fs::remove_file(&temporary);
    }
    let entry = written?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(storage("make durable", directory))?;
    Ok(entry)
}

/// Puts out the file's bytes in order, and describes them.
fn stream(
    tensors: &[NamedTensor],
    name: &str,
    mut write: impl FnMut(&[u8]) -> Result<(), SnapshotError>,
) -> Result<FileEntry, SnapshotError> {
    let mut file_hasher = blake3::Hasher::new();
    let mut file_bytes = 0_u64;
    let mut put = |chunk: &[u8]| {
        file_hasher.update(chunk);
        file_bytes += chunk.len() as u64;
        write(chunk)
    };
    put(&header(tensors)?)?;

    let mut entries = Vec::with_capacity(tensors.len());
    let mut buffer = Vec::with_capacity(bytes::CHUNK_BYTES);
    for NamedTensor { name, tensor } in tensors {
        let mut hasher = blake3::Hasher::new();
        bytes::for_each_chunk(tensor, &mut buffer, |chunk| {
            hasher.update(chunk);
            put(chunk)
        })?;
        entries.push(TensorEntry {
            name: name.clone(),
            dtype: bytes::dtype(tensor)?.into(),
            shape: bytes::shape(tensor),
            digest: Digest::new(*hasher.finalize().as_bytes()),
        });
    }
    Ok(FileEntry {
        file: name.into(),
        bytes: file_bytes,
        digest: Digest::new(*file_hasher.finalize().as_bytes()),
        tensors: entries,
    })
}

/// The header of a safetensors file: its length as u64, then JSON padded with spaces.
fn header(tensors: &[NamedTensor]) -> Result<Vec<u8>, SnapshotError> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut start = 0;
    for NamedTensor { name, tensor } in tensors {
        let end = start + bytes::size(tensor);
        entries.insert(
            name.clone(),
            json!({
                "dtype": bytes::dtype(tensor)?,
                "shape": bytes::shape(tensor),
                "data_offsets": [start, end],
            }),
        );
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}
