use muster_proto::v1::ResumeRequest;

use crate::{acted, client::Coordinator, failure::Failure, output::Output};

/// Arguments of `muster resume`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster resume 0199                 # any unambiguous beginning of an id will do
  muster resume 0199 -o json

The job waits for its turn like a new one, and goes on from its newest checkpoint at whatever world size there is then.")]
pub struct Args {
    /// The job, by its id or an unambiguous beginning of it
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print the outcome; JSON is the job's status, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Takes a job up again.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = ResumeRequest {
        job_id: args.job.clone(),
    };
    client.resume(request).await?;
    acted::job(&mut client, args.job, args.output, |job| {
        format!("job {job} goes on; `muster status {job} --watch` follows it")
    })
    .await
}
