use std::path::{Path, PathBuf};

use muster_cluster::Submission;
use muster_data::{Dataset, Split};
use muster_spec::{Objective, RunSpec};
use muster_store::Location;
use muster_types::JobId;

use crate::{initial, job_files::JobDirs};

/// The resolved vocabulary is a multiple of this: matrix units like even sizes.
const VOCABULARY_MULTIPLE: u32 = 64;

/// Why a spec was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmissionError {
    #[error("spec_json is no run spec: {0}")]
    Malformed(serde_json::Error),
    #[error("the run spec is not valid: {0}")]
    Invalid(String),
    #[error("data.path: {0}")]
    Dataset(String),
    #[error("init.from: {0}")]
    Init(String),
    #[error("checkpoint.uri: {0}")]
    Checkpoint(String),
    #[error(
        "model.vocab_size is {given}, but the dataset's tokenizer needs {needed} rows; set it to at least that, or to 0"
    )]
    Vocabulary { given: u32, needed: u32 },
    #[error(
        "data.path: the dataset's {split} split holds no sequence of model.context_length = {context_length} tokens; use more text or a shorter context"
    )]
    TooShort { split: Split, context_length: u32 },
}

/// Checks a spec against the dataset that it names and resolves what it leaves open. Opens files: call it off the runtime.
pub(crate) fn prepare(
    spec_json: &str,
    job: JobId,
    dirs: &JobDirs,
) -> Result<Submission, SubmissionError> {
    let mut spec: RunSpec = serde_json::from_str(spec_json).map_err(SubmissionError::Malformed)?;
    spec.validate()
        .map_err(|error| SubmissionError::Invalid(error.to_string()))?;
    let wrong_path = |error: String| SubmissionError::Dataset(error);
    // Workers run in other directories.
    let path = absolute(&spec.data.path).map_err(wrong_path)?;
    let dataset = Dataset::open(&path).map_err(|error| wrong_path(error.to_string()))?;
    spec.data.path = text(path).map_err(wrong_path)?;

    initial::resolve(&mut spec).map_err(SubmissionError::Init)?;
    let needed = rows_needed(&dataset, &spec).map_err(wrong_path)?;
    match spec.model.vocab_size {
        0 => spec.model.vocab_size = needed.next_multiple_of(VOCABULARY_MULTIPLE),
        given if given < needed => return Err(SubmissionError::Vocabulary { given, needed }),
        _ => {}
    }
    let context_length = spec.model.context_length;
    let samples = |split| -> Result<u64, SubmissionError> {
        match dataset.shard_samples(split, context_length).iter().sum() {
            0 => Err(SubmissionError::TooShort {
                split,
                context_length,
            }),
            samples => Ok(samples),
        }
    };
    let dataset_samples = samples(Split::Train)?;
    if spec.evaluation.every_steps > 0 {
        samples(Split::Validation)?;
    }
    Ok(Submission {
        job,
        dataset_digest: dataset.digest(),
        dataset_samples,
        checkpoint_root: checkpoint_root(&spec.checkpoint.uri, &dirs.of(job))?,
        spec,
    })
}

/// Rows that the token embedding needs: one a token of the dataset's tokenizer, and for masks one more where that has none.
fn rows_needed(dataset: &Dataset, spec: &RunSpec) -> Result<u32, String> {
    let tokens = dataset.vocab_size();
    if spec.train.objective != Objective::Masked {
        return Ok(tokens);
    }
    let tokenizer = dataset.tokenizer().map_err(|error| error.to_string())?;
    Ok(tokens.max(tokenizer.mask_id() + 1))
}

fn checkpoint_root(uri: &str, job_dir: &Path) -> Result<String, SubmissionError> {
    let wrong = |error: String| SubmissionError::Checkpoint(error);
    if uri.is_empty() {
        return text(job_dir.join("checkpoints")).map_err(wrong);
    }
    let location = Location::parse(uri).map_err(|error| wrong(error.to_string()))?;
    let directory = location.directory();
    if directory.exists() && !directory.is_dir() {
        return Err(wrong(format!("{location} is a file; name a directory")));
    }
    text(directory.to_path_buf()).map_err(wrong)
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{path:?}: {error}"))
}

fn text(path: PathBuf) -> Result<String, String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| format!("{path:?} is no UTF-8 path"))
}
