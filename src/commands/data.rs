use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use muster_data::{
    DatasetError, DocumentUnit, Existing, InvalidUtf8, Phase, PrepareError, PrepareOptions,
    TokenizerChoice, inspect, prepare,
};

use crate::{
    failure::Failure,
    logging,
    output::{self, Output},
    signals::Signals,
    words,
};

/// Arguments of `muster data`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster data prepare --tokenizer train-bpe:4096 --out data/mine texts/
  muster data prepare --tokenizer bytes --out data/bytes one.txt two.jsonl
  muster data inspect data/mine")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn .txt and .jsonl files, and directories of them, into a dataset
    #[command(after_help = "\
Examples:
  muster data prepare --tokenizer train-bpe:4096 --out data/mine texts/
  muster data prepare --tokenizer bytes --out data/bytes one.txt two.jsonl
  muster data prepare --tokenizer tokenizer.json --out data/own own.jsonl -o json")]
    Prepare(Prepare),
    /// Say what a dataset holds, and show samples of its text
    #[command(after_help = "\
Examples:
  muster data inspect data/mine --samples 5
  muster data inspect data/mine -o json | jq .train.tokens")]
    Inspect {
        /// The dataset's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// How many documents to show
        #[arg(long, value_name = "N", default_value_t = 2)]
        samples: usize,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
struct Prepare {
    /// Files and directories
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// bytes, train-bpe:VOCAB, or the path of a tokenizer.json
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: TokenizerChoice,
    /// The dataset's directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of the documents that is held out, chosen by their content
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    validation_fraction: f64,
    /// Threads; 0: one a core. The dataset does not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// What a document of a .txt file is: file, paragraphs, or paragraphs:BYTES (at least so long)
    #[arg(long, value_name = "UNIT", default_value_t)]
    documents: DocumentUnit,
    /// The key of .jsonl lines that holds the text
    #[arg(long, value_name = "KEY", default_value = "text")]
    text_key: String,
    /// Replace a dataset that is there already
    #[arg(long)]
    replace: bool,
    /// Replace bytes that are not UTF-8, instead of refusing the file
    #[arg(long)]
    replace_invalid_utf8: bool,
    /// How to print what was made
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Makes datasets and looks into them.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Prepare(args) => make(args).await,
        Command::Inspect {
            directory,
            samples,
            output,
        } => show(&directory, samples, output),
    }
}

async fn make(args: Prepare) -> Result<(), Failure> {
    let mut options = PrepareOptions::new(args.inputs, args.out, args.tokenizer);
    options.validation_fraction = args.validation_fraction;
    options.threads = args.threads;
    options.document_unit = args.documents;
    options.text_key = args.text_key;
    if args.replace {
        options.existing = Existing::Replace;
    }
    if args.replace_invalid_utf8 {
        options.invalid_utf8 = InvalidUtf8::Replace;
    }

    let mut signals = Signals::listen()?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&cancelled);
    let mut work = tokio::task::spawn_blocking(move || {
        let bar = logging::bars().add(ProgressBar::new(0).with_style(bar_style()));
        let outcome = prepare(&options, &|progress| {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes_done);
            bar.set_prefix(progress.phase.to_string());
            if progress.phase == Phase::Tokenizing {
                bar.set_message(format!("{} tokens", words::count(progress.tokens)));
            }
            match asked.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        bar.finish_and_clear();
        outcome
    });
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = signals.next() => cancelled.store(true, Ordering::Relaxed),
        }
    };
    let summary = outcome.map_err(Failure::operation)?.map_err(failure)?;
    for note in &summary.notes {
        eprintln!("note: {note}");
    }
    if args.output == Output::Json {
        return output::json(&summary);
    }
    output::line(format_args!(
        "{}: {} files, {}, vocabulary {}",
        summary.out.display(),
        summary.files,
        words::bytes(summary.bytes),
        summary.vocab_size
    ))?;
    for (name, split) in [("train", summary.train), ("validation", summary.validation)] {
        output::line(format_args!(
            "  {name:<10} {:>14} tokens in {} documents",
            words::count(split.tokens),
            words::count(split.documents)
        ))?;
    }
    Ok(())
}

fn bar_style() -> ProgressStyle {
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn failure(error: PrepareError) -> Failure {
    use PrepareError as E;
    match error {
        E::Cancelled => Failure::operation("cancelled; nothing was written"),
        E::Option { .. }
        | E::Input { .. }
        | E::UnknownKind { .. }
        | E::NoInput { .. }
        | E::NotReplaceable { .. } => Failure::usage(error),
        E::Exists { .. } => Failure::usage(error).help("pass --replace to make it anew"),
        E::Utf8 { .. } => {
            Failure::operation(error).help("pass --replace-invalid-utf8 to take it nevertheless")
        }
        error => Failure::operation(error),
    }
}

fn show(directory: &Path, samples: usize, output: Output) -> Result<(), Failure> {
    let inspection = inspect(directory, samples).map_err(|error| match error {
        DatasetError::NotFound { .. } | DatasetError::NotADataset { .. } => Failure::usage(error),
        error => Failure::operation(error),
    })?;
    if output == Output::Json {
        return output::json(&inspection);
    }
    let mut pairs = output::pairs();
    let mut add = |name: &str, value: String| {
        pairs.add_row([name, &value]);
    };
    add("dataset", inspection.dir.display().to_string());
    add("digest", inspection.digest.to_string());
    add(
        "tokenizer",
        format!(
            "{}, {} tokens, stored as {}",
            inspection.tokenizer, inspection.vocab_size, inspection.dtype
        ),
    );
    add(
        "unigram entropy",
        format!("{:.4} nats a token", inspection.unigram_entropy_nats),
    );
    output::line(&pairs)?;
    let mut splits = output::table(["SPLIT", "SHARDS", "DOCUMENTS", "TOKENS", "TEXT"]);
    for (name, split) in [
        ("train", &inspection.train),
        ("validation", &inspection.validation),
    ] {
        splits.add_row([
            name.to_owned(),
            split.shards.to_string(),
            words::count(split.documents),
            words::count(split.tokens),
            words::bytes(split.text_bytes),
        ]);
    }
    output::line(format_args!("\n{splits}"))?;
    for sample in &inspection.samples {
        output::line(format_args!(
            "\n--- {} shard {}, document {}, {} tokens\n{}",
            sample.split,
            sample.shard,
            sample.document,
            sample.tokens,
            sample.text.trim_end()
        ))?;
    }
    Ok(())
}
