use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use crate::{
    checkpoints,
    failure::Failure,
    output::{self, Output},
    words, worker_call,
};

/// Arguments of `muster export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster export hf runs/first --out models/first
  muster export hf shared/checkpoints/JOB/step-0000001000.g7 --out models/step-1000 -o json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// For Hugging Face: a directory that `transformers` loads
    #[command(after_help = "\
Examples:
  muster export hf runs/first --out models/first
  python -c \"import transformers as t; print(t.pipeline('text-generation', 'models/first')('KING'))\"")]
    Hf {
        /// A checkpoint, a job's checkpoints or a run's directory; the newest one there that reads back is taken
        #[arg(value_name = "CKPT")]
        checkpoint: String,
        /// The model directory, to be made
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How to print the outcome
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Makes a model directory of a checkpoint.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::Hf {
        checkpoint,
        out,
        output,
    } = args.command;
    let checkpoint = checkpoints::newest_valid(&checkpoint).await?;
    let mut arguments = vec!["export".into(), "--checkpoint".into()];
    arguments.push(checkpoint.uri().into());
    arguments.extend(["--out".into(), out.into_os_string()]);
    let made = worker_call::call(arguments)?;
    match output {
        Output::Json => output::json(&made),
        Output::Table => output::line(summary(&made)),
    }
}

fn summary(made: &Value) -> String {
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{}: a {} with {} parameters, of {}",
        text("directory"),
        text("architecture"),
        words::count(made["parameters"].as_u64().unwrap_or_default()),
        text("checkpoint")
    )
}
