use muster_proto::v1::StopRequest;

use crate::{acted, client::Coordinator, failure::Failure, output::Output};

/// Arguments of `muster stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster stop 0199                   # any unambiguous beginning of an id will do
  muster stop 0199 --grace 600       # for a checkpoint that takes minutes to write

Workers that have not left when the grace is over are killed. `muster cancel` ends a job without a checkpoint.")]
pub struct Args {
    /// The job, by its id or an unambiguous beginning of it
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Seconds that the workers may take to save and leave [default: the spec's workers.grace_seconds]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    grace: Option<u32>,
    /// How to print the outcome; JSON is the job's status, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks for a checkpoint and the job's end. Returns when the request is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = StopRequest {
        job_id: args.job.clone(),
        grace_seconds: args.grace.unwrap_or(0),
    };
    client.stop(request).await?;
    acted::job(&mut client, args.job, args.output, |job| {
        format!("job {job} saves a checkpoint and stops; `muster resume {job}` takes it up again")
    })
    .await
}
