use std::path::{Path, PathBuf};

use muster_types::Digest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Dataset, DatasetError, Split, SplitEntry, TokenDtype, Tokenizer, TokenizerKind, shard::Shard,
};

/// Tokens of a document that are shown.
const SHOWN_TOKENS: u64 = 256;

/// What is in a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Where it lies.
    pub dir: PathBuf,
    /// blake3 of its index.
    pub digest: Digest,
    /// Version of its format.
    pub format_version: u32,
    /// Where its tokenizer came from.
    pub tokenizer: TokenizerKind,
    /// One more than the largest token id.
    pub vocab_size: u32,
    /// How a token is stored.
    pub dtype: TokenDtype,
    /// Entropy of the distribution of single tokens in the training split, in nats: the loss of the best model that knows
    /// nothing but token frequencies.
    pub unigram_entropy_nats: f64,
    /// What is trained on.
    pub train: SplitSummary,
    /// What is held out.
    pub validation: SplitSummary,
    /// Beginnings of documents, evenly spaced over the training split.
    pub samples: Vec<SampleText>,
}

/// How much a split holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// Data shards.
    pub shards: u64,
    /// Documents.
    pub documents: u64,
    /// Tokens, end-of-text tokens included.
    pub tokens: u64,
    /// UTF-8 bytes of the text that it was made from.
    pub text_bytes: u64,
}

impl From<&SplitEntry> for SplitSummary {
    fn from(split: &SplitEntry) -> Self {
        Self {
            shards: split.shards.len() as u64,
            documents: split.documents(),
            tokens: split.tokens(),
            text_bytes: split.text_bytes(),
        }
    }
}

/// The beginning of a document, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleText {
    /// The split.
    pub split: Split,
    /// Index of the data shard.
    pub shard: u32,
    /// Index of the document in the data shard.
    pub document: u64,
    /// Tokens in the whole document, its end-of-text token included.
    pub tokens: u64,
    /// The text of its first 256 tokens.
    pub text: String,
}

/// Reads a whole dataset, checks it against its digests, and says what is in it, with `samples` decoded beginnings of
/// documents. Runs on all cores.
///
/// # Errors
/// When the dataset cannot be opened, or a part of it is corrupt.
pub fn inspect(dir: &Path, samples: usize) -> Result<Inspection, DatasetError> {
    let dataset = Dataset::open(dir)?;
    dataset.verify()?;
    let index = dataset.index();
    Ok(Inspection {
        dir: dir.into(),
        digest: dataset.digest(),
        format_version: index.format_version,
        tokenizer: index.tokenizer.kind,
        vocab_size: index.vocab_size,
        dtype: index.dtype,
        unigram_entropy_nats: entropy_nats(&token_counts(&dataset)?),
        train: index.split(Split::Train).into(),
        validation: index.split(Split::Validation).into(),
        samples: sample_texts(&dataset, &dataset.tokenizer()?, samples as u64)?,
    })
}

/// How often each token occurs in the training split.
fn token_counts(dataset: &Dataset) -> Result<Vec<u64>, DatasetError> {
    let none = || vec![0u64; dataset.vocab_size() as usize];
    let blocks: Vec<(&Shard, u64)> = dataset
        .shards(Split::Train)
        .iter()
        .flat_map(|shard| (0..shard.blocks()).map(move |block| (shard, block)))
        .collect();
    blocks
        .par_iter()
        .try_fold(none, |mut counts, &(shard, block)| {
            let mut tokens = Vec::new();
            shard.append(shard.block_tokens(block), &mut tokens)?;
            for token in tokens {
                counts[token as usize] += 1;
            }
            Ok(counts)
        })
        .try_reduce(none, |left, right| {
            Ok(left.iter().zip(&right).map(|(a, b)| a + b).collect())
        })
}

/// H = -sum p ln p.
fn entropy_nats(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let term = |&count: &u64| {
        let p = count as f64 / total;
        -p * p.ln()
    };
    counts.iter().filter(|&&count| count > 0).map(term).sum()
}

fn sample_texts(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    samples: u64,
) -> Result<Vec<SampleText>, DatasetError> {
    let documents = dataset.documents(Split::Train);
    let samples = samples.min(documents);
    let mut texts = Vec::new();
    let (mut before, mut next) = (0, 0);
    for (number, shard) in dataset.shards(Split::Train).iter().enumerate() {
        let offsets = shard.document_offsets()?;
        while next < samples {
            // In u128, since the product of two counts may not fit.
            let document =
                (u128::from(next) * u128::from(documents) / u128::from(samples)) as u64 - before;
            if document >= shard.documents() {
                break;
            }
            let start = offsets[document as usize];
            let end = offsets
                .get(document as usize + 1)
                .copied()
                .unwrap_or(shard.tokens());
            let mut tokens = Vec::new();
            shard.append(start..end.min(start + SHOWN_TOKENS), &mut tokens)?;
            let ids: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
            texts.push(SampleText {
                split: Split::Train,
                shard: number as u32,
                document,
                tokens: end - start,
                text: tokenizer.decode(&ids)?,
            });
            next += 1;
        }
        before += shard.documents();
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_distributions() {
        assert!((entropy_nats(&[5, 5, 0, 5, 5]) - 4f64.ln()).abs() < 1e-12);
        assert_eq!(entropy_nats(&[0, 7]), 0.0);
        let skewed = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((entropy_nats(&[3, 1]) - skewed).abs() < 1e-12);
    }
}
