use muster_proto::v1::{ListNodesRequest, NodeStatus};

use crate::{
    client::Coordinator,
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster nodes`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster nodes
  muster nodes -o json | jq -r '.[] | select(.connected | not).name'
  muster nodes -o json | jq -r '.[] | select(.drain == \"drained\").name'    # those that are empty")]
pub struct Args {
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Lists the nodes.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut client = args.coordinator.connect().await?;
    let nodes = client
        .list_nodes(ListNodesRequest {})
        .await?
        .into_inner()
        .nodes;
    if args.output == Output::Json {
        return output::json(&nodes);
    }
    let mut table = output::table([
        "NODE",
        "ADDRESS",
        "CONNECTED",
        "DEVICE",
        "SLOTS",
        "USED",
        "CORDONED",
    ]);
    for node in nodes {
        let connected = if node.connected { "yes" } else { "no" };
        let cordon = cordon_words(&node);
        table.add_row([
            node.name,
            node.address,
            connected.to_owned(),
            node.device,
            node.slots.to_string(),
            node.slots_used.to_string(),
            cordon,
        ]);
    }
    output::line(table)
}

/// Whether nothing new is placed on a node, or it is being emptied, and why.
fn cordon_words(node: &NodeStatus) -> String {
    let what = match (node.drain.as_str(), node.cordoned) {
        ("", false) => return "no".to_owned(),
        ("", true) => "yes",
        (stage, _) => stage,
    };
    match node.cordon_reason.as_str() {
        "" => what.to_owned(),
        reason => format!("{what}: {reason}"),
    }
}
