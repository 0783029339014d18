use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use muster_proto::v1::{
    self, AgentMessage, StartWorker, agent_command, agent_message::Kind,
    agent_service_client::AgentServiceClient,
};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    worker::Worker,
    world::{Mark, World},
};

const SIGKILL: i32 = 9;
const QUEUE: usize = 64;

/// All nodes, and the workers on them.
#[derive(Debug)]
pub struct Nodes {
    pub world: Arc<World>,
    /// Each carries so many streams of workers as its share is.
    pub channels: Vec<Channel>,
    /// The last worker of so many gets warm only when this is told.
    pub hold: (usize, Arc<Notify>),
    started: AtomicUsize,
    workers: Mutex<BTreeMap<String, Running>>,
    job: Mutex<String>,
}

/// A worker that runs.
#[derive(Debug)]
struct Running {
    order: StartWorker,
    task: AbortHandle,
    agent: mpsc::Sender<AgentMessage>,
}

impl Nodes {
    pub fn new(world: Arc<World>, channels: Vec<Channel>, hold: (usize, Arc<Notify>)) -> Self {
        Self {
            world,
            channels,
            hold,
            started: AtomicUsize::new(0),
            workers: Mutex::default(),
            job: Mutex::default(),
        }
    }

    /// The job that the workers are of.
    pub fn job(&self) -> String {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        job.clone()
    }

    /// Plays an agent until its stream ends.
    pub async fn run(self: Arc<Self>, number: usize, slots: u32) {
        let (agent, receiver) = mpsc::channel(QUEUE);
        let slot = |index| v1::Slot {
            index,
            device: "cpu".into(),
            gpu_uuid: String::new(),
            threads: 1,
        };
        let hello = v1::AgentHello {
            node: format!("node-{number:05}"),
            advertise: "10.0.0.1".into(),
            slots: (0..slots).map(slot).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            host: format!("host-{number:05}"),
            ..v1::AgentHello::default()
        };
        tell(&agent, Kind::Hello(hello)).await;
        let channel = self.channels[number % self.channels.len()].clone();
        let mut client = AgentServiceClient::new(channel);
        let mut commands = match client.session(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return eprintln!("node {number}: {}", status.message()),
        };
        while let Ok(Some(command)) = commands.message().await {
            match command.kind {
                Some(agent_command::Kind::Welcome(_)) => self.world.mark(Mark::Node),
                Some(agent_command::Kind::Start(order)) => self.start(order, &agent).await,
                Some(agent_command::Kind::Kill(kill)) => self.kill(&kill.worker_id).await,
                _ => {}
            }
        }
        eprintln!("node {number}: its stream ended");
    }

    async fn start(&self, order: StartWorker, agent: &mpsc::Sender<AgentMessage>) {
        let pid = self.world.new_pid();
        let started = v1::WorkerStarted {
            job_id: order.job_id.clone(),
            worker_id: order.worker_id.clone(),
            slot: order.slot,
            pid,
        };
        tell(agent, Kind::Started(started)).await;
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let worker = Worker {
            world: Arc::clone(&self.world),
            job: order.job_id.clone(),
            id: order.worker_id.clone(),
            pid,
            hold: (number + 1 == self.hold.0).then(|| Arc::clone(&self.hold.1)),
        };
        let channel = self.channels[number % self.channels.len()].clone();
        let task = tokio::spawn(worker.run(channel)).abort_handle();
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        job.clone_from(&order.job_id);
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let running = Running {
            task,
            agent: agent.clone(),
            order,
        };
        workers.insert(running.order.worker_id.clone(), running);
    }

    /// Ends a worker as SIGKILL does: its stream breaks, and its agent says so.
    pub async fn kill(&self, worker: &str) {
        let running = {
            let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            workers.remove(worker)
        };
        let Some(Running { order, task, agent }) = running else {
            return;
        };
        task.abort();
        let exited = v1::WorkerExited {
            job_id: order.job_id,
            worker_id: order.worker_id,
            slot: order.slot,
            signal: Some(SIGKILL),
            ..v1::WorkerExited::default()
        };
        tell(&agent, Kind::Exited(exited)).await;
    }

    /// The so-many-th of the workers that run, in order of their names.
    pub fn worker(&self, number: usize) -> Option<String> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.keys().nth(number % workers.len().max(1)).cloned()
    }
}

async fn tell(agent: &mpsc::Sender<AgentMessage>, kind: Kind) {
    // A stream that is gone is noticed where it is read.
    let _ = agent.send(AgentMessage { kind: Some(kind) }).await;
}
