use muster_proto::v1::CordonNodeRequest;

use crate::{acted, client::Coordinator, failure::Failure, output::Output};

/// Arguments of `muster cordon`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster cordon node-3 --reason 'its fan is loud'
  muster nodes                       # shows it, and why

Workers that are there go on; `muster drain` empties the node. It lasts until `muster uncordon`, over restarts of the \
coordinator too.")]
pub struct Args {
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
    /// Why, for whoever wonders
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print the outcome; JSON is the node as `muster nodes` lists it, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Cordons a node. Returns when that is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = CordonNodeRequest {
        node: args.node.clone(),
        reason: args.reason,
    };
    client.cordon_node(request).await?;
    let words = format!(
        "nothing new is placed on node {0}; `muster uncordon {0}` ends that",
        args.node
    );
    acted::node(&mut client, &args.node, args.output, words).await
}
