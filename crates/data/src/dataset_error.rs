use std::{io, path::PathBuf};

use muster_types::Digest;

use crate::{Split, TokenizerError};

/// Why a dataset cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Nothing is there.
    #[error("no dataset at {}: there is no such directory; make one with `muster data prepare`", .dir.display())]
    NotFound {
        /// Where it was expected.
        dir: PathBuf,
    },
    /// Something else is there.
    #[error("{} is not a dataset: it has no index.json; make one with `muster data prepare`", .dir.display())]
    NotADataset {
        /// What was opened.
        dir: PathBuf,
    },
    /// A file that the operating system does not let us read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An index that makes no sense.
    #[error("{} is damaged: {reason}; prepare the dataset again", .path.display())]
    Malformed {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by another version.
    #[error(
        "{} has format version {found}, but this muster reads version {supported}; \
         prepare the dataset again with this version", .path.display()
    )]
    Version {
        /// The index.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What this code reads.
        supported: u32,
    },
    /// A truncated or overlong file.
    #[error(
        "{} has {found_bytes} bytes, but the dataset's index says {expected_bytes}: the file is incomplete or was changed; \
         copy it again or prepare the dataset again", .path.display()
    )]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length according to the index.
        expected_bytes: u64,
        /// Its length.
        found_bytes: u64,
    },
    /// The tokenizer beside the tokens is not the one that made them.
    #[error(
        "tokenizer/dataset mismatch: {} has blake3 {found}, but the tokens were made with {expected}; \
         restore that tokenizer or prepare the dataset again", .path.display()
    )]
    TokenizerMismatch {
        /// The tokenizer's file.
        path: PathBuf,
        /// Its digest according to the index.
        expected: Digest,
        /// Its digest.
        found: Digest,
    },
    /// Tokens that are not the ones written.
    #[error(
        "block {block} of {} (bytes {first_byte}..{end_byte}) does not match its digest: the file is corrupt; \
         copy it again or prepare the dataset again", .path.display()
    )]
    CorruptBlock {
        /// The file of tokens.
        path: PathBuf,
        /// Index of the block.
        block: u64,
        /// Where the block starts.
        first_byte: u64,
        /// Where it ends.
        end_byte: u64,
    },
    /// Document offsets that are not the ones written.
    #[error("{} does not match its digest: the file is corrupt; copy it again or prepare the dataset again", .path.display())]
    CorruptDocuments {
        /// The file of document offsets.
        path: PathBuf,
    },
    /// A token that no embedding has a row for.
    #[error("token {at} of {} is {token}, outside the vocabulary of {vocab_size}; prepare the dataset again", .path.display())]
    TokenOutsideVocabulary {
        /// The file of tokens.
        path: PathBuf,
        /// Index of the token.
        at: u64,
        /// Its id.
        token: u32,
        /// The dataset's vocabulary.
        vocab_size: u32,
    },
    /// A sample that the dataset does not have.
    #[error(
        "the {split} split has no sample {index} in data shard {shard} at a context length of {context_length}"
    )]
    NoSuchSample {
        /// The split.
        split: Split,
        /// Index of the data shard.
        shard: u32,
        /// Index of the sample.
        index: u64,
        /// Tokens a sample, less one.
        context_length: u32,
    },
    /// The dataset's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
