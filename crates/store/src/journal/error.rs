use std::{io, path::Path, path::PathBuf};

use rusqlite::ErrorCode;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error(
        "the journal {path} is in use by another coordinator; stop that one first, or give this one another --data-dir"
    )]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// It was written by a newer build.
    #[error(
        "the journal {path} has format version {found}, but this build reads up to {supported}; use a newer muster, the file was left as it is"
    )]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Its format version.
        found: i64,
        /// The newest format this build reads.
        supported: i64,
    },
    /// It is an SQLite database, but of some other program.
    #[error(
        "{path} is a database of another program, not a journal of muster; give another --data-dir, the file was left as it is"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It does not read back.
    #[error(
        "the journal {path} is damaged: {reason}; restore it from a copy, or move it away to start without its jobs; the file was left as it is"
    )]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// SQLite refused.
    #[error("the journal {path} could not be read or written: {source}")]
    Sqlite {
        /// The journal.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// A record could not be encoded.
    #[error("a record of kind {kind} could not be encoded as JSON: {source}")]
    Encode {
        /// The record's kind.
        kind: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl JournalError {
    pub(super) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::corrupt(path, source.to_string())
            }
            _ => Self::Sqlite {
                path: path.to_path_buf(),
                source,
            },
        }
    }
}
