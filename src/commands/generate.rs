use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    checkpoints,
    failure::Failure,
    output::{self, Output},
    worker_binary,
};

/// Arguments of `muster generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster generate --checkpoint runs/quickstart-20260131-080500 --prompt \"ROMEO:\"
  muster generate --checkpoint DIR --prompt \"Once\" --temperature 0.8 --top-k 50 --seed 1")]
pub struct Args {
    /// A checkpoint, a job's checkpoints or a run's directory; the newest one there that reads back is taken
    #[arg(long, value_name = "URI")]
    checkpoint: String,
    /// The text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Most tokens to add
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Above 1: more surprising; below 1: more predictable
    #[arg(long, value_name = "T", conflicts_with = "greedy", value_parser = temperature)]
    temperature: Option<f64>,
    /// Choose among the N most likely tokens only
    #[arg(long, value_name = "N", conflicts_with = "greedy")]
    top_k: Option<u32>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", conflicts_with = "greedy")]
    seed: Option<u64>,
    /// Always take the most likely token
    #[arg(long)]
    greedy: bool,
    /// How to print the text; JSON comes once all of it is there
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(
            "expected a number above 0; for the most likely token each time, use --greedy".into(),
        ),
    }
}

/// Becomes `muster-worker generate`, which has the tensors; for JSON it runs it.
pub async fn run(args: Args) -> Result<(), Failure> {
    let worker = worker_binary::find()?;
    let checkpoint = checkpoints::newest_valid(&args.checkpoint).await?;
    let mut command = Command::new(&worker);
    command.args(["generate", "--checkpoint", checkpoint.uri()]);
    command.arg(format!("--prompt={}", args.prompt));
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.args([name, &value]);
        }
    };
    option("--max-tokens", args.max_tokens.map(|it| it.to_string()));
    option("--temperature", args.temperature.map(|it| it.to_string()));
    option("--top-k", args.top_k.map(|it| it.to_string()));
    option("--seed", args.seed.map(|it| it.to_string()));
    if args.greedy {
        command.arg("--greedy");
    }
    let cannot_start =
        |error| Failure::operation(format!("cannot start {}: {error}", worker.display()));
    if args.output == Output::Table {
        return Err(cannot_start(command.exec()));
    }
    let printed = command.stderr(Stdio::inherit()).output();
    let printed = printed.map_err(cannot_start)?;
    if !printed.status.success() {
        // It has said why.
        return Err(Failure::told());
    }
    output::json(&json!({
        "checkpoint": checkpoint.uri(),
        "prompt": args.prompt,
        "text": String::from_utf8_lossy(&printed.stdout),
    }))
}
