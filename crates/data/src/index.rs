use std::fmt;

use muster_types::Digest;
use serde::{Deserialize, Serialize};

use crate::Split;

/// The version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a data shard that share one digest.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// The index's file name.
pub const INDEX_FILE: &str = "index.json";
/// The tokenizer's file name, in the format of the `tokenizers` library.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// What `index.json` says: everything about a dataset but the tokens. Its blake3 names the dataset, since it holds the
/// digests of all other files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// What turned text into tokens.
    pub tokenizer: TokenizerEntry,
    /// How a token is stored.
    pub dtype: TokenDtype,
    /// One more than the largest token id.
    pub vocab_size: u32,
    /// Bytes a digest covers.
    pub block_bytes: u64,
    /// What is trained on, and what is held out.
    pub splits: Splits,
}

/// Both splits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splits {
    /// What is trained on.
    pub train: SplitEntry,
    /// What is held out.
    pub validation: SplitEntry,
}

/// The tokenizer of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// Where it came from.
    pub kind: TokenizerKind,
    /// Its file in the dataset's directory.
    pub file: String,
    /// blake3 of that file.
    pub digest: Digest,
    /// The token after each document.
    pub end_of_text: EndOfText,
}

/// Where a tokenizer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    /// One token a byte.
    Bytes,
    /// Byte-level BPE, trained on this dataset's training split.
    TrainBpe,
    /// Given as a file.
    File,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::TrainBpe => "train-bpe",
            Self::File => "file",
        })
    }
}

/// The token after each document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfText {
    /// Its id.
    pub id: u32,
    /// How the tokenizer writes it.
    pub token: String,
}

/// How a token is stored: little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenDtype {
    /// Two bytes, for vocabularies of up to 65,536.
    U16,
    /// Four bytes.
    U32,
}

impl TokenDtype {
    /// The narrowest that holds every id below `vocab_size`.
    pub const fn for_vocabulary(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 {
            Self::U16
        } else {
            Self::U32
        }
    }
    /// Bytes a token.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

impl fmt::Display for TokenDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
        })
    }
}

/// One split's data shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitEntry {
    /// In order; a sample order counts them so.
    pub shards: Vec<ShardEntry>,
}

/// One data shard: whole documents, each followed by the end-of-text token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The file of tokens.
    pub file: String,
    /// Tokens in it, end-of-text tokens included.
    pub tokens: u64,
    /// Documents in it.
    pub documents: u64,
    /// Length of the file of tokens.
    pub bytes: u64,
    /// UTF-8 bytes of the text that it was made from.
    pub text_bytes: u64,
    /// The file of document offsets: where each document starts, in tokens, as little-endian u64.
    pub docs_file: String,
    /// blake3 of the file of document offsets.
    pub docs_digest: Digest,
    /// blake3 of each [`BLOCK_BYTES`] of the file of tokens; the last block may be shorter.
    pub block_digests: Vec<Digest>,
}

impl Index {
    /// One split's data shards.
    pub fn split(&self, split: Split) -> &SplitEntry {
        match split {
            Split::Train => &self.splits.train,
            Split::Validation => &self.splits.validation,
        }
    }

    /// Whether the numbers agree with each other; the reason if they do not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.block_bytes != BLOCK_BYTES {
            return Err(format!(
                "block_bytes is {}, expected {BLOCK_BYTES}",
                self.block_bytes
            ));
        }
        if self.dtype != TokenDtype::for_vocabulary(self.vocab_size) {
            return Err(format!(
                "dtype {} does not fit a vocabulary of {}",
                self.dtype, self.vocab_size
            ));
        }
        if self.tokenizer.end_of_text.id >= self.vocab_size {
            return Err(format!(
                "end-of-text id {} is outside the vocabulary",
                self.tokenizer.end_of_text.id
            ));
        }
        plain_name(&self.tokenizer.file)?;
        Split::ALL
            .iter()
            .flat_map(|&split| &self.split(split).shards)
            .try_for_each(|shard| {
                plain_name(&shard.file)?;
                plain_name(&shard.docs_file)?;
                shard
                    .check(self.dtype)
                    .map_err(|reason| format!("data shard {}: {reason}", shard.file))
            })
    }
}

impl ShardEntry {
    fn check(&self, dtype: TokenDtype) -> Result<(), String> {
        if self.tokens == 0 || self.documents == 0 || self.documents > self.tokens {
            return Err(format!(
                "{} documents in {} tokens",
                self.documents, self.tokens
            ));
        }
        if self.tokens.checked_mul(dtype.bytes()) != Some(self.bytes) {
            return Err(format!(
                "{} tokens of {dtype} do not make {} bytes",
                self.tokens, self.bytes
            ));
        }
        let blocks = self.bytes.div_ceil(BLOCK_BYTES);
        if self.block_digests.len() as u64 != blocks {
            return Err(format!(
                "{} block digests for {blocks} blocks",
                self.block_digests.len()
            ));
        }
        Ok(())
    }
}

impl SplitEntry {
    /// Tokens in all its data shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|shard| shard.tokens).sum()
    }
    /// Documents in all its data shards.
    pub fn documents(&self) -> u64 {
        self.shards.iter().map(|shard| shard.documents).sum()
    }
    /// UTF-8 bytes of the text that it was made from.
    pub fn text_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.text_bytes).sum()
    }
}

/// An index names files in its own directory only.
fn plain_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(format!("{name:?} is not a plain file name"));
    }
    Ok(())
}
