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

/// What workers of a job wrote, read by the agents of their nodes.
pub(super) struct Logs {
    pub(super) core: Core,
    pub(super) router: Arc<LogRouter>,
    pub(super) job: JobId,
    pub(super) workers: Vec<(WorkerId, NodeName)>,
    pub(super) tail_lines: u32,
}

impl Logs {
    /// Sends them, worker after worker, then says of which there is none. Ends when that is done or the client has gone.
    pub(super) async fn run(self, client: mpsc::Sender<Result<LogChunk, Status>>) {
        let mut failures = Vec::new();
        for (worker, node) in &self.workers {
            match self.one(worker, node, &client).await {
                Ok(()) => {}
                Err(Some(status)) => {
                    failures.push(format!(
                        "worker {worker} on node {node}: {}",
                        status.message()
                    ));
                }
                Err(None) => return,
            }
        }
        if !failures.is_empty() {
            // The client may have gone meanwhile.
            let _ = client
                .send(Err(Status::unavailable(failures.join("; "))))
                .await;
        }
    }

    /// `Err(None)`: the client has gone.
    async fn one(
        &self,
        worker: &WorkerId,
        node: &NodeName,
        client: &mpsc::Sender<Result<LogChunk, Status>>,
    ) -> Result<(), Option<Status>> {
        let mut request = self.router.request();
        let read = ReadLog {
            request_id: request.id,
            job_id: self.job.to_string(),
            worker_id: worker.to_string(),
            tail_lines: self.tail_lines,
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
            if !chunk.data.is_empty() {
                let data = LogChunk {
                    worker_id: worker.to_string(),
                    data: chunk.data,
                };
                client.send(Ok(data)).await.map_err(|_| None)?;
            }
            if chunk.last {
                return Ok(());
            }
        }
    }
}
