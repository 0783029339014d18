use muster_proto::v1::{GetLogsRequest, LogChunk};
use serde_json::json;

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    log_lines::LogLines,
    output::{self, Output},
};

/// Arguments of `muster logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster logs                        # all workers of the newest job
  muster logs -f --rank 0            # rank 0 as it writes, whoever that is, until the job is over
  muster logs 0199 --node node-3 --tail 20
  muster logs -o json | jq -r 'select(.line | test(\"ERROR\")).worker_id'

With --follow, workers that have ended before are left out, unless one is named with --worker; those that replace others are \
shown as they come. With --rank, workers that had the rank in any generation are shown, whole.")]
pub struct Args {
    /// The job; the newest one if left out
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// Go on with what is written until the job is over
    #[arg(short, long)]
    follow: bool,
    /// Only workers that are or were of this rank
    #[arg(long, value_name = "N")]
    rank: Option<u32>,
    /// Only workers on this node
    #[arg(long, value_name = "NODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// Only this worker, as `muster status` and `muster events` name it
    #[arg(long, value_name = "W", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    worker: Option<String>,
    /// Only the last N lines of each worker
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// How to print them; JSON is one object a line of a log
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Shows what a job's workers wrote: worker after worker, or as it comes.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut printer = Printer {
        output: args.output,
        has_headers: args.worker.is_none(),
        shown: None,
    };
    let mut client = args.coordinator.connect().await?;
    let request = GetLogsRequest {
        job_id: client::job_or_newest(&mut client, args.job).await?,
        worker_id: args.worker.unwrap_or_default(),
        tail_lines: args.tail,
        follow: args.follow,
        node: args.node.unwrap_or_default(),
        rank: args.rank,
    };
    let mut chunks = client.get_logs(request).await?.into_inner();
    let mut lines = LogLines::default();
    let outcome = loop {
        match chunks.message().await {
            Ok(Some(chunk)) => {
                let whole = lines.take(&chunk);
                printer.print(&chunk.worker_id, &chunk.node, &whole)?;
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(status.into()),
        }
    };
    for LogChunk {
        worker_id,
        node,
        data,
    } in lines.rest()
    {
        printer.print(&worker_id, &node, &data)?;
    }
    outcome
}

/// Prints whole lines, and whose they are where that changes.
struct Printer {
    output: Output,
    has_headers: bool,
    shown: Option<String>,
}

impl Printer {
    fn print(&mut self, worker: &str, node: &str, lines: &[u8]) -> Result<(), Failure> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.output == Output::Json {
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(line);
                let line = line.trim_end_matches('\n');
                output::json_line(&json!({ "worker_id": worker, "node": node, "line": line }))?;
            }
            return Ok(());
        }
        if self.has_headers && self.shown.as_deref() != Some(worker) {
            let gap = if self.shown.is_some() { "\n" } else { "" };
            output::line(format_args!("{gap}==> {worker} on {node} <=="))?;
            self.shown = Some(worker.to_owned());
        }
        output::raw(lines)
    }
}
