use std::{io, path::PathBuf};

use muster_checkpoint::ManifestError;
use muster_types::StateId;

/// Why a checkpoint could not be written, found, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// A scheme that this version does not speak.
    #[error(
        "{uri}: storage of the kind {scheme:?} is not supported by this version; give a path or a file:// URI on storage that every node reaches"
    )]
    UnsupportedScheme {
        /// What was given.
        uri: String,
        /// Its scheme.
        scheme: String,
    },
    /// No usable path.
    #[error("{uri}: {reason}")]
    BadUri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory cannot be made or opened.
    #[error("the directory {path} cannot be used: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Storage refused.
    #[error("{uri}: {source}")]
    Storage {
        /// What was read or written.
        uri: String,
        /// The storage's words.
        source: object_store::Error,
    },
    /// There is none.
    #[error(
        "there is no checkpoint at {uri}: it has no manifest.json; name a checkpoint's directory, a job's or a checkpoint root"
    )]
    NotFound {
        /// Where it was looked for.
        uri: String,
    },
    /// It was written by a newer build.
    #[error("{uri}: {source}")]
    Newer {
        /// The checkpoint.
        uri: String,
        /// Its format and ours.
        source: ManifestError,
    },
    /// It does not read back as what its manifest says.
    #[error("the checkpoint {uri} is corrupt: {reason}; use another one")]
    Corrupt {
        /// The checkpoint.
        uri: String,
        /// What differs.
        reason: String,
    },
    /// Another writer has committed something else under the same name.
    #[error("{uri} already holds another manifest of {state}; it was left as it is")]
    Occupied {
        /// The checkpoint.
        uri: String,
        /// Its state.
        state: StateId,
    },
    /// What is to be committed is no valid checkpoint.
    #[error("the manifest of {uri} is not valid, so it was not written: {source}")]
    Invalid {
        /// The checkpoint.
        uri: String,
        /// Why.
        source: ManifestError,
    },
}

impl ObjectsError {
    /// Whether the content is wrong (this checkpoint is bad), rather than storage out of reach.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    pub(super) fn corrupt(uri: &str, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            uri: uri.into(),
            reason: reason.into(),
        }
    }
}
