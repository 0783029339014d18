//! What a command says that has changed a job or a node: words, or, as JSON on one line, where that stands now.

use muster_proto::v1::{GetStatusRequest, ListNodesRequest};

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Output},
};

/// Says what became of a job. `words` are given its full id.
pub async fn job(
    client: &mut Client,
    job_id: String,
    output: Output,
    words: impl FnOnce(&str) -> String,
) -> Result<(), Failure> {
    let request = GetStatusRequest {
        job_id,
        ..GetStatusRequest::default()
    };
    let status = client.get_status(request).await?.into_inner();
    match output {
        Output::Json => output::json_line(&status),
        Output::Table => output::line(words(&status.job_id)),
    }
}

/// Says what became of a node.
pub async fn node(
    client: &mut Client,
    name: &str,
    output: Output,
    words: String,
) -> Result<(), Failure> {
    if output == Output::Table {
        return output::line(words);
    }
    let nodes = client.list_nodes(ListNodesRequest {}).await?.into_inner();
    let node = nodes.nodes.into_iter().find(|node| node.name == name);
    let node = node.ok_or_else(|| {
        Failure::operation(format!(
            "the coordinator does not list node {name} any more"
        ))
        .help("`muster nodes` lists those there are")
    })?;
    output::json_line(&node)
}
