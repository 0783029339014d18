use std::{
    fs, io,
    path::{Path, PathBuf},
};

use muster_types::Digest;
use rayon::prelude::*;
use serde::Deserialize;

use crate::{
    DatasetError, FORMAT_VERSION, INDEX_FILE, Index, Split, Tokenizer, TokenizerError, shard::Shard,
};

/// An open dataset. It may be shared between threads: reading needs no lock.
pub struct Dataset {
    dir: PathBuf,
    index: Index,
    digest: Digest,
    train: Vec<Shard>,
    validation: Vec<Shard>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("dir", &self.dir)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Dataset {
    /// Opens a dataset: reads its index, checks that every file is there with its exact length, that the tokenizer is the
    /// one that made the tokens, and maps the data shards. Tokens are checked when they are read.
    ///
    /// # Errors
    /// Names the file that is missing, incomplete, changed or of another version.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(INDEX_FILE);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(_) if !dir.is_dir() => return Err(DatasetError::NotFound { dir: dir.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatasetError::NotADataset { dir: dir.into() });
            }
            Err(source) => return Err(DatasetError::Unreadable { path, source }),
        };
        let index = parse(&path, &json)?;
        let dataset = Self {
            dir: dir.into(),
            digest: Digest::new(*blake3::hash(&json).as_bytes()),
            train: open_shards(dir, &index, Split::Train)?,
            validation: open_shards(dir, &index, Split::Validation)?,
            index,
        };
        dataset.check_tokenizer()?;
        Ok(dataset)
    }

    fn check_tokenizer(&self) -> Result<(), DatasetError> {
        let path = self.tokenizer_path();
        let json = fs::read(&path).map_err(|source| DatasetError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let found = Digest::new(*blake3::hash(&json).as_bytes());
        let expected = self.tokenizer_digest();
        match found == expected {
            true => Ok(()),
            false => Err(DatasetError::TokenizerMismatch {
                path,
                expected,
                found,
            }),
        }
    }

    /// The directory that was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// blake3 of `index.json`, which holds the digests of everything else: the name of the dataset's content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What `index.json` says.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> u32 {
        self.index.vocab_size
    }

    /// The token after each document.
    pub fn end_of_text(&self) -> u32 {
        self.index.tokenizer.end_of_text.id
    }

    /// The tokenizer's file.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.dir.join(&self.index.tokenizer.file)
    }

    /// blake3 of the tokenizer's file.
    pub fn tokenizer_digest(&self) -> Digest {
        self.index.tokenizer.digest
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    /// When its file cannot be read or used.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_file(&self.tokenizer_path())
    }

    /// Tokens in a split, end-of-text tokens included.
    pub fn tokens(&self, split: Split) -> u64 {
        self.index.split(split).tokens()
    }

    /// Documents in a split.
    pub fn documents(&self, split: Split) -> u64 {
        self.index.split(split).documents()
    }

    /// Samples in each of a split's data shards. A sample is `context_length + 1` tokens, inputs and targets together;
    /// sample i starts at token `i * context_length`, so each token but a shard's first is a target at most once. Tokens at
    /// the end that fill no sample are left out.
    pub fn shard_samples(&self, split: Split, context_length: u32) -> Vec<u64> {
        self.shards(split)
            .iter()
            .map(|shard| samples(shard, context_length))
            .collect()
    }

    /// Appends one sample, `context_length + 1` token ids, to `into`: a micro-batch is a row-major [B, T + 1] vector.
    ///
    /// # Errors
    /// When there is no such sample, or its tokens are corrupt; `into` is then as it was.
    pub fn read_sample(
        &self,
        split: Split,
        shard: u32,
        index: u64,
        context_length: u32,
        into: &mut Vec<i64>,
    ) -> Result<(), DatasetError> {
        let found = self
            .shards(split)
            .get(shard as usize)
            .filter(|found| index < samples(found, context_length));
        let Some(found) = found else {
            return Err(DatasetError::NoSuchSample {
                split,
                shard,
                index,
                context_length,
            });
        };
        let start = index * u64::from(context_length);
        found.append(start..start + u64::from(context_length) + 1, into)
    }

    /// Reads everything and checks it against its digests, on all cores.
    ///
    /// # Errors
    /// Names the first file (and block) that is corrupt.
    pub fn verify(&self) -> Result<(), DatasetError> {
        for shard in Split::ALL.iter().flat_map(|&split| self.shards(split)) {
            shard.document_offsets()?;
            // The error of the lowest block, whatever the threads do first.
            (0..shard.blocks())
                .into_par_iter()
                .filter_map(|block| shard.verify(block).err())
                .find_first(|_| true)
                .map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    pub(crate) fn shards(&self, split: Split) -> &[Shard] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

fn samples(shard: &Shard, context_length: u32) -> u64 {
    (shard.tokens() - 1)
        .checked_div(u64::from(context_length))
        .unwrap_or(0)
}

fn open_shards(dir: &Path, index: &Index, split: Split) -> Result<Vec<Shard>, DatasetError> {
    let shards = &index.split(split).shards;
    shards
        .iter()
        .map(|entry| Shard::open(dir, entry, index.dtype, index.vocab_size))
        .collect()
}

fn parse(path: &Path, json: &[u8]) -> Result<Index, DatasetError> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let malformed = |reason: String| DatasetError::Malformed {
        path: path.into(),
        reason,
    };
    let Version {
        format_version: found,
    } = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    if found != FORMAT_VERSION {
        return Err(DatasetError::Version {
            path: path.into(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    let index: Index =
        serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    index.check().map_err(malformed)?;
    Ok(index)
}
