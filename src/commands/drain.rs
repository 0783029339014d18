use std::time::Duration;

use muster_proto::v1::{DrainNodeRequest, ListNodesRequest};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    acted,
    client::{Client, Coordinator},
    failure::Failure,
    output::Output,
};

/// Arguments of `muster drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster drain node-3 --reason 'new memory at noon'
  muster drain node-3 --wait --timeout 600 && ssh node-3 reboot
  muster uncordon node-3             # use it again

Nothing new is placed on the node. Its workers leave at a step boundary, so that no step is lost: their jobs get others \
elsewhere first where there is room for them, or go on with fewer. A job that cannot do without them saves a checkpoint, \
waits in the queue, and goes on by itself when there is room for it. It lasts until `muster uncordon`, over restarts of the \
coordinator too. Exit code 1 with --wait if the node is not empty in time.")]
pub struct Args {
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
    /// Why, for whoever wonders [default: why it is cordoned, if it is]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// Wait until no worker is left there
    #[arg(long)]
    wait: bool,
    /// Wait no longer than so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u32>,
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print the outcome; JSON is the node as `muster nodes` lists it, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How often it is looked whether the node is empty.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Drains a node. Returns when that is on record, or when the node is empty.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Args { node, output, .. } = args;
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut client = args.coordinator.connect().await?;
    let request = DrainNodeRequest {
        node: node.clone(),
        reason: args.reason,
    };
    client.drain_node(request).await?;
    let again = format!("`muster uncordon {node}` has it used again");
    if !args.wait {
        let words =
            format!("node {node} is drained; `muster nodes` says when it is empty, and {again}");
        return acted::node(&mut client, &node, output, words).await;
    }
    while !is_empty(&mut client, &node).await? {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let late = Failure::operation(format!(
                "workers are still on node {node}; it goes on being drained"
            ));
            return Err(
                late.help("`muster jobs` says what each job waits for; wait again, or end a job")
            );
        }
        sleep(LOOK_EVERY).await;
    }
    acted::node(
        &mut client,
        &node,
        output,
        format!("node {node} is empty; {again}"),
    )
    .await
}

/// Whether no worker is left on the node. While the coordinator is away, that is not known.
async fn is_empty(client: &mut Client, name: &str) -> Result<bool, Failure> {
    let nodes = match client.list_nodes(ListNodesRequest {}).await {
        Ok(answer) => answer.into_inner().nodes,
        Err(status) if status.code() == Code::Unavailable => return Ok(false),
        Err(status) => return Err(status.into()),
    };
    let node = nodes.into_iter().find(|node| node.name == name);
    match node.map(|node| node.drain) {
        Some(stage) if stage.is_empty() => Err(Failure::operation(format!(
            "node {name} was uncordoned meanwhile: it is not drained any more"
        ))),
        stage => Ok(stage.as_deref() == Some("drained")),
    }
}
