use std::{fmt, path::PathBuf};

use muster_types::Digest;
use serde::{Deserialize, Serialize};

use crate::SplitSummary;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading text and learning merges.
    TrainingTokenizer,
    /// Turning text into tokens and writing them.
    Tokenizing,
    /// Making it durable.
    Finishing,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrainingTokenizer => "training the tokenizer",
            Self::Tokenizing => "tokenizing",
            Self::Finishing => "finishing",
        })
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Input bytes dealt with in this phase.
    pub bytes_done: u64,
    /// Input bytes in all.
    pub bytes_total: u64,
    /// Documents so far in this phase.
    pub documents: u64,
    /// Tokens so far in this phase.
    pub tokens: u64,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The dataset's directory.
    pub out: PathBuf,
    /// blake3 of its index.
    pub digest: Digest,
    /// Files read.
    pub files: u64,
    /// Files of other kinds that directories held.
    pub ignored_files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Documents with nothing but white space, left out.
    pub empty_documents: u64,
    /// Documents in which invalid UTF-8 was replaced.
    pub repaired_documents: u64,
    /// One more than the largest token id.
    pub vocab_size: u32,
    /// What is trained on.
    pub train: SplitSummary,
    /// What is held out.
    pub validation: SplitSummary,
    /// What a user should know, a sentence each.
    pub notes: Vec<String>,
}
