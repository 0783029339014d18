use muster_proto::v1::StopRequest;

use crate::{client::Coordinator, failure::Failure, output};

/// Arguments of `muster stop`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job, by its id or an unambiguous beginning of it
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Seconds that the workers may take to save and leave [default: the spec's workers.grace_seconds]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    grace: Option<u32>,
}

/// Asks for a checkpoint and the job's end. Returns when the request is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = StopRequest {
        job_id: args.job.clone(),
        grace_seconds: args.grace.unwrap_or(0),
    };
    client.stop(request).await?;
    output::line(format_args!(
        "job {0} saves a checkpoint and stops; `muster resume {0}` takes it up again",
        args.job
    ))
}
