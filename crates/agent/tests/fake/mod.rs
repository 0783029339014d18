//! A coordinator that does what the test says.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::Stream;
use muster_proto::v1::{
    AgentCommand, AgentMessage, AgentWelcome, agent_command, agent_message,
    agent_service_server::{AgentService, AgentServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub struct FakeCoordinator {
    pub url: String,
    peers: mpsc::Receiver<Peer>,
    to_refuse: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
    _stop: DropGuard,
}

/// One stream of an agent.
pub struct Peer {
    inbound: Streaming<AgentMessage>,
    outbound: mpsc::Sender<Result<AgentCommand, Status>>,
}

struct Service {
    peers: mpsc::Sender<Peer>,
    to_refuse: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
}

impl FakeCoordinator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, peers) = mpsc::channel(8);
        let (to_refuse, refused) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let service = Service {
            peers: sender,
            to_refuse: Arc::clone(&to_refuse),
            refused: Arc::clone(&refused),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let server = Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! { _ = server => {}, () = stopped => {} }
        });
        Self {
            url,
            peers,
            to_refuse,
            refused,
            _stop: stop.drop_guard(),
        }
    }

    pub async fn accept(&mut self) -> Peer {
        tokio::time::timeout(Duration::from_secs(20), self.peers.recv())
            .await
            .expect("no agent came")
            .unwrap()
    }

    pub fn refuse_next(&self) {
        self.to_refuse.fetch_add(1, Ordering::SeqCst);
    }

    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Peer {
    /// What the agent says next; heartbeats come without their numbers.
    pub async fn next(&mut self) -> agent_message::Kind {
        let message = tokio::time::timeout(Duration::from_secs(20), self.inbound.message())
            .await
            .expect("the agent said nothing")
            .unwrap()
            .expect("the agent hung up");
        match message.kind.unwrap() {
            agent_message::Kind::Heartbeat(beat) => {
                assert!(beat.memory_available_bytes > 0);
                agent_message::Kind::Heartbeat(Default::default())
            }
            other => other,
        }
    }

    pub async fn tell(&self, kind: agent_command::Kind) {
        self.outbound
            .send(Ok(AgentCommand { kind: Some(kind) }))
            .await
            .unwrap();
    }

    pub fn hang_up(self) {}
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<AgentCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let refuse = |left: u32| left.checked_sub(1);
        if self
            .to_refuse
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse)
            .is_ok()
        {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::already_exists("a node of this name is connected"));
        }
        let (outbound, commands) = mpsc::channel(16);
        let welcome = agent_command::Kind::Welcome(AgentWelcome { heartbeat_ms: 5000 });
        outbound
            .send(Ok(AgentCommand {
                kind: Some(welcome),
            }))
            .await
            .unwrap();
        self.peers
            .send(Peer {
                inbound: request.into_inner(),
                outbound,
            })
            .await
            .ok();
        Ok(Response::new(Box::pin(ReceiverStream::new(commands))))
    }
}
