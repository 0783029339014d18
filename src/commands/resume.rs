use muster_proto::v1::ResumeRequest;

use crate::{client::Coordinator, failure::Failure, output};

/// Arguments of `muster resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job, by its id or an unambiguous beginning of it
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    coordinator: Coordinator,
}

/// Takes a job up again.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = ResumeRequest {
        job_id: args.job.clone(),
    };
    client.resume(request).await?;
    output::line(format_args!(
        "job {0} goes on; `muster status {0} --watch` follows it",
        args.job
    ))
}
