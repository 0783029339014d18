//! Datasets: tokenizing text in, verified sequences out.
//!
//! [`prepare`] turns text files into a dataset: a directory with an [`Index`], a tokenizer and data shards of tokens.
//! [`Dataset`] reads its samples through a memory map and checks each block the first time it is touched.
//! [`inspect`] says what is in one.

mod dataset;
mod dataset_error;
mod index;
mod inspect;
mod map;
mod prepare;
mod shard;
mod split;
mod tokenizer;

pub use dataset::Dataset;
pub use dataset_error::DatasetError;
pub use index::{
    BLOCK_BYTES, EndOfText, FORMAT_VERSION, INDEX_FILE, Index, ShardEntry, SplitEntry, Splits,
    TOKENIZER_FILE, TokenDtype, TokenizerEntry, TokenizerKind,
};
pub use inspect::{Inspection, SampleText, SplitSummary, inspect};
pub use prepare::{
    DocumentUnit, DocumentUnitParseError, Existing, InvalidUtf8, Phase, PrepareError,
    PrepareOptions, Progress, Summary, TokenizerChoice, TokenizerChoiceParseError, prepare,
};
pub use split::Split;
pub use tokenizer::{Tokenizer, TokenizerError};
