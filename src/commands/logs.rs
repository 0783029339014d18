use muster_proto::v1::GetLogsRequest;

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    output,
};

/// Arguments of `muster logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster logs                        # all workers of the newest job
  muster logs 0199 --tail 20")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Only this worker, as `muster status` and `muster events` name it
    #[arg(long, value_name = "W")]
    worker: Option<String>,
    /// Only the last N lines of each worker
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

/// Shows what a job's workers wrote, worker after worker.
pub async fn run(args: Args) -> Result<(), Failure> {
    if args.tail == Some(0) {
        return Ok(());
    }
    let is_one = args.worker.is_some();
    let mut client = args.coordinator.connect().await?;
    let request = GetLogsRequest {
        job_id: client::job_or_newest(&mut client, args.job).await?,
        worker_id: args.worker.unwrap_or_default(),
        tail_lines: args.tail.unwrap_or(0),
    };
    let mut chunks = client.get_logs(request).await?.into_inner();
    let mut shown = None;
    let mut at_line_start = true;
    while let Some(chunk) = chunks.message().await? {
        if !is_one && shown.as_ref() != Some(&chunk.worker_id) {
            let end = if at_line_start { "" } else { "\n" };
            let gap = if shown.is_some() { "\n" } else { "" };
            output::line(format_args!("{end}{gap}==> {} <==", chunk.worker_id))?;
            shown = Some(chunk.worker_id);
        }
        output::raw(&chunk.data)?;
        at_line_start = chunk.data.ends_with(b"\n");
    }
    Ok(())
}
