use std::{io, path::PathBuf};

use crate::TokenizerError;

/// Why no dataset was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// An option out of range.
    #[error("{option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An input that cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Input {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An input of another kind.
    #[error("{} is neither a directory nor a .txt or .jsonl file; convert it, or leave it out", .path.display())]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// Directories without text.
    #[error("no .txt or .jsonl file among the inputs ({ignored} files of other kinds were found)")]
    NoInput {
        /// Files of other kinds.
        ignored: u64,
    },
    /// Files without text.
    #[error(
        "the inputs hold no text: {files} files were read, and no document in them had more than white space"
    )]
    NoText {
        /// Files that were read.
        files: u64,
    },
    /// All text was held out.
    #[error(
        "all {documents} documents fell into the validation split; lower the validation fraction, or cut smaller documents"
    )]
    NoTrainingText {
        /// Documents in all.
        documents: u64,
    },
    /// Text that is no UTF-8.
    #[error(
        "{}: byte {byte} is not valid UTF-8; convert the file to UTF-8, or choose to replace invalid bytes", .path.display()
    )]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Where in the file, counted from 0.
        byte: u64,
    },
    /// A line without a text.
    #[error("{}, line {line}: {reason}", .path.display())]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A document too large to hold in memory many times over.
    #[error(
        "{}, line {line}: a document of more than {limit_bytes} bytes; cut it into smaller ones (for .txt files: paragraphs)",
        .path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Where the document begins, counted from 1.
        line: u64,
        /// The most that is taken.
        limit_bytes: u64,
    },
    /// Something is where the dataset should be.
    #[error("{} exists and is not empty; choose another directory, or ask for the dataset to be replaced", .path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Something that must not be replaced is where the dataset should be.
    #[error("{} is not only a dataset ({} is no part of one), so it is not replaced; choose another directory", .path.display(), .found.display())]
    NotReplaceable {
        /// The directory.
        path: PathBuf,
        /// What in it is no part of a dataset.
        found: PathBuf,
    },
    /// The output could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    Output {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tokenizer cannot be made or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer's library gave up on a document.
    #[error("the tokenizer failed on the document at line {line} of {}: {reason}", .path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Where the document begins, counted from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// The operating system gave no threads.
    #[error("cannot start threads: {0}; use fewer")]
    Threads(String),
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}
