use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt;
use muster_checkpoint::{ExtraFile, FileEntry, Manifest};
use muster_types::{Digest, JobId, StateId};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, local::LocalFileSystem, path::Path,
};

use super::{Location, MANIFEST, ObjectsError, checkpoint::read_manifest};

/// The checkpoints of one job below a root: `<root>/<job>/step-0000001000.g7/`.
#[derive(Debug)]
pub struct CheckpointStore {
    root: Location,
    job: JobId,
    storage: LocalFileSystem,
}

/// What a commit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The manifest was put; the checkpoint exists now.
    Created,
    /// A manifest of the same state was there already: the same one, or one of other parts.
    AlreadyThere,
}

impl CheckpointStore {
    /// Opens the root for `job`, making the directory where there is none.
    ///
    /// # Errors
    /// If the root is of an unsupported kind or cannot be made.
    pub fn open(root: &str, job: JobId) -> Result<Self, ObjectsError> {
        let root = Location::parse(root)?;
        std::fs::create_dir_all(root.directory()).map_err(|source| ObjectsError::Directory {
            path: root.directory().to_path_buf(),
            source,
        })?;
        Ok(Self {
            storage: root.storage()?,
            root,
            job,
        })
    }

    /// Where the checkpoint of `state` lies or would lie.
    pub fn uri(&self, state: StateId) -> String {
        self.root.join(&self.directory(state)).to_string()
    }

    /// Puts a file beside the tensors, in place of one of the same name, and returns what the manifest says of it.
    ///
    /// # Errors
    /// If storage refuses.
    pub async fn put_extra(
        &self,
        state: StateId,
        file: &str,
        content: Bytes,
    ) -> Result<ExtraFile, ObjectsError> {
        let entry = ExtraFile {
            file: file.into(),
            bytes: content.len() as u64,
            digest: Digest::new(*blake3::hash(&content).as_bytes()),
        };
        let path = self.path(state, file);
        self.storage
            .put(&path, PutPayload::from_bytes(content))
            .await
            .map_err(|source| self.storage_error(state, source))?;
        Ok(entry)
    }

    /// Makes the checkpoint exist: checks that each file is there in full length, then puts the manifest if there is none.
    /// Of several writers of one state, one wins.
    ///
    /// # Errors
    /// If a file is missing or of another length, a manifest of other content is there already, or storage refuses.
    pub async fn commit(&self, manifest: &Manifest) -> Result<Commit, ObjectsError> {
        let state = manifest.state;
        let uri = self.uri(state);
        self.check_files(manifest).await?;
        let text = manifest.to_json().map_err(|source| ObjectsError::Invalid {
            uri: uri.clone(),
            source,
        })?;
        let path = self.path(state, MANIFEST);
        match self
            .storage
            .put_opts(&path, text.into(), PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(Commit::Created),
            Err(object_store::Error::AlreadyExists { .. }) => {
                // Of the same state: written by a coordinator that did not live to put it on record, and may have known less or
                // more of the numerics and the tokens seen. Since then another number of ranks may have saved the state: what is
                // there is that state all the same, in other parts.
                let there = read_manifest(&self.storage, &path, &uri).await?;
                let name = |entry: &FileEntry| entry.file.clone();
                let ours: BTreeSet<_> = manifest.files.iter().map(name).collect();
                let in_other_parts = there
                    .files
                    .iter()
                    .map(name)
                    .all(|file| !ours.contains(&file));
                if there.state == state && (there.files == manifest.files || in_other_parts) {
                    self.check_files(&there).await?;
                    Ok(Commit::AlreadyThere)
                } else {
                    Err(ObjectsError::Occupied { uri, state })
                }
            }
            Err(source) => Err(self.storage_error(state, source)),
        }
    }

    /// Checks that each file that a manifest names is there in full length.
    async fn check_files(&self, manifest: &Manifest) -> Result<(), ObjectsError> {
        let state = manifest.state;
        let uri = self.uri(state);
        let files = manifest
            .files
            .iter()
            .map(|entry| (&entry.file, entry.bytes));
        let extra = manifest
            .extra_files
            .iter()
            .map(|entry| (&entry.file, entry.bytes));
        for (file, bytes) in files.chain(extra) {
            match self.storage.head(&self.path(state, file)).await {
                Ok(found) if found.size == bytes => {}
                Ok(found) => {
                    let size = found.size;
                    let reason = format!("{file} has {size} bytes, its writer said {bytes}");
                    return Err(ObjectsError::corrupt(&uri, reason));
                }
                Err(object_store::Error::NotFound { .. }) => {
                    return Err(ObjectsError::corrupt(&uri, format!("{file} is missing")));
                }
                Err(source) => return Err(self.storage_error(state, source)),
            }
        }
        Ok(())
    }

    /// Removes a checkpoint, its manifest first, so that a half-removed one is none. Removing what is not there is no error.
    ///
    /// # Errors
    /// If storage refuses.
    pub async fn delete(&self, state: StateId) -> Result<(), ObjectsError> {
        let wrap = |source| self.storage_error(state, source);
        let gone = |result: Result<(), object_store::Error>| match result {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(wrap),
        };
        gone(self.storage.delete(&self.path(state, MANIFEST)).await)?;
        let prefix = Path::from(self.directory(state));
        let files: Vec<_> = self
            .storage
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(wrap)?;
        for file in files {
            gone(self.storage.delete(&file.location).await)?;
        }
        let directory = self.root.join(&self.directory(state));
        match tokio::fs::remove_dir(directory.directory()).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(ObjectsError::Directory {
                    path: directory.directory().to_path_buf(),
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    fn directory(&self, state: StateId) -> String {
        format!("{}/{}", self.job, muster_checkpoint::directory_name(state))
    }

    fn path(&self, state: StateId, file: &str) -> Path {
        Path::from(self.directory(state)).join(file)
    }

    fn storage_error(&self, state: StateId, source: object_store::Error) -> ObjectsError {
        ObjectsError::Storage {
            uri: self.uri(state),
            source,
        }
    }
}
