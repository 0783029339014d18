use muster_proto::v1::UncordonNodeRequest;

use crate::{client::Coordinator, failure::Failure, output};

/// Arguments of `muster uncordon`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    coordinator: Coordinator,
}

/// Has a node used again. Returns when that is on record.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let request = UncordonNodeRequest {
        node: args.node.clone(),
    };
    client.uncordon_node(request).await?;
    output::line(format_args!("node {} is used again", args.node))
}
