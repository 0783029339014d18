use std::sync::Arc;

use muster_cluster::Event;
use muster_proto::v1::{
    AgentCommand, AgentMessage, agent_message, agent_service_server::AgentService,
};
use muster_types::{NodeName, WorkerId};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, answers, first, reader};
use crate::{
    access::Caller,
    convert,
    inbox::{Core, Message, stopping},
    link::Link,
    log_router::LogRouter,
};

/// The streams of agents.
pub(crate) struct Agents {
    pub(crate) core: Core,
    pub(crate) logs: Arc<LogRouter>,
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Answers<AgentCommand>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = Caller::of(&request)?;
        let mut inbound = request.into_inner();
        let Some(agent_message::Kind::Hello(hello)) = first(&mut inbound).await?.kind else {
            return Err(Status::invalid_argument(
                "an agent's first message is its hello",
            ));
        };
        let (version, host) = (hello.version.clone(), hello.host.clone());
        let hello = convert::agent_hello(hello)?;
        let node = hello.node.clone();
        caller.may_speak_for(node.as_str())?;
        let slots = hello.slots.len();
        let session = self.core.new_session();
        let (link, queue, over) = Link::new(session);
        let (reply, accepted) = oneshot::channel();
        self.core
            .send(Message::AgentHere {
                hello,
                host: host.clone(),
                link,
                reply,
            })
            .await?;
        accepted.await.map_err(|_| stopping())??;
        tracing::info!(%node, %host, %version, slots, "an agent connected");

        let (core, logs) = (self.core.clone(), Arc::clone(&self.logs));
        // Ends with the stream, or when the actor drops the link.
        tokio::spawn(async move {
            let take = |message| take(&core, &logs, &node, session, message);
            reader::read(inbound, over, take).await;
            tracing::info!(%node, "an agent's stream ended");
            // Without an inbox there is nobody to tell.
            let _ = core
                .send(Message::AgentGone {
                    node: node.clone(),
                    session,
                })
                .await;
        });
        Ok(Response::new(answers(queue)))
    }
}

async fn take(
    core: &Core,
    logs: &LogRouter,
    node: &NodeName,
    session: u64,
    message: AgentMessage,
) -> Result<(), Status> {
    use agent_message::Kind;
    let event = match message.kind {
        Some(Kind::Started(started)) => Event::WorkerStarted {
            worker: WorkerId::new(started.worker_id),
            pid: started.pid,
        },
        Some(Kind::Exited(exited)) => Event::WorkerExited {
            worker: WorkerId::new(exited.worker_id.clone()),
            exit: convert::exit(exited),
        },
        Some(Kind::Unfit(unfit)) => Event::NodeUnfit {
            node: node.clone(),
            reason: unfit.reason,
        },
        Some(Kind::Leaving(leaving)) => Event::AgentLeaving {
            node: node.clone(),
            grace_seconds: leaving.grace_seconds,
        },
        Some(Kind::Log(content)) => {
            logs.deliver(content);
            return Ok(());
        }
        Some(Kind::Heartbeat(beat)) => {
            tracing::trace!(%node, load1 = beat.load1, memory_available_bytes = beat.memory_available_bytes);
            return Ok(());
        }
        Some(Kind::Hello(_)) | None => {
            return Err(Status::invalid_argument(
                "a hello comes once, and no message is empty",
            ));
        }
    };
    core.send(Message::AgentSays {
        node: node.clone(),
        session,
        event,
    })
    .await
}
