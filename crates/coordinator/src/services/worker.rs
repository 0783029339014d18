use muster_cluster::{Event, WorkerMessage};
use muster_proto::v1::{self, WorkerCommand, worker_service_server::WorkerService};
use muster_types::{JobId, WorkerId};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, answers, first, reader};
use crate::{
    access::Caller,
    convert,
    inbox::{Core, Message},
    link::Link,
};

/// The streams of workers' control threads.
pub(crate) struct Workers {
    pub(crate) core: Core,
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type SessionStream = Answers<WorkerCommand>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = Caller::of(&request)?;
        let mut inbound = request.into_inner();
        let event = convert::worker_event(first(&mut inbound).await?)?;
        let Event::Worker {
            job,
            worker,
            message: WorkerMessage::Attach { .. },
            ..
        } = &event
        else {
            return Err(Status::invalid_argument(
                "a worker's first message is Attach",
            ));
        };
        let (job, worker) = (*job, worker.clone());
        let wanted = worker.clone();
        let node = self
            .core
            .read(move |cluster, _| cluster.node_of(job, &wanted).cloned());
        // One that was never placed is told so by the core.
        if let Some(node) = node.await? {
            caller.may_speak_for(node.as_str())?;
        }
        let session = self.core.new_session();
        let (link, queue, over) = Link::new(session);
        self.core
            .send(Message::WorkerHere {
                worker: worker.clone(),
                link,
                event,
            })
            .await?;
        tracing::debug!(%job, %worker, "a worker attached");

        let core = self.core.clone();
        // Ends with the stream, or when the actor drops the link.
        tokio::spawn(async move {
            let take = |message| take(&core, job, &worker, session, message);
            reader::read(inbound, over, take).await;
            tracing::debug!(%job, %worker, "a worker's stream ended");
            // Without an inbox there is nobody to tell.
            let _ = core
                .send(Message::WorkerGone {
                    worker: worker.clone(),
                    session,
                })
                .await;
        });
        Ok(Response::new(answers(queue)))
    }
}

async fn take(
    core: &Core,
    job: JobId,
    worker: &WorkerId,
    session: u64,
    message: v1::WorkerMessage,
) -> Result<(), Status> {
    let event = convert::worker_event(message)?;
    match &event {
        Event::Worker {
            job: said_job,
            worker: said_worker,
            ..
        } if *said_job == job && said_worker == worker => {
            core.send(Message::WorkerSays {
                worker: worker.clone(),
                session,
                event,
            })
            .await
        }
        _ => Err(Status::invalid_argument(format!(
            "a message of another worker came on the stream of {worker}"
        ))),
    }
}
