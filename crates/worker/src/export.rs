//! `muster-worker export`: makes a model directory of Hugging Face of a checkpoint.

use std::{fs, path::PathBuf};

use muster_arch::{Family, ModelConfig, ParameterTable, hugging_face::hugging_face_config};
use muster_data::Tokenizer;
use serde_json::{Value, json};

use crate::{
    import::{GENERATION, TOKEN_KEYS},
    offline::{self, Fault, Loaded, Staging},
};

/// Text to tokens.
const TOKENIZER: &str = "tokenizer.json";
/// Which class of `transformers` reads it.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The model.
const CONFIG: &str = "config.json";

/// What to export.
#[derive(clap::Args)]
pub struct Arguments {
    /// The checkpoint's directory
    #[arg(long)]
    checkpoint: String,
    /// The model directory, to be made
    #[arg(long)]
    out: PathBuf,
}

/// Returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    offline::tell(export(&arguments))
}

fn export(arguments: &Arguments) -> Result<Value, Fault> {
    let loaded = Loaded::open(&arguments.checkpoint)?;
    let config = &loaded.spec.model;
    let mut written = hugging_face_config(config).map_err(Fault::input)?;
    let staging = Staging::create(&arguments.out)?;
    let directory = staging.directory().to_path_buf();
    let write = |name: &str, content: Vec<u8>| {
        fs::write(directory.join(name), content)
            .map_err(|cause| Fault::operation(format!("cannot write {name}: {cause}")))
    };
    for file in &loaded.checkpoint.manifest().extra_files {
        let content = fs::read(loaded.directory.join(&file.file))
            .map_err(|cause| Fault::operation(format!("cannot read {}: {cause}", file.file)))?;
        write(&file.file, content)?;
    }
    let generation = generation(&loaded, config)?;
    for key in TOKEN_KEYS {
        // Left out, transformers would put in those of its own models.
        written[key] = generation[key].clone();
    }
    if config.family == Family::Bert {
        // The row that BERT never trains; where it lies changes no output.
        written["pad_token_id"] = match &generation["pad_token_id"] {
            Value::Null => json!(0),
            id => id.clone(),
        };
    } else if !directory.join(GENERATION).exists() {
        write(GENERATION, pretty(&generation)?)?;
    }
    if directory.join(TOKENIZER).exists() && !directory.join(TOKENIZER_CONFIG).exists() {
        write(TOKENIZER_CONFIG, pretty(&tokenizer_config(&loaded))?)?;
    }
    write(CONFIG, pretty(&written)?)?;
    muster_train::write_hugging_face_weights(&*loaded.model, &directory)
        .map_err(Fault::operation)?;
    staging.commit(&directory)?;
    Ok(json!({
        "directory": arguments.out.display().to_string(),
        "architecture": written["architectures"][0],
        "parameters": ParameterTable::new(config).elements(),
        "checkpoint": loaded.checkpoint.uri(),
    }))
}

/// How texts begin and end: as the checkpoint says, else as its tokenizer does.
fn generation(loaded: &Loaded, config: &ModelConfig) -> Result<Value, Fault> {
    let carried = loaded.directory.join(GENERATION);
    if carried.exists() {
        let text = fs::read(&carried).map_err(Fault::operation)?;
        return serde_json::from_slice(&text)
            .map_err(|cause| Fault::operation(format!("{GENERATION} cannot be used: {cause}")));
    }
    let end = match tokenizer(loaded) {
        Some(tokenizer) if tokenizer.vocab_size() <= config.vocab_size => {
            json!(tokenizer.end_of_text())
        }
        _ => Value::Null,
    };
    Ok(json!({ "bos_token_id": end, "eos_token_id": end }))
}

fn tokenizer_config(loaded: &Loaded) -> Value {
    let name = tokenizer(loaded).map(|tokenizer| tokenizer.end_of_text_name());
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "model_max_length": loaded.spec.model.context_length,
    })
}

/// The checkpoint's tokenizer; one that is not there, or has no token for the end of a text, says nothing of how texts end.
fn tokenizer(loaded: &Loaded) -> Option<Tokenizer> {
    Tokenizer::from_file(&loaded.directory.join(TOKENIZER)).ok()
}

fn pretty(value: &Value) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec_pretty(value).map_err(Fault::operation)
}
