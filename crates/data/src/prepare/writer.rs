use std::{
    fs::File,
    io::{self, BufWriter, Write},
    mem,
    path::{Path, PathBuf},
};

use muster_types::Digest;

use super::PrepareError;
use crate::{BLOCK_BYTES, ShardEntry, Split, SplitEntry, TokenDtype};

/// Writes one split's data shards, one after the other.
pub(super) struct SplitWriter {
    dir: PathBuf,
    split: Split,
    dtype: TokenDtype,
    shard_tokens: u64,
    open: Option<OpenShard>,
    finished: Vec<ShardEntry>,
}

impl SplitWriter {
    /// Writes into `dir`; begins a new data shard rather than let one have more than `shard_tokens`, unless a single
    /// document does.
    pub(super) fn new(dir: &Path, split: Split, dtype: TokenDtype, shard_tokens: u64) -> Self {
        Self {
            dir: dir.into(),
            split,
            dtype,
            shard_tokens,
            open: None,
            finished: vec![],
        }
    }

    /// Appends a document, whose tokens end with the end-of-text token.
    pub(super) fn push(&mut self, tokens: &[u32], text_bytes: u64) -> Result<(), PrepareError> {
        let full = |open: &OpenShard| open.tokens + tokens.len() as u64 > self.shard_tokens;
        if self.open.as_ref().is_some_and(full) {
            self.finish_shard()?;
        }
        if self.open.is_none() {
            self.open = Some(OpenShard::create(
                &self.dir,
                &format!("{}-{:05}", self.split, self.finished.len()),
            )?);
        }
        match &mut self.open {
            Some(open) => open.push(tokens, text_bytes, self.dtype),
            None => Ok(()),
        }
    }

    /// Makes all files durable.
    pub(super) fn finish(mut self) -> Result<SplitEntry, PrepareError> {
        self.finish_shard()?;
        Ok(SplitEntry {
            shards: self.finished,
        })
    }

    fn finish_shard(&mut self) -> Result<(), PrepareError> {
        if let Some(open) = self.open.take() {
            self.finished.push(open.finish()?);
        }
        Ok(())
    }
}

struct OpenShard {
    tokens: u64,
    documents: u64,
    text_bytes: u64,
    tokens_file: HashedFile,
    docs_file: HashedFile,
    /// Kept, so that each document does not allocate anew.
    buffer: Vec<u8>,
}

impl OpenShard {
    fn create(dir: &Path, name: &str) -> Result<Self, PrepareError> {
        Ok(Self {
            tokens: 0,
            documents: 0,
            text_bytes: 0,
            tokens_file: HashedFile::create(dir, format!("{name}.tokens"))?,
            docs_file: HashedFile::create(dir, format!("{name}.docs"))?,
            buffer: vec![],
        })
    }

    fn push(
        &mut self,
        tokens: &[u32],
        text_bytes: u64,
        dtype: TokenDtype,
    ) -> Result<(), PrepareError> {
        self.docs_file.write(&self.tokens.to_le_bytes())?;
        self.buffer.clear();
        match dtype {
            // Every id is below the vocabulary's size, by which the dtype was chosen.
            TokenDtype::U16 => self.buffer.extend(
                tokens
                    .iter()
                    .flat_map(|&token| (token as u16).to_le_bytes()),
            ),
            TokenDtype::U32 => self
                .buffer
                .extend(tokens.iter().flat_map(|&token| token.to_le_bytes())),
        }
        self.tokens_file.write(&self.buffer)?;
        self.tokens += tokens.len() as u64;
        self.documents += 1;
        self.text_bytes += text_bytes;
        Ok(())
    }

    fn finish(self) -> Result<ShardEntry, PrepareError> {
        let tokens = self.tokens_file.finish()?;
        let docs = self.docs_file.finish()?;
        Ok(ShardEntry {
            file: tokens.name,
            tokens: self.tokens,
            documents: self.documents,
            bytes: tokens.bytes,
            text_bytes: self.text_bytes,
            docs_file: docs.name,
            docs_digest: docs.digest,
            block_digests: tokens.block_digests,
        })
    }
}

/// A new file that is hashed while it is written: as a whole, and in blocks.
struct HashedFile {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    whole: blake3::Hasher,
    block: blake3::Hasher,
    bytes: u64,
    block_digests: Vec<Digest>,
}

struct Written {
    name: String,
    bytes: u64,
    digest: Digest,
    block_digests: Vec<Digest>,
}

impl HashedFile {
    fn create(dir: &Path, name: String) -> Result<Self, PrepareError> {
        let path = dir.join(&name);
        let file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        Ok(Self {
            name,
            path,
            file: BufWriter::with_capacity(1 << 18, file),
            whole: blake3::Hasher::new(),
            block: blake3::Hasher::new(),
            bytes: 0,
            block_digests: vec![],
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), PrepareError> {
        self.file
            .write_all(bytes)
            .map_err(|error| failed(&self.path, error))?;
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = (BLOCK_BYTES - self.bytes % BLOCK_BYTES) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK_BYTES) {
                self.finish_block();
            }
            bytes = later;
        }
        Ok(())
    }

    fn finish_block(&mut self) {
        let block = mem::replace(&mut self.block, blake3::Hasher::new());
        self.block_digests
            .push(Digest::new(*block.finalize().as_bytes()));
    }

    fn finish(mut self) -> Result<Written, PrepareError> {
        if !self.bytes.is_multiple_of(BLOCK_BYTES) {
            self.finish_block();
        }
        let flushed = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(|error| failed(&self.path, error))?;
        Ok(Written {
            name: self.name,
            bytes: self.bytes,
            digest: Digest::new(*self.whole.finalize().as_bytes()),
            block_digests: self.block_digests,
        })
    }
}

/// Writes a small file and makes it durable.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), PrepareError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| failed(path, error))
}

pub(super) fn failed(path: &Path, source: io::Error) -> PrepareError {
    PrepareError::Output {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn shards_hold_whole_documents_and_blocks_their_digests() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SplitWriter::new(dir.path(), Split::Train, TokenDtype::U32, 600_000);
        let documents: Vec<Vec<u32>> = [400_000u32, 200_000, 1, 700_000, 5]
            .iter()
            .map(|&len| (0..len).collect())
            .collect();
        documents
            .iter()
            .for_each(|document| writer.push(document, 10).unwrap());
        let shards = writer.finish().unwrap().shards;
        let shapes: Vec<_> = shards
            .iter()
            .map(|shard| (shard.documents, shard.tokens, shard.text_bytes))
            .collect();
        assert_eq!(
            shapes,
            [(2, 600_000, 20), (1, 1, 10), (1, 700_000, 10), (1, 5, 10)]
        );
        let written = fs::read(dir.path().join("train-00000.tokens")).unwrap();
        let expected: Vec<u8> = documents[..2]
            .iter()
            .flatten()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        assert_eq!(written, expected);
        let digests: Vec<_> = written
            .chunks(1 << 20)
            .map(|block| Digest::new(*blake3::hash(block).as_bytes()))
            .collect();
        assert_eq!(
            (
                shards[0].block_digests.clone(),
                shards[0].block_digests.len()
            ),
            (digests, 3)
        );
        let offsets = fs::read(dir.path().join("train-00000.docs")).unwrap();
        assert_eq!(
            offsets,
            [0u64, 400_000]
                .iter()
                .flat_map(|offset| offset.to_le_bytes())
                .collect::<Vec<_>>()
        );
    }
}
