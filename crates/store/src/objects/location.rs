use std::{
    fmt,
    path::{Path, PathBuf},
};

use object_store::local::LocalFileSystem;
use url::Url;

use super::ObjectsError;

/// A place for checkpoints: a directory, given as a path or a `file://` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    directory: PathBuf,
}

impl Location {
    /// Reads a path (relative ones are against the working directory) or a `file://` URI.
    ///
    /// # Errors
    /// If it has another scheme or is no local path.
    pub fn parse(uri: &str) -> Result<Self, ObjectsError> {
        let bad = |reason: &str| ObjectsError::BadUri {
            uri: uri.into(),
            reason: reason.into(),
        };
        let path = match uri.split_once("://") {
            None if uri.is_empty() => return Err(bad("empty; give a path or a file:// URI")),
            None => PathBuf::from(uri),
            Some(("file", _)) => Url::parse(uri)
                .map_err(|e| bad(&e.to_string()))?
                .to_file_path()
                .map_err(|()| bad("not a path on this machine; write file:///absolute/path"))?,
            Some((scheme, _)) => {
                return Err(ObjectsError::UnsupportedScheme {
                    uri: uri.into(),
                    scheme: scheme.into(),
                });
            }
        };
        let directory = std::path::absolute(&path).map_err(|source| ObjectsError::Directory {
            path: path.clone(),
            source,
        })?;
        Ok(Self { directory })
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, below: &str) -> Self {
        Self {
            directory: self.directory.join(below),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens the directory, which must exist.
    pub(super) fn storage(&self) -> Result<LocalFileSystem, ObjectsError> {
        LocalFileSystem::new_with_prefix(&self.directory)
            .map(|storage| storage.with_fsync(true))
            .map_err(|source| ObjectsError::Storage {
                uri: self.to_string(),
                source,
            })
    }
}

impl fmt::Display for Location {
    /// The absolute path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.display().fmt(f)
    }
}
