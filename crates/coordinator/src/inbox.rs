use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use muster_cluster::{AgentHello, Cluster, Event};
use muster_proto::v1::{AgentCommand, WorkerCommand};
use muster_types::{JobId, NodeName, Now, WorkerId};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::link::Link;

/// Messages that wait for the actor; senders wait when there are more. Each of thousands of workers has several to say when a
/// generation is formed, and bounds are judged by what was heard.
const INBOX: usize = 1 << 16;

/// What the actor takes in.
pub(crate) enum Message {
    /// Something happened.
    Event {
        event: Event,
        done: Option<oneshot::Sender<()>>,
    },
    /// An agent opened a stream.
    AgentHere {
        hello: AgentHello,
        host: String,
        link: Link<AgentCommand>,
        reply: oneshot::Sender<Result<(), Status>>,
    },
    /// An agent said something on the stream `session`.
    AgentSays {
        node: NodeName,
        session: u64,
        event: Event,
    },
    /// The agent's stream ended.
    AgentGone { node: NodeName, session: u64 },
    /// Pass a command to an agent that is no decision of the core; answers whether the agent is connected.
    AskAgent {
        node: NodeName,
        command: AgentCommand,
        reply: oneshot::Sender<bool>,
    },
    /// A worker opened a stream with this first message.
    WorkerHere {
        worker: WorkerId,
        link: Link<WorkerCommand>,
        event: Event,
    },
    /// A worker said something on the stream `session`.
    WorkerSays {
        worker: WorkerId,
        session: u64,
        event: Event,
    },
    /// The worker's stream ended.
    WorkerGone { worker: WorkerId, session: u64 },
    /// A question.
    Read(Question),
}

type Question = Box<dyn FnOnce(&Cluster, Now) + Send>;

/// How far the actor has come; changes with each event it has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Events taken.
    pub(crate) events: u64,
    /// Newest record of the journal.
    pub(crate) sequence: u64,
}

/// A handle on the actor.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    inbox: mpsc::Sender<Message>,
    progress: watch::Receiver<Progress>,
    sessions: Arc<AtomicU64>,
}

impl Core {
    pub(crate) fn new(progress: watch::Receiver<Progress>) -> (Self, mpsc::Receiver<Message>) {
        let (inbox, messages) = mpsc::channel(INBOX);
        (
            Self {
                inbox,
                progress,
                sessions: Arc::default(),
            },
            messages,
        )
    }

    /// Hands the actor a message.
    ///
    /// # Errors
    /// UNAVAILABLE when the coordinator is shutting down.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Status> {
        self.inbox.send(message).await.map_err(|_| stopping())
    }

    /// Hands the actor an event, and returns once what it decided is on record and under way.
    pub(crate) async fn event(&self, event: Event) -> Result<(), Status> {
        let (done, taken) = oneshot::channel();
        self.send(Message::Event {
            event,
            done: Some(done),
        })
        .await?;
        taken.await.map_err(|_| stopping())
    }

    /// Asks the state something.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Cluster, Now) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |cluster, now| {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(question(cluster, now));
        });
        self.send(Message::Read(question)).await?;
        answer.await.map_err(|_| stopping())
    }

    /// The job that `text`, a full id or an unambiguous prefix, names.
    pub(crate) async fn resolve(&self, text: &str) -> Result<JobId, Status> {
        if text.is_empty() {
            return Err(Status::invalid_argument(
                "job_id is empty; give a job's id or the beginning of one",
            ));
        }
        let jobs = self.read(|cluster, _| cluster.jobs()).await?;
        let wanted = text.to_ascii_lowercase();
        let mut found = jobs
            .into_iter()
            .filter(|job| job.to_string().starts_with(&wanted));
        match (found.next(), found.next()) {
            (Some(job), None) => Ok(job),
            (None, _) => Err(Status::not_found(format!(
                "there is no job {text}; `muster jobs` lists those there are"
            ))),
            (Some(one), Some(other)) => Err(Status::invalid_argument(format!(
                "{text} is ambiguous: {one} and {other} begin with it; give more of the id"
            ))),
        }
    }

    /// Wakes after each event.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// A number for a new stream.
    pub(crate) fn new_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn stopping() -> Status {
    Status::unavailable("the coordinator is shutting down; try again when it is back")
}
