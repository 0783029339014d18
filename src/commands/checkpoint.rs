use clap::Subcommand;
use muster_store::{Checkpoint, ObjectsError, Verified};
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
  muster checkpoint hash shared/checkpoints/JOB/step-0000001000.g7

A URI is a path or file:// URI of a checkpoint, of a job's checkpoints, of a checkpoint root or of a run's directory.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints at a URI, newest first
    #[command(after_help = "\
Examples:
  muster checkpoint ls runs/quickstart-20260131-080500
  muster checkpoint ls shared/checkpoints -o json | jq -r '.[0].uri'")]
    Ls {
        /// Where to look
        uri: String,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Read every byte again and compare it with the manifest: of each checkpoint at a URI
    #[command(after_help = "\
Examples:
  muster checkpoint verify runs/quickstart-20260131-080500
  muster checkpoint verify shared/checkpoints -o json | jq 'select(.ok | not)'

Exit code 1 where one does not read back.")]
    Verify {
        /// Where to look
        uri: String,
        /// How to print the outcomes; JSON is one object a line
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print one digest over parameters and optimizer state, whatever the world size and the layout of files
    #[command(after_help = "\
Examples:
  muster checkpoint hash runs/first
  muster checkpoint hash runs/first -o json")]
    Hash {
        /// Where to look; the newest checkpoint there that reads back is taken
        uri: String,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Looks at checkpoints.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Ls { uri, output } => list(&uri, output).await,
        Command::Verify { uri, output } => verify(&uri, output).await,
        Command::Hash { uri, output } => {
            let checkpoint = checkpoints::newest_valid(&uri).await?;
            let digest = checkpoint.state_digest();
            match output {
                Output::Json => output::json(&json!({
                    "uri": checkpoint.uri(),
                    "state_digest": digest.to_string(),
                })),
                Output::Table => output::line(digest),
            }
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

async fn verify(uri: &str, output: Output) -> Result<(), Failure> {
    let places = checkpoints::list(uri)?;
    let mut bad = 0;
    for place in &places {
        if output == Output::Table {
            output::line(place)?;
        }
        let outcome = read_back(place).await;
        bad += usize::from(outcome.is_err());
        match output {
            Output::Json => output::json_line(&verified_json(place, &outcome))?,
            Output::Table => report(&outcome)?,
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

async fn read_back(place: &str) -> Result<(Checkpoint, Verified), ObjectsError> {
    let checkpoint = Checkpoint::open(place).await?;
    let verified = checkpoint.verify().await?;
    Ok((checkpoint, verified))
}

fn verified_json(uri: &str, outcome: &Result<(Checkpoint, Verified), ObjectsError>) -> Value {
    match outcome {
        Ok((_, verified)) => json!({
            "uri": uri,
            "ok": true,
            "files": verified.files,
            "tensors": verified.tensors,
            "bytes": verified.bytes,
            "error": null,
        }),
        Err(error) => json!({ "uri": uri, "ok": false, "error": error.to_string() }),
    }
}

/// Tells of one checkpoint, with a line a file.
fn report(outcome: &Result<(Checkpoint, Verified), ObjectsError>) -> Result<(), Failure> {
    let (checkpoint, verified) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return output::line(format_args!("  BAD: {error}")),
    };
    let manifest = checkpoint.manifest();
    let shards = manifest.files.iter().map(|it| (&it.file, it.bytes));
    let extra = manifest.extra_files.iter().map(|it| (&it.file, it.bytes));
    for (file, bytes) in shards.chain(extra) {
        output::line(format_args!("  ok   {file} ({})", words::bytes(bytes)))?;
    }
    output::line(format_args!(
        "  ok: {} files, {} tensors, {}",
        verified.files,
        verified.tensors,
        words::bytes(verified.bytes)
    ))
}
