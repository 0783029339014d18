use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    failure::Failure,
    output::{self, Output},
    words, worker_call,
};

/// Arguments of `muster import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster import hf models/SmolLM2-135M --out models/smollm2.ckpt
  muster generate --checkpoint models/smollm2.ckpt --prompt \"Once\"")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Of Hugging Face: a directory with config.json and safetensors files
    #[command(after_help = "\
Examples:
  muster import hf models/SmolLM2-135M --out models/smollm2.ckpt
  muster import hf models/bert-base-uncased --leave-out cls.seq_relationship. --out models/bert.ckpt
  muster run configs/quickstart.toml --set init.from=models/smollm2.ckpt

GPT-2, Llama, Mistral, Qwen2, Qwen3 and BERT can be read. Exit code 2 where the model is another, or its tensors are not those \
that config.json promises; each is named, and nothing is written.")]
    Hf {
        /// The model directory
        #[arg(value_name = "DIR")]
        source: PathBuf,
        /// The checkpoint's directory, to be made
        #[arg(long, value_name = "CKPT")]
        out: PathBuf,
        /// Leave out the tensors whose names begin so; may be repeated
        #[arg(long, value_name = "PREFIX")]
        leave_out: Vec<String>,
        /// How to print the outcome
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Makes a checkpoint of a model from elsewhere.
pub fn run(args: Args) -> Result<(), Failure> {
    let Command::Hf {
        source,
        out,
        leave_out,
        output,
    } = args.command;
    let job = Uuid::now_v7().to_string();
    let mut arguments = vec!["import".into(), "--source".into(), source.into_os_string()];
    arguments.extend(["--out".into(), out.into_os_string()]);
    arguments.extend(["--job".into(), job.into()]);
    for prefix in leave_out {
        arguments.push(format!("--leave-out={prefix}").into());
    }
    let made = worker_call::call(arguments)?;
    match output {
        Output::Json => output::json(&made),
        Output::Table => output::line(summary(&made)),
    }
}

fn summary(made: &Value) -> String {
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{}: a model of the family {} with {} parameters",
        text("checkpoint"),
        text("family"),
        words::count(made["parameters"].as_u64().unwrap_or_default())
    )
}
