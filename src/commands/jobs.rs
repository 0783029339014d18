use muster_proto::v1::ListJobsRequest;

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    output::{self, Output},
    words,
};

/// Arguments of `muster jobs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster jobs
  muster jobs -o json | jq -r '.[] | select(.state == \"pending\").state_reason'")]
pub struct Args {
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Lists the jobs, newest first.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = match args.output {
        Output::Json => ListJobsRequest::default(),
        Output::Table => client::summaries(),
    };
    let jobs = client.list_jobs(request).await?.into_inner().jobs;
    if args.output == Output::Json {
        return output::json(&jobs);
    }
    let mut table = output::table([
        "JOB",
        "NAME",
        "USER",
        "PRIORITY",
        "STATE",
        "STEP",
        "LOSS",
        "WORKERS",
        "SUBMITTED",
        "WHY IT WAITS",
    ]);
    for job in jobs {
        let why = match job.state.as_str() {
            "pending" | "rendezvous" => job.state_reason,
            _ => String::new(),
        };
        table.add_row([
            job.job_id,
            job.name,
            job.user,
            job.priority.to_string(),
            job.state,
            format!("{}/{}", job.step, job.total_steps),
            words::known(job.loss, words::loss),
            job.worker_count.to_string(),
            job.submitted_at,
            why,
        ]);
    }
    output::line(table)
}
