use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use muster_types::Digest;

use crate::{BLOCK_BYTES, DatasetError, ShardEntry, TokenDtype, map::Map};

/// One open data shard. Each block is checked against its digest before its first use, so a seek costs one block, not the
/// file.
pub(crate) struct Shard {
    path: PathBuf,
    docs_path: PathBuf,
    entry: ShardEntry,
    dtype: TokenDtype,
    vocab_size: u32,
    map: Map,
    /// Bit k: block k matched its digest.
    verified: Vec<AtomicU64>,
}

impl Shard {
    /// Opens the shard; both of its files must have exactly the length that the index gives.
    pub(crate) fn open(
        dir: &Path,
        entry: &ShardEntry,
        dtype: TokenDtype,
        vocab_size: u32,
    ) -> Result<Self, DatasetError> {
        let (path, docs_path) = (dir.join(&entry.file), dir.join(&entry.docs_file));
        check_length(&path, entry.bytes)?;
        check_length(&docs_path, entry.documents * 8)?;
        let map = Map::open(&path).map_err(|source| DatasetError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let verified = (0..entry.block_digests.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        let shard = Self {
            path,
            docs_path,
            entry: entry.clone(),
            dtype,
            vocab_size,
            map,
            verified,
        };
        match shard.map.len() as u64 == entry.bytes {
            true => Ok(shard),
            false => Err(shard.wrong_length()),
        }
    }

    /// Tokens in the shard.
    pub(crate) fn tokens(&self) -> u64 {
        self.entry.tokens
    }

    /// Documents in the shard.
    pub(crate) fn documents(&self) -> u64 {
        self.entry.documents
    }

    /// Blocks in the shard.
    pub(crate) fn blocks(&self) -> u64 {
        self.entry.block_digests.len() as u64
    }

    /// The tokens of one block.
    pub(crate) fn block_tokens(&self, block: u64) -> Range<u64> {
        let each = BLOCK_BYTES / self.dtype.bytes();
        block * each..((block + 1) * each).min(self.entry.tokens)
    }

    /// Appends these tokens. On an error, `into` is as it was.
    pub(crate) fn append(
        &self,
        tokens: Range<u64>,
        into: &mut Vec<i64>,
    ) -> Result<(), DatasetError> {
        debug_assert!(tokens.start < tokens.end && tokens.end <= self.entry.tokens);
        let width = self.dtype.bytes();
        let bytes = tokens.start * width..tokens.end * width;
        for block in bytes.start / BLOCK_BYTES..=(bytes.end - 1) / BLOCK_BYTES {
            self.verify(block)?;
        }
        let bytes = &self.map[bytes.start as usize..bytes.end as usize];
        let before = into.len();
        match self.dtype {
            TokenDtype::U16 => {
                into.extend(
                    bytes
                        .chunks_exact(2)
                        .map(|word| i64::from(u16::from_le_bytes([word[0], word[1]]))),
                );
            }
            TokenDtype::U32 => {
                into.extend(bytes.chunks_exact(4).map(|word| {
                    i64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                }));
            }
        }
        let outside = into[before..]
            .iter()
            .position(|&token| token >= i64::from(self.vocab_size));
        let Some(at) = outside else { return Ok(()) };
        let token = into[before + at] as u32;
        into.truncate(before);
        Err(DatasetError::TokenOutsideVocabulary {
            path: self.path.clone(),
            at: tokens.start + at as u64,
            token,
            vocab_size: self.vocab_size,
        })
    }

    /// Checks a block against its digest, unless that was done before. Threads that meet here both check: no harm.
    pub(crate) fn verify(&self, block: u64) -> Result<(), DatasetError> {
        let (word, bit) = (&self.verified[(block / 64) as usize], 1 << (block % 64));
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let first_byte = block * BLOCK_BYTES;
        let end_byte = (first_byte + BLOCK_BYTES).min(self.entry.bytes);
        let found = blake3::hash(&self.map[first_byte as usize..end_byte as usize]);
        if found.as_bytes() != self.entry.block_digests[block as usize].as_bytes() {
            return Err(DatasetError::CorruptBlock {
                path: self.path.clone(),
                block,
                first_byte,
                end_byte,
            });
        }
        word.fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }

    /// Where each document starts, in tokens; checked against the digest.
    pub(crate) fn document_offsets(&self) -> Result<Vec<u64>, DatasetError> {
        let path = &self.docs_path;
        let bytes = fs::read(path).map_err(|source| DatasetError::Unreadable {
            path: path.clone(),
            source,
        })?;
        if Digest::new(*blake3::hash(&bytes).as_bytes()) != self.entry.docs_digest {
            return Err(DatasetError::CorruptDocuments { path: path.clone() });
        }
        let offsets: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |value, &byte| value << 8 | u64::from(byte))
            })
            .collect();
        let ordered = offsets.first() == Some(&0) && offsets.is_sorted_by(|a, b| a < b);
        match ordered && offsets.last().is_some_and(|&last| last < self.entry.tokens) {
            true => Ok(offsets),
            false => Err(DatasetError::CorruptDocuments { path: path.clone() }),
        }
    }

    fn wrong_length(&self) -> DatasetError {
        DatasetError::WrongLength {
            path: self.path.clone(),
            expected_bytes: self.entry.bytes,
            found_bytes: self.map.len() as u64,
        }
    }
}

fn check_length(path: &Path, expected_bytes: u64) -> Result<(), DatasetError> {
    let found_bytes = fs::metadata(path)
        .map_err(|source| DatasetError::Unreadable {
            path: path.into(),
            source,
        })?
        .len();
    match found_bytes == expected_bytes {
        true => Ok(()),
        false => Err(DatasetError::WrongLength {
            path: path.into(),
            expected_bytes,
            found_bytes,
        }),
    }
}
