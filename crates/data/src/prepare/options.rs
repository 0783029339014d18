use std::{fmt, path::PathBuf, str::FromStr};

use super::PrepareError;
use crate::tokenizer::MIN_BPE_VOCABULARY;

/// What to prepare, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// `.txt` and `.jsonl` files, and directories of them.
    pub inputs: Vec<PathBuf>,
    /// The dataset's directory.
    pub out: PathBuf,
    /// What turns text into tokens.
    pub tokenizer: TokenizerChoice,
    /// Share of documents to hold out: at least 0, below 1.
    pub validation_fraction: f64,
    /// Tokens after which a new data shard is begun; a document is never split over two.
    pub shard_tokens: u64,
    /// Threads that tokenize; 0: one a core.
    pub threads: usize,
    /// What to do with a dataset that is there already.
    pub existing: Existing,
    /// The key of a JSON line under which the text is.
    pub text_key: String,
    /// What a document is in a `.txt` file.
    pub document_unit: DocumentUnit,
    /// What to do with text that is no UTF-8.
    pub invalid_utf8: InvalidUtf8,
}

impl PrepareOptions {
    /// The defaults: 1 % held out, data shards of 2^27 tokens, all cores, no replacing, key `text`, paragraphs of 2 KiB,
    /// invalid UTF-8 is an error.
    pub fn new(inputs: Vec<PathBuf>, out: PathBuf, tokenizer: TokenizerChoice) -> Self {
        Self {
            inputs,
            out,
            tokenizer,
            validation_fraction: 0.01,
            shard_tokens: 1 << 27,
            threads: 0,
            existing: Existing::Refuse,
            text_key: "text".into(),
            document_unit: DocumentUnit::default(),
            invalid_utf8: InvalidUtf8::Reject,
        }
    }

    pub(super) fn check(&self) -> Result<(), PrepareError> {
        let wrong = |option, reason: String| Err(PrepareError::Option { option, reason });
        if self.inputs.is_empty() {
            return wrong(
                "inputs",
                "none given; name at least one .txt or .jsonl file or directory".into(),
            );
        }
        if !(0.0..1.0).contains(&self.validation_fraction) {
            return wrong(
                "validation fraction",
                format!("{} is not in 0..1", self.validation_fraction),
            );
        }
        if self.shard_tokens == 0 {
            return wrong("shard tokens", "0 is not positive".into());
        }
        match self.tokenizer {
            TokenizerChoice::TrainBpe { vocab_size } if vocab_size < MIN_BPE_VOCABULARY => wrong(
                "tokenizer",
                format!(
                    "a vocabulary of {vocab_size} is too small: 256 bytes and the end-of-text token need {MIN_BPE_VOCABULARY}"
                ),
            ),
            _ => Ok(()),
        }
    }
}

/// What turns text into tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// One token a byte; 257 in all.
    Bytes,
    /// Byte-level BPE, trained on the training split (on a random 64 MiB of it if it is larger).
    TrainBpe {
        /// Tokens in all: 256 bytes, merges, and the end-of-text token.
        vocab_size: u32,
    },
    /// A `tokenizer.json`.
    File(PathBuf),
}

/// A text that is no choice of tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no tokenizer: expected bytes, train-bpe:VOCAB (such as train-bpe:8192), or the path of a tokenizer.json"
)]
pub struct TokenizerChoiceParseError {
    text: String,
}

impl FromStr for TokenizerChoice {
    type Err = TokenizerChoiceParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TokenizerChoiceParseError { text: text.into() };
        match text.split_once(':') {
            Some(("train-bpe", vocab_size)) => vocab_size
                .parse()
                .map(|vocab_size| Self::TrainBpe { vocab_size })
                .map_err(|_| wrong()),
            _ if text == "bytes" => Ok(Self::Bytes),
            _ if text.is_empty() || text == "train-bpe" => Err(wrong()),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => f.write_str("bytes"),
            Self::TrainBpe { vocab_size } => write!(f, "train-bpe:{vocab_size}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What a document is in a `.txt` file. In a `.jsonl` file it is always a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentUnit {
    /// The whole file.
    File,
    /// A run of paragraphs: the file is cut at the first blank line after this many bytes. Joined, the documents are the
    /// file again. Books come in few, long files; a split by file would hold out all of some and nothing of the others.
    Paragraphs {
        /// Least bytes of a document, but for the last of a file.
        min_bytes: u64,
    },
}

impl Default for DocumentUnit {
    /// Paragraphs of at least 2 KiB.
    fn default() -> Self {
        Self::Paragraphs { min_bytes: 2048 }
    }
}

/// A text that is no document unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no document unit: expected file, paragraphs, or paragraphs:BYTES (such as paragraphs:2048)"
)]
pub struct DocumentUnitParseError {
    text: String,
}

impl FromStr for DocumentUnit {
    type Err = DocumentUnitParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DocumentUnitParseError { text: text.into() };
        match text.split_once(':') {
            Some(("paragraphs", bytes)) => bytes
                .parse()
                .map(|min_bytes| Self::Paragraphs { min_bytes })
                .map_err(|_| wrong()),
            None if text == "file" => Ok(Self::File),
            None if text == "paragraphs" => Ok(Self::default()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for DocumentUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Paragraphs { min_bytes } => write!(f, "paragraphs:{min_bytes}"),
        }
    }
}

/// What to do with text that is no UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvalidUtf8 {
    /// Stop, and name the place.
    #[default]
    Reject,
    /// Put U+FFFD for what is wrong, and count the documents.
    Replace,
}

/// What to do with a dataset that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Stop, and leave it.
    #[default]
    Refuse,
    /// Replace it once the new one is complete. Anything but a dataset is left.
    Replace,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn choices_are_read_and_written() {
        for (text, choice) in [
            ("bytes", TokenizerChoice::Bytes),
            (
                "train-bpe:8192",
                TokenizerChoice::TrainBpe { vocab_size: 8192 },
            ),
            (
                "models/tokenizer.json",
                TokenizerChoice::File("models/tokenizer.json".into()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(choice.clone()));
            assert_eq!(choice.to_string(), text);
        }
        for text in [
            "",
            "train-bpe",
            "train-bpe:",
            "train-bpe:many",
            "train-bpe:-1",
        ] {
            assert!(text.parse::<TokenizerChoice>().is_err(), "{text}");
        }
        assert_eq!(
            "paragraphs".parse(),
            Ok(DocumentUnit::Paragraphs { min_bytes: 2048 })
        );
        for text in ["file", "paragraphs:0", "paragraphs:4096"] {
            assert_eq!(text.parse::<DocumentUnit>().unwrap().to_string(), text);
        }
        for text in ["", "files", "file:1", "paragraphs:x", "lines"] {
            assert!(text.parse::<DocumentUnit>().is_err(), "{text}");
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let good =
            || PrepareOptions::new(vec!["a.txt".into()], "out".into(), TokenizerChoice::Bytes);
        let named = |options: PrepareOptions| options.check().unwrap_err().to_string();
        assert!(good().check().is_ok());
        assert!(
            named(PrepareOptions {
                inputs: vec![],
                ..good()
            })
            .contains("inputs")
        );
        for validation_fraction in [-0.1, 1.0, f64::NAN] {
            assert!(
                named(PrepareOptions {
                    validation_fraction,
                    ..good()
                })
                .contains("validation fraction")
            );
        }
        assert!(
            named(PrepareOptions {
                shard_tokens: 0,
                ..good()
            })
            .contains("shard tokens")
        );
        let tokenizer = TokenizerChoice::TrainBpe { vocab_size: 256 };
        assert!(
            named(PrepareOptions {
                tokenizer,
                ..good()
            })
            .contains("257")
        );
    }
}
