//! `muster-worker import`: makes a checkpoint of a model directory of Hugging Face.

use std::{fs, path::PathBuf};

use muster_arch::ParameterTable;
use muster_checkpoint::{FORMAT_VERSION, Manifest};
use muster_model::NamedTensor;
use muster_spec::{Objective, RunSpec};
use muster_store::{CheckpointStore, Location};
use muster_train::{HuggingFaceError, HuggingFaceModel};
use muster_types::{Generation, JobId, Rank, StateId, Step, WorldSize};
use serde_json::{Map, Value, json};

use crate::offline::{self, Fault, Staging};

/// What lies beside the tensors and goes wherever they go.
pub const CARRIED: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    GENERATION,
];
/// How texts begin and end, and how they are sampled.
pub const GENERATION: &str = "generation_config.json";
/// Which of its keys older directories have in config.json.
pub const TOKEN_KEYS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// What to import.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model directory
    #[arg(long)]
    source: PathBuf,
    /// The checkpoint's directory, to be made
    #[arg(long)]
    out: PathBuf,
    /// The id under which the checkpoint goes as a job's
    #[arg(long)]
    job: JobId,
    /// Leave out tensors whose names begin so
    #[arg(long)]
    leave_out: Vec<String>,
}

/// Returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    offline::tell(import(&arguments))
}

fn import(arguments: &Arguments) -> Result<Value, Fault> {
    let fault = |error: HuggingFaceError| match error {
        HuggingFaceError::Unreadable { .. } | HuggingFaceError::Torch(_) => Fault::operation(error),
        _ => Fault::input(error),
    };
    let source = HuggingFaceModel::open(&arguments.source, &arguments.leave_out).map_err(fault)?;
    let staging = Staging::create(&arguments.out)?;
    let tensors = source.tensors().map_err(fault)?;
    let root = staging.directory().display().to_string();
    let state = StateId::new(Generation(0), Step(0));
    let store = CheckpointStore::open(&root, arguments.job).map_err(Fault::operation)?;
    let place = Location::parse(&store.uri(state)).map_err(Fault::operation)?;
    let manifest = write(arguments, &source, &tensors, &store, &place)?;
    offline::block_on(store.commit(&manifest))?.map_err(Fault::operation)?;
    staging.commit(place.directory())?;
    Ok(json!({
        "checkpoint": arguments.out.display().to_string(),
        "family": source.config().family.name(),
        "parameters": ParameterTable::new(source.config()).elements(),
        "model": source.config(),
        "files": manifest.extra_files.iter().map(|it| &it.file).collect::<Vec<_>>(),
    }))
}

/// Writes all files but the manifest.
fn write(
    arguments: &Arguments,
    source: &HuggingFaceModel,
    tensors: &[NamedTensor],
    store: &CheckpointStore,
    place: &Location,
) -> Result<Manifest, Fault> {
    let state = StateId::new(Generation(0), Step(0));
    let file = muster_train::part_file_name(Rank(0), WorldSize(1));
    let part =
        muster_train::write_tensors(tensors, place.directory(), &file).map_err(Fault::operation)?;
    let mut extra_files = Vec::new();
    for name in CARRIED {
        let content = match fs::read(arguments.source.join(name)) {
            Ok(content) => content,
            Err(_) if name == GENERATION => match token_ids(source.source()) {
                Some(ids) => ids.to_string().into_bytes(),
                None => continue,
            },
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(Fault::operation(format!("cannot read {name}: {cause}"))),
        };
        let put = store.put_extra(state, name, content.into());
        extra_files.push(offline::block_on(put)?.map_err(Fault::operation)?);
    }
    let mut spec = RunSpec {
        name: "imported".into(),
        model: source.config().clone(),
        ..RunSpec::default()
    };
    if !spec.model.family.is_causal() {
        spec.train.objective = Objective::Masked;
    }
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        job: arguments.job,
        state,
        tokens_seen: 0,
        spec: serde_json::to_value(spec).map_err(Fault::operation)?,
        segments: Vec::new(),
        numerics_fingerprint: "imported".into(),
        files: vec![part],
        extra_files,
    })
}

/// The token ids that config.json names, where it names any.
fn token_ids(config: &Value) -> Option<Value> {
    let named = TOKEN_KEYS
        .into_iter()
        .filter(|key| !config[key].is_null())
        .map(|key| (key.to_owned(), config[key].clone()));
    let named: Map<_, _> = named.collect();
    (!named.is_empty()).then_some(Value::Object(named))
}
