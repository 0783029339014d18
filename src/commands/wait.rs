use std::time::Duration;

use muster_proto::v1::{JobStatus, WatchStatusRequest};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use crate::{
    client::{self, Client, Coordinator},
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster wait`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster wait                        # for the newest job
  muster wait 0199 --timeout 3600    # any unambiguous beginning of an id will do
  muster submit spec.toml && muster wait && echo trained

Exit code 0 if the job has finished, 1 if it failed, was stopped, or is not over in time. A coordinator that goes away \
meanwhile is waited for.")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Wait no longer than so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// How to print where the job stands in the end; JSON is its status, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How often the coordinator says anew where the job stands.
const INTERVAL_MS: u32 = 1_000;
/// The pause before a coordinator that is away is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// As good as no bound: a century.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Waits until a job is over.
pub async fn run(args: Args) -> Result<(), Failure> {
    let patience = args
        .timeout
        .map_or(FOREVER, |seconds| Duration::from_secs(seconds.into()));
    let deadline = Instant::now() + patience;
    // Where there is no coordinator or no such job to begin with, nothing is waited for.
    let mut client = args.coordinator.connect().await?;
    let job = client::job_or_newest(&mut client, args.job).await?;
    eprintln!("waiting for job {job}");
    let mut last = None;
    let waited = timeout_at(
        deadline,
        until_over(client, &args.coordinator, &job, &mut last),
    );
    if let Ok(outcome) = waited.await {
        outcome?;
    }
    let Some(status) = last else {
        return Err(Failure::operation(format!(
            "the coordinator did not say in time where job {job} stands"
        )));
    };
    match args.output {
        Output::Json => output::json_line(&status)?,
        Output::Table => output::line(describe(&status))?,
    }
    if status.state == "finished" {
        Ok(())
    } else {
        Err(Failure::told())
    }
}

/// Follows the job to its end, over as many connections as that takes. `last` is the newest that is known of it.
async fn until_over(
    mut client: Client,
    coordinator: &Coordinator,
    job: &str,
    last: &mut Option<JobStatus>,
) -> Result<(), Failure> {
    let mut away = false;
    loop {
        match follow(&mut client, job, last).await {
            Ok(()) if last.as_ref().is_some_and(|it| client::is_over(&it.state)) => return Ok(()),
            // It ended the stream: it is ending itself.
            Ok(()) => {}
            Err(status) if is_lost(status.code()) => {}
            Err(status) => return Err(status.into()),
        }
        if !away {
            eprintln!("the coordinator is away; waiting for it");
            away = true;
        }
        sleep(RETRY).await;
        if let Ok(found) = coordinator.connect().await {
            (client, away) = (found, false);
        }
    }
}

async fn follow(
    client: &mut Client,
    job: &str,
    last: &mut Option<JobStatus>,
) -> Result<(), tonic::Status> {
    let request = WatchStatusRequest {
        job_id: job.to_owned(),
        interval_ms: INTERVAL_MS,
        ..WatchStatusRequest::default()
    };
    let mut statuses = client.watch_status(request).await?.into_inner();
    while let Some(status) = statuses.message().await? {
        *last = Some(status);
    }
    Ok(())
}

/// Whether this is what a broken connection looks like. `Unknown` is how tonic puts a stream that was cut off.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    )
}

fn describe(status: &JobStatus) -> String {
    let reason = match status.state_reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!(
        "job {} is {} at step {} of {}{reason}",
        status.job_id, status.state, status.step, status.total_steps
    )
}
