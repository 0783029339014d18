//! `muster-worker logits`: writes down what a checkpoint's model computes for given token ids.

use std::{fs, path::PathBuf};

use muster_model::{Model, NamedTensor, Pass};
use serde_json::{Value, json};
use tch::{TchError, Tensor, no_grad};

use crate::offline::{self, Fault, Loaded};

/// What to compute.
#[derive(clap::Args)]
pub struct Arguments {
    /// The checkpoint's directory
    #[arg(long)]
    checkpoint: String,
    /// A JSON file with rows of token ids
    #[arg(long)]
    ids: PathBuf,
    /// The safetensors file to write
    #[arg(long)]
    out: PathBuf,
}

/// Returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    offline::tell(logits(&arguments))
}

fn logits(arguments: &Arguments) -> Result<Value, Fault> {
    let loaded = Loaded::open(&arguments.checkpoint)?;
    let rows = read_ids(arguments, &loaded)?;
    let tensors = compute(&*loaded.model, &rows).map_err(Fault::operation)?;
    let name = arguments.out.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        let shown = arguments.out.display();
        return Err(Fault::input(format!("--out {shown} is no name for a file")));
    };
    let directory = arguments.out.parent();
    let directory = directory.filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or(std::path::Path::new("."));
    muster_train::write_tensors(&tensors, directory, name).map_err(Fault::operation)?;
    let shapes: serde_json::Map<String, Value> = tensors
        .iter()
        .map(|named| (named.name.clone(), json!(named.tensor.size())))
        .collect();
    Ok(json!({ "file": arguments.out.display().to_string(), "tensors": shapes }))
}

/// Rows of ids, all as long, that the model can take.
fn read_ids(arguments: &Arguments, loaded: &Loaded) -> Result<Vec<Vec<i64>>, Fault> {
    let shown = arguments.ids.display();
    let wrong = |reason: String| Fault::input(format!("{shown}: {reason}"));
    let text =
        fs::read(&arguments.ids).map_err(|cause| wrong(format!("cannot be read: {cause}")))?;
    let rows: Vec<Vec<i64>> = serde_json::from_slice(&text)
        .map_err(|cause| wrong(format!("is no list of rows of token ids: {cause}")))?;
    let config = &loaded.spec.model;
    let length = rows.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(wrong("holds no token ids".into()));
    }
    if length > config.context_length as usize {
        return Err(wrong(format!(
            "rows have {length} ids and the model's context is {}",
            config.context_length
        )));
    }
    for (number, row) in (1..).zip(&rows) {
        if row.len() != length {
            return Err(wrong(format!(
                "row {number} has {} ids and the first has {length}: all must be as long",
                row.len()
            )));
        }
        let vocabulary = i64::from(config.vocab_size);
        if let Some(id) = row.iter().find(|id| !(0..vocabulary).contains(*id)) {
            return Err(wrong(format!(
                "row {number} has the id {id}, and the model's vocabulary is {vocabulary}"
            )));
        }
    }
    Ok(rows)
}

/// `logits` \[rows, T, V\] where the model has an output head, `features` \[rows, T, C\] where it has none, and `pooled` \[rows, C\] where
/// it has a pooler. A row at a time: the whole would hold every row's activations at once.
fn compute(model: &dyn Model, rows: &[Vec<i64>]) -> Result<Vec<NamedTensor>, TchError> {
    let has_head = model.config().mlm_head;
    let (mut places, mut pooled) = (Vec::new(), Vec::new());
    for row in rows {
        let tokens = Tensor::f_from_slice(row)?.f_unsqueeze(0)?; // [1, T]
        let features = no_grad(|| model.features(&tokens, Pass::Evaluate))?; // [1, T, C]
        pooled.extend(no_grad(|| model.pooled(&features))?);
        places.push(match has_head {
            true => no_grad(|| model.head(&features))?,
            false => features,
        });
    }
    let named = |name: &str, tensors: &[Tensor]| -> Result<NamedTensor, TchError> {
        Ok(NamedTensor {
            name: name.into(),
            tensor: Tensor::f_cat(tensors, 0)?.f_contiguous()?,
        })
    };
    let mut all = vec![named(
        if has_head { "logits" } else { "features" },
        &places,
    )?];
    if !pooled.is_empty() {
        all.push(named("pooled", &pooled)?);
    }
    Ok(all)
}
