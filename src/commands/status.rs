use std::io::{self, IsTerminal};

use muster_proto::v1::{GetStatusRequest, JobStatus, WatchStatusRequest};

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    output::{self, Output},
    words,
};

/// Arguments of `muster status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster status                      # the newest job
  muster status 0199 -o json         # any unambiguous beginning of an id will do
  muster status --watch              # until the job has ended; exit code 1 if it failed")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Show it again with each change, until the job has ended
    #[arg(long)]
    watch: bool,
    /// How to print it; watched JSON is one object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Clears the terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Shows where a job stands.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let job_id = client::job_or_newest(&mut client, args.job).await?;
    if !args.watch {
        let status = client
            .get_status(GetStatusRequest {
                job_id,
                ..GetStatusRequest::default()
            })
            .await?
            .into_inner();
        return match args.output {
            Output::Json => output::json(&status),
            Output::Table => output::line(describe(&status)),
        };
    }
    let request = WatchStatusRequest {
        job_id,
        interval_ms: 0,
        ..WatchStatusRequest::default()
    };
    let mut statuses = client.watch_status(request).await?.into_inner();
    let mut failed = false;
    while let Some(status) = statuses.message().await? {
        failed = status.state == "failed";
        match args.output {
            Output::Json => output::json_line(&status)?,
            Output::Table if io::stdout().is_terminal() => {
                output::line(format_args!("{CLEAR}{}", describe(&status)))?;
            }
            Output::Table => output::line(format_args!("{}\n", describe(&status)))?,
        }
    }
    if failed {
        return Err(Failure::told());
    }
    Ok(())
}

fn describe(status: &JobStatus) -> String {
    let mut pairs = output::pairs();
    let mut add = |name: &str, value: String| {
        pairs.add_row([name, &value]);
    };
    add("job", format!("{} ({})", status.job_id, status.name));
    let reason = match status.state_reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    add("state", format!("{}{reason}", status.state));
    let user = match status.user.as_str() {
        "" => "unknown user",
        user => user,
    };
    let queue = format!("priority {}, of {user}", status.priority);
    add("queue", queue);
    let steps = format!("{} of {}", status.step, status.total_steps);
    add("step", steps);
    add("loss", words::known(status.loss, words::loss));
    let validation = words::known(status.validation_loss, words::loss);
    add("validation loss", validation);
    add("tokens", words::count(status.tokens_seen));
    let rate = words::known(status.tokens_per_second, words::rounded);
    add("tokens/s", rate);
    add("time left", words::known(status.eta_seconds, words::span));
    let generation = format!(
        "{} of {} workers",
        status.generation,
        words::count(status.world_size.into())
    );
    add("generation", generation);
    add("recoveries", status.recoveries.to_string());
    let checkpoint = words::known(status.last_checkpoint.as_ref(), |checkpoint| {
        format!("step {}: {}", checkpoint.step, checkpoint.uri)
    });
    add("checkpoint", checkpoint);
    add("submitted", status.submitted_at.clone());
    add("started", words::known(status.started_at.clone(), |at| at));
    if let Some(at) = &status.ended_at {
        add("ended", at.clone());
    }
    if status.workers.is_empty() {
        return pairs.to_string();
    }
    format!("{pairs}\n{}", workers(status))
}

fn workers(status: &JobStatus) -> comfy_table::Table {
    let mut table = output::table([
        "WORKER", "NODE", "SLOT", "PID", "RANK", "STATE", "STEP", "BATCH", "OWN WORK",
    ]);
    for worker in &status.workers {
        let assigned = status
            .assignment
            .iter()
            .find(|slots| Some(slots.rank) == worker.rank);
        let number = |value: Option<u64>| words::known(value, |value| value.to_string());
        table.add_row([
            worker.worker_id.clone(),
            worker.node.clone(),
            worker.slot.to_string(),
            number(worker.pid.map(u64::from)),
            number(worker.rank.map(u64::from)),
            worker.state.clone(),
            number(worker.step),
            words::known(assigned, |slots| {
                format!("{}..{}", slots.first, slots.first + slots.count)
            }),
            words::known(worker.slot_ms, |ms| format!("{ms:.1} ms a slot")),
        ]);
    }
    table
}
