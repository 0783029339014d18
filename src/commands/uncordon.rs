use muster_proto::v1::UncordonNodeRequest;

use crate::{acted, client::Coordinator, failure::Failure, output::Output};

/// Arguments of `muster uncordon`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster uncordon node-3
  muster uncordon node-3 -o json")]
pub struct Args {
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print the outcome; JSON is the node as `muster nodes` lists it, on one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Has a node used again, whether it was cordoned or drained. Returns when that is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = UncordonNodeRequest {
        node: args.node.clone(),
    };
    client.uncordon_node(request).await?;
    let words = format!("node {} is used again", args.node);
    acted::node(&mut client, &args.node, args.output, words).await
}
