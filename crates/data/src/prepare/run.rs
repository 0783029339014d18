use std::{
    fs, io,
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use muster_types::Digest;

use super::{
    Phase, PrepareError, PrepareOptions, Progress, Summary, TokenizerChoice,
    documents::{Documents, RawDocument},
    pipeline,
    sources::Sources,
    staging::Staging,
    text::{Repairs, Text, TextRules},
    writer::{SplitWriter, failed, write_durably},
};
use crate::{
    BLOCK_BYTES, EndOfText, FORMAT_VERSION, INDEX_FILE, Index, Split, Splits, TOKENIZER_FILE,
    TokenDtype, Tokenizer, TokenizerEntry, TokenizerError, TokenizerKind, split::DocumentHash,
    tokenizer,
};

/// Text that a tokenizer is trained on at most. More changes a vocabulary little, and takes long.
const TOKENIZER_TRAINING_BYTES: u64 = 64 << 20;

/// Called now and then; answers whether to go on.
type OnProgress<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Makes a dataset of text files. Its content depends on the text, the paths' order and the options, but not on the number
/// of threads. `progress` is called now and then, from some thread; when it answers `Break`, preparing is cancelled.
///
/// The dataset appears under its name once it is complete and durable. On any error nothing is left behind.
///
/// # Errors
/// Names the option, file, line or byte at fault.
pub fn prepare(
    options: &PrepareOptions,
    progress: OnProgress<'_>,
) -> Result<Summary, PrepareError> {
    options.check()?;
    let sources = Sources::find(&options.inputs)?;
    let staging = Staging::create(&options.out, options.existing)?;
    let run = Run {
        options,
        sources: &sources,
        rules: TextRules {
            text_key: options.text_key.clone(),
            invalid_utf8: options.invalid_utf8,
        },
        threads: threads(options.threads),
        progress,
    };
    let (kind, json) = run.tokenizer()?;
    let tokenizer = Tokenizer::from_json(&json)?;
    let tokenized = run.tokenize(&tokenizer, &staging)?;
    run.report(Phase::Finishing, sources.bytes(), &tokenized.counts)?;
    let index = Index {
        format_version: FORMAT_VERSION,
        tokenizer: TokenizerEntry {
            kind,
            file: TOKENIZER_FILE.into(),
            digest: Digest::new(*blake3::hash(&json).as_bytes()),
            end_of_text: EndOfText {
                id: tokenizer.end_of_text(),
                token: tokenizer.end_of_text_name(),
            },
        },
        dtype: TokenDtype::for_vocabulary(tokenizer.vocab_size()),
        vocab_size: tokenizer.vocab_size(),
        block_bytes: BLOCK_BYTES,
        splits: tokenized.splits,
    };
    let mut index_json = serde_json::to_vec_pretty(&index)
        .map_err(|error| failed(&options.out.join(INDEX_FILE), io::Error::other(error)))?;
    index_json.push(b'\n');
    write_durably(&staging.dir().join(TOKENIZER_FILE), &json)?;
    write_durably(&staging.dir().join(INDEX_FILE), &index_json)?;
    let out = staging.commit()?;
    Ok(Summary {
        out,
        digest: Digest::new(*blake3::hash(&index_json).as_bytes()),
        files: sources.files.len() as u64,
        ignored_files: sources.ignored,
        bytes: sources.bytes(),
        empty_documents: tokenized.counts.empty,
        repaired_documents: tokenized.counts.repaired,
        vocab_size: index.vocab_size,
        train: index.split(Split::Train).into(),
        validation: index.split(Split::Validation).into(),
        notes: notes(options, &index),
    })
}

struct Run<'a> {
    options: &'a PrepareOptions,
    sources: &'a Sources,
    rules: TextRules,
    threads: usize,
    progress: OnProgress<'a>,
}

#[derive(Default)]
struct Counts {
    documents: u64,
    tokens: u64,
    empty: u64,
    repaired: u64,
}

struct Tokenized {
    splits: Splits,
    counts: Counts,
}

/// What a thread makes of a document.
struct Encoded {
    /// None for a document without text.
    document: Option<EncodedDocument>,
    repairs: Repairs,
    raw_bytes: u64,
}

struct EncodedDocument {
    split: Split,
    tokens: Vec<u32>,
    text_bytes: u64,
}

impl Run<'_> {
    fn documents(&self) -> Documents {
        Documents::new(&self.sources.files, self.options.document_unit)
    }

    fn report(&self, phase: Phase, bytes_done: u64, counts: &Counts) -> Result<(), PrepareError> {
        let bytes_total = self.sources.bytes();
        let Counts {
            documents, tokens, ..
        } = *counts;
        match (self.progress)(Progress {
            phase,
            bytes_done,
            bytes_total,
            documents,
            tokens,
        }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(PrepareError::Cancelled),
        }
    }

    /// The tokenizer as its file.
    fn tokenizer(&self) -> Result<(TokenizerKind, Vec<u8>), PrepareError> {
        match &self.options.tokenizer {
            TokenizerChoice::Bytes => Ok((
                TokenizerKind::Bytes,
                tokenizer::byte_tokenizer_json()?.into_bytes(),
            )),
            TokenizerChoice::TrainBpe { vocab_size } => Ok((
                TokenizerKind::TrainBpe,
                self.train_tokenizer(*vocab_size)?.into_bytes(),
            )),
            TokenizerChoice::File(path) => {
                // Loaded once here, so that what is wrong with it is told with its path.
                Tokenizer::from_file(path)?;
                let json = fs::read(path).map_err(|source| TokenizerError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                Ok((TokenizerKind::File, json))
            }
        }
    }

    /// Trains on the training split; on a random part of it, chosen by the documents' hashes, if there is much.
    fn train_tokenizer(&self, vocab_size: u32) -> Result<String, PrepareError> {
        let share = TOKENIZER_TRAINING_BYTES as f64 / self.sources.bytes().max(1) as f64;
        let failure = Mutex::new(None);
        let (bytes_done, documents) = (AtomicU64::new(0), AtomicU64::new(0));
        let read = |raw: Result<RawDocument, PrepareError>| {
            let raw = raw?;
            let bytes_done = bytes_done.fetch_add(raw.bytes.len() as u64, Ordering::Relaxed)
                + raw.bytes.len() as u64;
            let documents = documents.fetch_add(1, Ordering::Relaxed) + 1;
            self.report(
                Phase::TrainingTokenizer,
                bytes_done,
                &Counts {
                    documents,
                    ..Counts::default()
                },
            )?;
            self.rules.text(raw).map(|Text { text, .. }| text)
        };
        let texts = self
            .documents()
            .map_while(|raw| match read(raw) {
                Ok(text) => Some(text),
                Err(error) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            })
            .filter(|text| {
                let hash = DocumentHash::of(text);
                hash.split(self.options.validation_fraction) == Split::Train && hash.sampled(share)
            });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build();
        let pool = pool.map_err(|error| PrepareError::Threads(error.to_string()))?;
        let json = pool.install(|| tokenizer::train_bpe_json(vocab_size, texts));
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(json?),
        }
    }

    fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        staging: &Staging,
    ) -> Result<Tokenized, PrepareError> {
        let dtype = TokenDtype::for_vocabulary(tokenizer.vocab_size());
        let writer =
            |split| SplitWriter::new(staging.dir(), split, dtype, self.options.shard_tokens);
        let (mut train, mut validation) = (writer(Split::Train), writer(Split::Validation));
        let (mut counts, mut bytes_done, mut train_documents) = (Counts::default(), 0, 0);
        pipeline::run(
            self.documents(),
            self.threads,
            |raw| self.encode(tokenizer, raw),
            |batch| {
                for Encoded {
                    document,
                    repairs,
                    raw_bytes,
                } in batch
                {
                    bytes_done += raw_bytes;
                    counts.repaired += u64::from(repairs == Repairs::Some);
                    let Some(document) = document else {
                        counts.empty += 1;
                        continue;
                    };
                    counts.documents += 1;
                    counts.tokens += document.tokens.len() as u64;
                    train_documents += u64::from(document.split == Split::Train);
                    let writer = match document.split {
                        Split::Train => &mut train,
                        Split::Validation => &mut validation,
                    };
                    writer.push(&document.tokens, document.text_bytes)?;
                }
                self.report(Phase::Tokenizing, bytes_done, &counts)
            },
        )?;
        if counts.documents == 0 {
            return Err(PrepareError::NoText {
                files: self.sources.files.len() as u64,
            });
        }
        if train_documents == 0 {
            return Err(PrepareError::NoTrainingText {
                documents: counts.documents,
            });
        }
        Ok(Tokenized {
            splits: Splits {
                train: train.finish()?,
                validation: validation.finish()?,
            },
            counts,
        })
    }

    fn encode(&self, tokenizer: &Tokenizer, raw: RawDocument) -> Result<Encoded, PrepareError> {
        let (path, line, raw_bytes) = (raw.source.path.clone(), raw.line, raw.bytes.len() as u64);
        let Text { text, repairs } = self.rules.text(raw)?;
        if text.trim().is_empty() {
            return Ok(Encoded {
                document: None,
                repairs,
                raw_bytes,
            });
        }
        let mut tokens = tokenizer
            .encode(&text)
            .map_err(|error| PrepareError::Document {
                path,
                line,
                reason: error.to_string(),
            })?;
        tokens.push(tokenizer.end_of_text());
        let split = DocumentHash::of(&text).split(self.options.validation_fraction);
        let document = EncodedDocument {
            split,
            tokens,
            text_bytes: text.len() as u64,
        };
        Ok(Encoded {
            document: Some(document),
            repairs,
            raw_bytes,
        })
    }
}

fn threads(asked: usize) -> usize {
    match asked {
        0 => thread::available_parallelism().map_or(1, usize::from),
        asked => asked.min(1024),
    }
}

fn notes(options: &PrepareOptions, index: &Index) -> Vec<String> {
    let mut notes = vec![];
    if options.validation_fraction > 0.0 && index.splits.validation.shards.is_empty() {
        notes.push(
            "No document fell into the validation split, so no validation loss can be measured: \
             raise the validation fraction, or cut smaller documents."
                .into(),
        );
    }
    if let TokenizerChoice::TrainBpe { vocab_size } = options.tokenizer
        && index.vocab_size < vocab_size
    {
        notes.push(format!(
            "The text has no more than {} tokens' worth of repeated pairs, fewer than the {vocab_size} asked for.",
            index.vocab_size
        ));
    }
    notes
}
