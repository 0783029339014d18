use std::{sync::Arc, time::Duration};

use muster_proto::v1::{AgentCommand, LogChunk, ReadLog, agent_command};
use muster_types::{JobId, NodeName, WorkerId};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::{
    inbox::{Core, Message, stopping},
    log_router::LogRouter,
};

/// How long an agent may take for the next piece of a log.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who asked.
pub(super) type Client = mpsc::Sender<Result<LogChunk, Status>>;

/// What workers of a job wrote, read by the agents of their nodes.
pub(super) struct Logs {
    pub(super) core: Core,
    pub(super) router: Arc<LogRouter>,
    pub(super) job: JobId,
    /// Where reading begins; absent: with the first line.
    pub(super) tail_lines: Option<u32>,
}

impl Logs {
    /// Sends them, worker after worker, then says of which there is none. Ends when that is done or the client has gone.
    pub(super) async fn run(self, workers: Vec<(WorkerId, NodeName)>, client: Client) {
        let mut failures = Vec::new();
        for (worker, node) in &workers {
            match self.read(worker, node, None, &client).await {
                Ok(_) => {}
                Err(Some(status)) => failures.push(failure(worker, node, &status)),
                Err(None) => return,
            }
        }
        report(failures, &client).await;
    }

    /// Sends what is there of one log from a byte on, or from its tail; where it ended then. `Err(None)`: the client has gone.
    pub(super) async fn read(
        &self,
        worker: &WorkerId,
        node: &NodeName,
        offset: Option<u64>,
        client: &Client,
    ) -> Result<u64, Option<Status>> {
        let mut request = self.router.request();
        let read = ReadLog {
            request_id: request.id,
            job_id: self.job.to_string(),
            worker_id: worker.to_string(),
            tail_lines: self.tail_lines,
            offset,
        };
        let command = AgentCommand {
            kind: Some(agent_command::Kind::ReadLog(read)),
        };
        let (reply, asked) = oneshot::channel();
        self.core
            .send(Message::AskAgent {
                node: node.clone(),
                command,
                reply,
            })
            .await?;
        if !asked.await.map_err(|_| stopping())? {
            return Err(Some(Status::unavailable("its agent is not connected")));
        }
        loop {
            let chunk = match tokio::time::timeout(PATIENCE, request.chunks.recv()).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    return Err(Some(Status::resource_exhausted(
                        "the log came faster than it was read; ask for its tail",
                    )));
                }
                Err(_) => return Err(Some(Status::unavailable("its agent does not answer"))),
            };
            if !chunk.error.is_empty() {
                return Err(Some(Status::unavailable(chunk.error)));
            }
            let end = chunk.offset + chunk.data.len() as u64;
            if !chunk.data.is_empty() {
                let data = LogChunk {
                    worker_id: worker.to_string(),
                    data: chunk.data,
                    node: node.to_string(),
                };
                client.send(Ok(data)).await.map_err(|_| None)?;
            }
            if chunk.last {
                return Ok(end);
            }
        }
    }
}

/// Why a log could not be read, in words.
pub(super) fn failure(worker: &WorkerId, node: &NodeName, status: &Status) -> String {
    format!("worker {worker} on node {node}: {}", status.message())
}

/// Ends the stream; says first what could not be read.
pub(super) async fn report(failures: Vec<String>, client: &Client) {
    if !failures.is_empty() {
        // The client may have gone meanwhile.
        let _ = client
            .send(Err(Status::unavailable(failures.join("; "))))
            .await;
    }
}
