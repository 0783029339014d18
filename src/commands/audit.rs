use std::path::PathBuf;

use muster_audit::{Report, Verdict, audit};
use muster_types::Seed;

use crate::{
    audit_words::{as_json, describe},
    client::Coordinator,
    failure::Failure,
    job_history::{self, Found},
    output::{self, Output},
    recompute::Recompute,
};

/// Arguments of `muster audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster audit                       # the newest job
  muster audit 0199 -o json          # any unambiguous beginning of an id will do
  muster audit --run runs/quickstart-20260131-080500

Workers hash what they really feed, and the journal keeps the sums. The audit reads the job's dataset again and compares each \
stretch between two sums, and each step that is on record, with what the data order says: a sample that was skipped, doubled, \
altered or trained in another's place shows. A job that goes on is audited up to its newest watermark.

Exit code 0 if all that was committed is accounted for; 1 if something differs, is not covered, or cannot be read.")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// The directory of a `muster run`, in place of a coordinator's job; the run may be over
    #[arg(long, value_name = "DIR", conflicts_with = "job")]
    run: Option<PathBuf>,
    /// Where the job's dataset lies now [default: where the job's spec says]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print the outcome
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Compares what a job was fed with what its data order says.
pub async fn run(args: Args) -> Result<(), Failure> {
    let found = match &args.run {
        Some(directory) => job_history::of_run(directory)?,
        None => job_history::of_job(&args.coordinator, args.job).await?,
    };
    let path = args
        .data
        .unwrap_or_else(|| PathBuf::from(&found.spec.data.path));
    let Found {
        job_id,
        state,
        spec,
        history,
        steps,
    } = found;
    let (dataset, seed) = (history.dataset, Seed(spec.train.seed));
    let shown = path.clone();
    let work = move || {
        let reference = Recompute::open(&path, dataset, seed, history.context_length)?;
        audit(&history, steps, |stretches| {
            reference.evidence(stretches).map_err(Failure::operation)
        })
    };
    let report: Report = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::operation(format!("the audit broke off: {error}")))??;
    let job = crate::audit_words::Job {
        id: job_id,
        name: spec.name,
        state,
        total_steps: spec.train.steps,
        dataset: shown,
        digest: dataset,
    };
    match args.output {
        Output::Json => output::json(&as_json(&job, &report))?,
        Output::Table => output::line(describe(&job, &report))?,
    }
    match report.verdict() {
        Verdict::Clean => Ok(()),
        _ => Err(Failure::told()),
    }
}
