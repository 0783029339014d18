//! `muster data prepare`: text files in, a dataset out.
//!
//! One thread reads and cuts documents, some threads decode and tokenize them, and the caller's thread writes them in the
//! order they were read; so the output does not depend on the number of threads, and only a bounded number of documents is
//! in memory.

mod documents;
mod error;
mod options;
mod pipeline;
mod progress;
mod run;
mod sources;
mod staging;
mod text;
mod writer;

pub use error::PrepareError;
pub use options::{
    DocumentUnit, DocumentUnitParseError, Existing, InvalidUtf8, PrepareOptions, TokenizerChoice,
    TokenizerChoiceParseError,
};
pub use progress::{Phase, Progress, Summary};
pub use run::prepare;
