use std::path::PathBuf;

use clap::Subcommand;

use crate::{
    checkpoints,
    failure::Failure,
    output::{self, Output},
    worker_call,
};

/// Arguments of `muster eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo '[[464, 2068, 7586], [1, 2, 3]]' > ids.json
  muster eval logits --model runs/first --ids ids.json --out logits.safetensors")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write down what a model computes for given token ids
    #[command(after_help = "\
Examples:
  echo '[[464, 2068, 7586], [1, 2, 3]]' > ids.json
  muster eval logits --model runs/first --ids ids.json --out logits.safetensors

The file holds `logits` [rows, length, vocabulary]; of a model without an output head `features` [rows, length, width]; and of one \
with a pooler `pooled` [rows, width] beside them.")]
    Logits {
        /// A checkpoint, a job's checkpoints or a run's directory; the newest one there that reads back is taken
        #[arg(long, value_name = "URI")]
        model: String,
        /// A JSON file with rows of token ids, all as long
        #[arg(long, value_name = "FILE")]
        ids: PathBuf,
        /// The safetensors file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How to print the outcome
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Computes something with a trained model.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::Logits {
        model,
        ids,
        out,
        output,
    } = args.command;
    let checkpoint = checkpoints::newest_valid(&model).await?;
    let mut arguments = vec!["logits".into(), "--checkpoint".into()];
    arguments.push(checkpoint.uri().into());
    arguments.extend(["--ids".into(), ids.into_os_string()]);
    arguments.extend(["--out".into(), out.into_os_string()]);
    let made = worker_call::call(arguments)?;
    if output == Output::Json {
        return output::json(&made);
    }
    let file = made["file"].as_str().unwrap_or_default();
    let tensors = made["tensors"].as_object().into_iter().flatten();
    let shapes: Vec<_> = tensors
        .map(|(name, shape)| format!("{name} {shape}"))
        .collect();
    output::line(format!("{file}: {}", shapes.join(", ")))
}
