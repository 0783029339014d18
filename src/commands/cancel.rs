use muster_proto::v1::CancelRequest;

use crate::{acted, client::Coordinator, failure::Failure, output::Output};

/// Arguments of `muster cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster cancel 0199 --reason 'the learning rate is wrong'
  muster cancel 0199 -o json

The workers are killed now, and what they trained since the newest checkpoint is lost; `muster stop` saves it first. A job \
that waits is taken out of the queue. `muster resume` takes a cancelled job up again.")]
pub struct Args {
    /// The job, by its id or an unambiguous beginning of it
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Why, for whoever wonders; `muster events` shows it
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// How to print the outcome; JSON is the job's status, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Ends a job at once. Returns when that is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = CancelRequest {
        job_id: args.job.clone(),
        reason: args.reason,
    };
    client.cancel(request).await?;
    acted::job(&mut client, args.job, args.output, |job| {
        format!("job {job} is cancelled; `muster resume {job}` takes it up again")
    })
    .await
}
