use muster_checkpoint::{Manifest, ManifestError};
use muster_types::Digest;
use object_store::{ObjectStoreExt, local::LocalFileSystem, path::Path};

use super::{Location, MANIFEST, ObjectsError, Verified, verify};

/// A committed checkpoint: a directory with a manifest.
#[derive(Debug)]
pub struct Checkpoint {
    uri: String,
    storage: LocalFileSystem,
    manifest: Manifest,
}

impl Checkpoint {
    /// Reads the manifest in the directory `uri`.
    ///
    /// # Errors
    /// If there is none, it does not parse, is of a newer format, or storage refuses.
    pub async fn open(uri: &str) -> Result<Self, ObjectsError> {
        let location = Location::parse(uri)?;
        let uri = location.to_string();
        if !location.directory().is_dir() {
            return Err(ObjectsError::NotFound { uri });
        }
        let storage = location.storage()?;
        let manifest = read_manifest(&storage, &Path::from(MANIFEST), &uri).await?;
        Ok(Self {
            uri,
            storage,
            manifest,
        })
    }

    /// The directory, as an absolute path.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Digest over parameters and optimizer state, independent of world size and of how the tensors lie in files.
    pub fn state_digest(&self) -> Digest {
        muster_checkpoint::state_digest(&self.manifest.files)
    }

    /// Reads every byte again and compares lengths, the digest of each file, and name, dtype, shape and digest of each
    /// tensor with the manifest.
    ///
    /// # Errors
    /// [`ObjectsError::Corrupt`] names the first difference; others say that storage could not be read.
    pub async fn verify(&self) -> Result<Verified, ObjectsError> {
        verify::verify(&self.storage, &self.uri, &self.manifest).await
    }
}

/// Reads and checks the manifest at `path`; `uri` is the checkpoint's directory, for words.
pub(super) async fn read_manifest(
    storage: &LocalFileSystem,
    path: &Path,
    uri: &str,
) -> Result<Manifest, ObjectsError> {
    let wrap = |source| match source {
        object_store::Error::NotFound { .. } => ObjectsError::NotFound { uri: uri.into() },
        source => ObjectsError::Storage {
            uri: uri.into(),
            source,
        },
    };
    let bytes = storage
        .get(path)
        .await
        .map_err(wrap)?
        .bytes()
        .await
        .map_err(wrap)?;
    Manifest::from_json(&bytes).map_err(|source| match source {
        ManifestError::Newer { .. } => ObjectsError::Newer {
            uri: uri.into(),
            source,
        },
        source => ObjectsError::corrupt(uri, format!("{MANIFEST}: {source}")),
    })
}
