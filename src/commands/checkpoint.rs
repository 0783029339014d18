use clap::Subcommand;
use muster_store::{Checkpoint, ObjectsError};
use serde_json::{Value, json};

use crate::{
    checkpoints,
    failure::Failure,
    output::{self, Output},
    words,
};

/// Arguments of `muster checkpoint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster checkpoint ls runs/quickstart-20260131-080500
  muster checkpoint verify runs/quickstart-20260131-080500
  muster checkpoint hash shared/checkpoints/<job>/step-0000001000.g7

A URI is a path or file:// URI of a checkpoint, of a job's checkpoints, of a checkpoint root or of a run's directory.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints at a URI, newest first
    Ls {
        /// Where to look
        uri: String,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Read every byte again and compare it with the manifest: of each checkpoint at a URI
    Verify {
        /// Where to look
        uri: String,
    },
    /// Print one digest over parameters and optimizer state, whatever the world size and the layout of files
    Hash {
        /// Where to look; the newest checkpoint there that reads back is taken
        uri: String,
    },
}

/// Looks at checkpoints.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Ls { uri, output } => list(&uri, output).await,
        Command::Verify { uri } => verify(&uri).await,
        Command::Hash { uri } => {
            let checkpoint = checkpoints::newest_valid(&uri).await?;
            output::line(checkpoint.state_digest())
        }
    }
}

async fn list(uri: &str, output: Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for place in checkpoints::list(uri)? {
        let opened = Checkpoint::open(&place).await;
        rows.push((place, opened));
    }
    if output == Output::Json {
        let rows: Vec<_> = rows.iter().map(|(uri, row)| as_json(uri, row)).collect();
        return output::json(&rows);
    }
    let mut table = output::table(["STEP", "GENERATION", "TOKENS", "FILES", "SIZE", "URI"]);
    for (uri, row) in rows {
        match row {
            Ok(checkpoint) => {
                let manifest = checkpoint.manifest();
                table.add_row([
                    manifest.state.step.to_string(),
                    manifest.state.generation.to_string(),
                    words::count(manifest.tokens_seen),
                    (manifest.files.len() + manifest.extra_files.len()).to_string(),
                    words::bytes(size(&checkpoint)),
                    uri,
                ]);
            }
            Err(error) => {
                let dash = || "–".to_owned();
                let said = format!("{uri} ({error})");
                table.add_row([dash(), dash(), dash(), dash(), dash(), said]);
            }
        }
    }
    output::line(table)
}

fn size(checkpoint: &Checkpoint) -> u64 {
    let manifest = checkpoint.manifest();
    let files = manifest.files.iter().map(|file| file.bytes);
    let extra = manifest.extra_files.iter().map(|file| file.bytes);
    files.chain(extra).sum()
}

fn as_json(uri: &str, row: &Result<Checkpoint, ObjectsError>) -> Value {
    match row {
        Ok(checkpoint) => {
            let manifest = checkpoint.manifest();
            json!({
                "uri": uri,
                "job_id": manifest.job,
                "generation": manifest.state.generation,
                "step": manifest.state.step,
                "tokens_seen": manifest.tokens_seen,
                "bytes": size(checkpoint),
                "files": manifest.files.len() + manifest.extra_files.len(),
                "numerics_fingerprint": manifest.numerics_fingerprint,
                "error": null,
            })
        }
        Err(error) => json!({ "uri": uri, "error": error.to_string() }),
    }
}

async fn verify(uri: &str) -> Result<(), Failure> {
    let places = checkpoints::list(uri)?;
    let mut bad = 0;
    for place in &places {
        output::line(place)?;
        let outcome = match Checkpoint::open(place).await {
            Ok(checkpoint) => report(&checkpoint).await?,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(summary) => output::line(format_args!("  ok: {summary}"))?,
            Err(error) => {
                bad += 1;
                output::line(format_args!("  BAD: {error}"))?;
            }
        }
    }
    match bad {
        0 => Ok(()),
        bad => Err(Failure::operation(format!(
            "{bad} of {} checkpoints at {uri} do not read back",
            places.len()
        ))
        .help("a job that resumes passes them over; delete them once another one is valid")),
    }
}

/// Verifies one checkpoint, with a line a file.
async fn report(checkpoint: &Checkpoint) -> Result<Result<String, ObjectsError>, Failure> {
    let outcome = checkpoint.verify().await;
    let manifest = checkpoint.manifest();
    let shards = manifest.files.iter().map(|it| (&it.file, it.bytes));
    let extra = manifest.extra_files.iter().map(|it| (&it.file, it.bytes));
    let verified = match outcome {
        Ok(verified) => verified,
        Err(error) => return Ok(Err(error)),
    };
    for (file, bytes) in shards.chain(extra) {
        output::line(format_args!("  ok   {file} ({})", words::bytes(bytes)))?;
    }
    Ok(Ok(format!(
        "{} files, {} tensors, {}",
        verified.files,
        verified.tensors,
        words::bytes(verified.bytes)
    )))
}
