//! A client, an agent and workers that do what the test says, over real gRPC.
// Each file of tests needs a part of it.
#![allow(dead_code)]

use std::{path::Path, time::Duration};

use muster_coordinator::{Coordinator, Handle, Options};
use muster_data::{PrepareOptions, TokenizerChoice, prepare};
use muster_proto::v1::{
    Activity, AgentCommand, AgentHello, AgentMessage, Attach, Form, GetStatusRequest, JobStatus,
    ProbeAnswer, Slot, StartWorker, SubmitRequest, WorkerCommand, WorkerExited, WorkerMessage,
    WorkerStarted, agent_command, agent_message, agent_service_client::AgentServiceClient,
    job_service_client::JobServiceClient, store_service_client::StoreServiceClient, worker_command,
    worker_message, worker_service_client::WorkerServiceClient,
};
use muster_spec::RunSpec;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

const PATIENCE: Duration = Duration::from_secs(30);

/// A coordinator with a dataset beside it.
pub struct Bench {
    pub dir: TempDir,
    pub coordinator: Handle,
    pub client: JobServiceClient<Channel>,
}

impl Bench {
    pub async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let text = dir.path().join("text.txt");
        let words = (0..4000).map(|i| format!("word{} and more. \n\n", i % 97));
        std::fs::write(&text, words.collect::<String>()).unwrap();
        let mut options =
            PrepareOptions::new(vec![text], dir.path().join("data"), TokenizerChoice::Bytes);
        options.validation_fraction = 0.2;
        prepare(&options, &|_| std::ops::ControlFlow::Continue(())).unwrap();
        let coordinator = start(dir.path()).await;
        let client = JobServiceClient::connect(coordinator.url()).await.unwrap();
        Self {
            dir,
            coordinator,
            client,
        }
    }

    /// The same data directory under a new coordinator.
    pub async fn restart(self) -> Self {
        let Self {
            dir,
            coordinator,
            client,
        } = self;
        drop(client);
        coordinator.shutdown().await.unwrap();
        let coordinator = start(dir.path()).await;
        let client = JobServiceClient::connect(coordinator.url()).await.unwrap();
        Self {
            dir,
            coordinator,
            client,
        }
    }

    /// A job of 100 steps with 4 slots of the batch, for exactly `workers` workers.
    pub fn spec(&self, workers: u32) -> RunSpec {
        let mut spec = RunSpec {
            name: "test".into(),
            ..RunSpec::default()
        };
        spec.data.path = self.dir.path().join("data").to_str().unwrap().into();
        spec.model.context_length = 32;
        spec.train.steps = 100;
        spec.train.global_batch = 8;
        spec.train.micro_batch = 2;
        spec.schedule.warmup_steps = 10;
        spec.workers.min = workers;
        spec.workers.max = workers;
        spec.checkpoint.every_steps = 4;
        spec
    }

    pub async fn submit(&mut self, spec: &RunSpec, job_id: &str) -> Result<String, Status> {
        let spec_json = serde_json::to_string(spec).unwrap();
        self.submit_json(spec_json, job_id).await
    }

    pub async fn submit_json(&mut self, spec_json: String, job_id: &str) -> Result<String, Status> {
        let request = SubmitRequest {
            spec_json,
            job_id: job_id.into(),
        };
        Ok(self.client.submit(request).await?.into_inner().job_id)
    }

    pub async fn status(&mut self, job: &str) -> JobStatus {
        let request = GetStatusRequest {
            job_id: job.into(),
            ..GetStatusRequest::default()
        };
        self.client.get_status(request).await.unwrap().into_inner()
    }

    /// Asks until the status is as wanted.
    pub async fn status_when(
        &mut self,
        job: &str,
        mut wanted: impl FnMut(&JobStatus) -> bool,
    ) -> JobStatus {
        let asking = async {
            loop {
                let status = self.status(job).await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("the status never came")
    }

    pub async fn store(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::connect(self.coordinator.url())
            .await
            .unwrap()
    }
}

pub async fn start(dir: &Path) -> Handle {
    let options = Options::new("127.0.0.1:0".parse().unwrap(), dir.join("coordinator"));
    Coordinator::start(options).await.unwrap()
}

/// One stream of an agent.
pub struct Agent {
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<AgentCommand>,
}

impl Agent {
    pub async fn connect(
        url: String,
        slots: u32,
        running: Vec<WorkerStarted>,
    ) -> Result<Self, Status> {
        let slot = |index| Slot {
            index,
            device: "cpu".into(),
            gpu_uuid: String::new(),
            threads: 1,
        };
        let hello = AgentHello {
            node: "node-a".into(),
            advertise: "127.0.0.1".into(),
            slots: (0..slots).map(slot).collect(),
            running,
            version: "test".into(),
            host: "host-a".into(),
            leaving_seconds: None,
        };
        let (outbound, messages) = mpsc::channel(64);
        let kind = Some(agent_message::Kind::Hello(hello));
        outbound.send(AgentMessage { kind }).await.unwrap();
        let mut client = AgentServiceClient::connect(url).await.unwrap();
        let inbound = client
            .session(ReceiverStream::new(messages))
            .await?
            .into_inner();
        let mut agent = Self { outbound, inbound };
        assert!(matches!(
            agent.next().await,
            agent_command::Kind::Welcome(_)
        ));
        Ok(agent)
    }

    pub async fn next(&mut self) -> agent_command::Kind {
        let command = tokio::time::timeout(PATIENCE, self.inbound.message()).await;
        command
            .expect("no command came")
            .unwrap()
            .expect("the stream ended")
            .kind
            .unwrap()
    }

    pub async fn say(&self, kind: agent_message::Kind) {
        self.outbound
            .send(AgentMessage { kind: Some(kind) })
            .await
            .unwrap();
    }

    /// Takes a command to start a worker and reports it as started.
    pub async fn start_worker(&mut self, pid: u32) -> (StartWorker, WorkerStarted) {
        let start = match self.next().await {
            agent_command::Kind::Start(start) => start,
            other => panic!("{other:?}"),
        };
        let started = WorkerStarted {
            job_id: start.job_id.clone(),
            worker_id: start.worker_id.clone(),
            slot: start.slot,
            pid,
        };
        self.say(agent_message::Kind::Started(started.clone()))
            .await;
        (start, started)
    }

    pub async fn exited(
        &self,
        worker: &WorkerStarted,
        exit_code: Option<i32>,
        signal: Option<i32>,
    ) {
        let exited = WorkerExited {
            job_id: worker.job_id.clone(),
            worker_id: worker.worker_id.clone(),
            slot: worker.slot,
            exit_code,
            signal,
            ..WorkerExited::default()
        };
        self.say(agent_message::Kind::Exited(exited)).await;
    }
}

/// One stream of a worker's control thread.
pub struct Worker {
    pub job: String,
    pub id: String,
    pub generation: u64,
    outbound: mpsc::Sender<WorkerMessage>,
    inbound: mpsc::Receiver<Result<WorkerCommand, Status>>,
}

impl Worker {
    pub async fn attach(
        url: String,
        started: &WorkerStarted,
        generation: u64,
        attach: Attach,
    ) -> Self {
        let (outbound, messages) = mpsc::channel(64);
        let mut client = WorkerServiceClient::connect(url).await.unwrap();
        let first = WorkerMessage {
            job_id: started.job_id.clone(),
            worker_id: started.worker_id.clone(),
            generation,
            kind: Some(worker_message::Kind::Attach(attach)),
        };
        outbound.send(first).await.unwrap();
        let stream = client
            .session(ReceiverStream::new(messages))
            .await
            .unwrap()
            .into_inner();
        let inbound = answering_probes(stream, started.clone(), outbound.downgrade());
        let (job, id) = (started.job_id.clone(), started.worker_id.clone());
        Self {
            job,
            id,
            generation,
            outbound,
            inbound,
        }
    }

    pub async fn say(&self, kind: worker_message::Kind) {
        let message = WorkerMessage {
            job_id: self.job.clone(),
            worker_id: self.id.clone(),
            generation: self.generation,
            kind: Some(kind),
        };
        self.outbound.send(message).await.unwrap();
    }

    pub async fn next(&mut self) -> worker_command::Kind {
        let command = self.maybe_next().await.expect("the stream ended");
        assert_eq!(command.job_id, self.job);
        command.kind.unwrap()
    }

    pub async fn maybe_next(&mut self) -> Option<WorkerCommand> {
        let command = tokio::time::timeout(PATIENCE, self.inbound.recv()).await;
        command.expect("no command came").transpose().unwrap()
    }

    /// Takes the next command, which forms a generation, and enters it.
    pub async fn form(&mut self) -> Form {
        let command = self.maybe_next().await.expect("the stream ended");
        match command.kind {
            Some(worker_command::Kind::Form(form)) => {
                self.generation = command.generation;
                form
            }
            other => panic!("{other:?}"),
        }
    }
}

/// All commands of a stream but probes, which are answered at once, as a control thread does.
fn answering_probes(
    mut stream: Streaming<WorkerCommand>,
    worker: WorkerStarted,
    outbound: mpsc::WeakSender<WorkerMessage>,
) -> mpsc::Receiver<Result<WorkerCommand, Status>> {
    let (others, inbound) = mpsc::channel(64);
    // Ends with the stream, or with the worker whose stream it is.
    tokio::spawn(async move {
        while let Some(command) = stream.message().await.transpose() {
            let kind = command.as_ref().ok().and_then(|it| it.kind.as_ref());
            let Some(worker_command::Kind::Probe(probe)) = kind else {
                if others.send(command).await.is_err() {
                    return;
                }
                continue;
            };
            let answer = ProbeAnswer {
                number: probe.number,
                activity: Activity::Idle.into(),
                ..ProbeAnswer::default()
            };
            let message = WorkerMessage {
                job_id: worker.job_id.clone(),
                worker_id: worker.worker_id.clone(),
                generation: 0,
                kind: Some(worker_message::Kind::ProbeAnswer(answer)),
            };
            let Some(outbound) = outbound.upgrade() else {
                return;
            };
            // Where nobody reads, the end of the stream says so.
            let _ = outbound.send(message).await;
        }
    });
    inbound
}
