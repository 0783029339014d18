use std::{collections::BTreeSet, sync::Arc, time::Duration};

use muster_access::Dial;
use muster_proto::v1::{
    AgentCommand, AgentHeartbeat, AgentHello, AgentMessage, LogContent, NodeLeaving, NodeUnfit,
    ReadLog, Slot, StartWorker, agent_command, agent_message,
    agent_service_client::AgentServiceClient,
};
use tokio::{
    io::AsyncReadExt,
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    Options,
    directories::Directories,
    fitness,
    launch::{GpuSharing, Launch},
    logs::{self, CHUNK_BYTES, Start},
    supervisor::{News, Supervisor},
};

/// Pause after a failed or lost stream; doubles up to the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Messages that wait for a slow network; when they are more, the stream is given up and opened again.
const QUEUE: usize = 1024;
/// A stream that still lives so long after something was said has carried it: keep-alive would have found it broken.
const PROOF: Duration = Duration::from_secs(15);
/// Log chunks that wait.
const LOG_QUEUE: usize = 4;

/// Talks to the coordinator, over one stream after another.
pub(crate) struct Session {
    pub(crate) dial: Dial,
    pub(crate) options: Options,
    pub(crate) directories: Directories,
    pub(crate) slots: Vec<Slot>,
    /// Cores that the worker of each slot stays on; none: all.
    pub(crate) pins: Vec<BTreeSet<usize>>,
    pub(crate) supervisor: Arc<Supervisor>,
    /// How long the workers have to leave in good order, in seconds, once this agent is about to end.
    pub(crate) leaving: watch::Receiver<Option<u32>>,
    /// Whether the coordinator is within reach.
    pub(crate) connected: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
}

/// How a stream came to its end.
enum Ending {
    /// It was never set up.
    Refused(Status),
    /// It broke, or the coordinator ended it.
    Lost(String),
    /// This agent shuts down.
    Stopped,
}

/// What this agent says on one stream.
struct Voice {
    messages: mpsc::Sender<AgentMessage>,
    logs: mpsc::Sender<AgentMessage>,
    told: BTreeSet<(String, Kind)>,
    /// Exits that were said but may yet be lost with the stream.
    unproven: Vec<(Instant, String)>,
    /// It was said that no worker could run here, and that is still so.
    warned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Started,
    Exited,
}

impl Session {
    pub(crate) async fn run(self) {
        let mut pause = BACK_OFF.0;
        loop {
            let coordinator = &self.options.coordinator;
            let ending = self.stream().await;
            self.connected.send_replace(false);
            match ending {
                Ending::Stopped => return,
                Ending::Lost(reason) => {
                    tracing::warn!(%coordinator, %reason, "the stream to the coordinator ended; connecting again");
                    pause = BACK_OFF.0;
                }
                Ending::Refused(status) => {
                    let reason = status.message();
                    tracing::warn!(%coordinator, code = ?status.code(), %reason, "no stream to the coordinator; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = BACK_OFF.1.min(pause * 2),
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn stream(&self) -> Ending {
        let (messages, outbound) = mpsc::channel(QUEUE);
        let (logs, log_chunks) = mpsc::channel(LOG_QUEUE);
        let mut voice = Voice {
            messages,
            logs,
            told: BTreeSet::new(),
            unproven: Vec::new(),
            warned: false,
        };
        let mut changes = self.supervisor.changes();
        // What is said in the hello is not said again.
        let mut leaving = self.leaving.clone();
        let seconds = *leaving.borrow_and_update();
        let hello = self.hello(seconds).await;
        for started in &hello.running {
            voice
                .told
                .insert((started.worker_id.clone(), Kind::Started));
        }
        if voice.say(agent_message::Kind::Hello(hello)).is_err() {
            return Ending::Lost("the queue of a new stream is full".into());
        }
        if voice
            .warn(fitness::on_joining(&self.options.data_dir))
            .is_err()
        {
            return Ending::Lost("the queue of a new stream is full".into());
        }
        let outbound = futures::stream::select(
            ReceiverStream::new(outbound),
            ReceiverStream::new(log_chunks),
        );
        let open = async {
            let connection = self.dial.connect().await;
            let connection = connection.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(AgentServiceClient::new(connection)
                .session(outbound)
                .await?
                .into_inner())
        };
        let mut inbound = tokio::select! {
            opened = open => match opened {
                Ok(inbound) => inbound,
                Err(status) => return Ending::Refused(status),
            },
            () = self.stop.cancelled() => return Ending::Stopped,
        };
        let mut heartbeat = None;
        changes.mark_changed();
        loop {
            let beat = async {
                match &mut heartbeat {
                    Some(interval) => tokio::time::Interval::tick(interval).await,
                    None => std::future::pending().await,
                }
            };
            let said = tokio::select! {
                command = inbound.message() => match command {
                    Ok(Some(AgentCommand { kind: Some(agent_command::Kind::Welcome(welcome)) })) => {
                        tracing::info!(coordinator = %self.options.coordinator, "connected");
                        self.connected.send_replace(true);
                        let period = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(100)));
                        let mut interval = interval_at(Instant::now() + period, period);
                        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        heartbeat = Some(interval);
                        Ok(())
                    }
                    Ok(Some(command)) => self.obey(command, &mut voice),
                    Ok(None) => return Ending::Lost("the coordinator ended it".into()),
                    Err(status) => return Ending::Lost(status.message().to_owned()),
                },
                changed = changes.changed() => match changed {
                    Ok(()) => voice.tell(&self.supervisor),
                    Err(_) => return Ending::Stopped,
                },
                () = told_to_leave(&mut leaving) => match *leaving.borrow_and_update() {
                    Some(grace_seconds) => voice.say(agent_message::Kind::Leaving(NodeLeaving { grace_seconds })),
                    None => Ok(()),
                },
                _ = beat => {
                    voice.prove(&self.supervisor);
                    let unfit = fitness::while_working(&self.options.data_dir);
                    match voice.warn(unfit) {
                        Ok(()) => voice.say(agent_message::Kind::Heartbeat(load())),
                        full => full,
                    }
                }
                () = self.stop.cancelled() => {
                    let _ = voice.tell(&self.supervisor);
                    drop(voice);
                    drain(&mut inbound).await;
                    return Ending::Stopped;
                }
            };
            if said.is_err() {
                return Ending::Lost("the coordinator does not read".into());
            }
        }
    }

    async fn hello(&self, leaving_seconds: Option<u32>) -> AgentHello {
        AgentHello {
            node: self.options.name.clone(),
            advertise: self.options.advertise.clone(),
            slots: self.slots.clone(),
            running: self.supervisor.running().await,
            version: env!("CARGO_PKG_VERSION").into(),
            host: sysinfo::System::host_name().unwrap_or_default(),
            leaving_seconds,
        }
    }

    fn obey(&self, command: AgentCommand, voice: &mut Voice) -> Result<(), QueueFull> {
        match command.kind {
            Some(agent_command::Kind::Start(start)) => {
                // A repeated order is answered again.
                voice.told.retain(|(worker, _)| *worker != start.worker_id);
                match self.launch(&start) {
                    Ok(launch) => self.supervisor.start(launch),
                    Err(reason) => self.supervisor.refuse(&start, reason),
                }
                voice.tell(&self.supervisor)
            }
            Some(agent_command::Kind::Kill(kill)) => {
                tracing::info!(worker = %kill.worker_id, reason = %kill.reason, "killing a worker");
                self.supervisor.kill(&kill.worker_id);
                voice.told.retain(|(worker, _)| *worker != kill.worker_id);
                voice.tell(&self.supervisor)
            }
            Some(agent_command::Kind::ReadLog(request)) => {
                let path = self.directories.log(&request.job_id, &request.worker_id);
                // Ends with the file, or with the stream that it reads for.
                tokio::spawn(send_log(request, path, voice.logs.clone()));
                Ok(())
            }
            Some(agent_command::Kind::Welcome(_)) | None => Ok(()),
        }
    }

    fn launch(&self, start: &StartWorker) -> Result<Launch, String> {
        let slot = self.slots.iter().find(|slot| slot.index == start.slot);
        let slot = slot.ok_or_else(|| format!("this node has no slot {}", start.slot))?;
        let on_gpu = start.device.starts_with("cuda");
        if on_gpu && slot.gpu_uuid.is_empty() {
            return Err(format!(
                "slot {} is {}, not {}",
                slot.index, slot.device, start.device
            ));
        }
        let same_gpu = |other: &&Slot| other.gpu_uuid == slot.gpu_uuid;
        let gpu_sharing = match self.slots.iter().filter(same_gpu).count() {
            0 | 1 => GpuSharing::Alone,
            _ => GpuSharing::Shared,
        };
        let directory = self.directories.job(&start.job_dir);
        let log = self.directories.log(&start.job_dir, &start.worker_id);
        let (Some(directory), Some(log)) = (directory, log) else {
            return Err(format!(
                "{:?} or {:?} is no name for a file",
                start.job_dir, start.worker_id
            ));
        };
        Ok(Launch {
            binary: self.options.worker_binary.clone(),
            coordinator: self.options.coordinator.clone(),
            advertise: self.options.advertise.clone(),
            node: self.options.name.clone(),
            credentials: self.options.credentials.clone(),
            job: start.job_id.clone(),
            worker: start.worker_id.clone(),
            gpu_sharing,
            device: start.device.clone(),
            threads: if start.threads == 0 {
                slot.threads
            } else {
                start.threads
            },
            slot: slot.clone(),
            directory,
            log,
            lifetime: self.options.lifetime,
            interface: start.interface.clone(),
            cores: self
                .pins
                .get(slot.index as usize)
                .cloned()
                .unwrap_or_default(),
        })
    }
}

/// Too much waits for the network.
struct QueueFull;

impl Voice {
    fn say(&self, kind: agent_message::Kind) -> Result<(), QueueFull> {
        self.messages
            .try_send(AgentMessage { kind: Some(kind) })
            .map_err(|_| QueueFull)
    }

    /// Says what was not said on this stream.
    fn tell(&mut self, supervisor: &Supervisor) -> Result<(), QueueFull> {
        for news in supervisor.news() {
            match news {
                News::Started(started) => {
                    if self.told.insert((started.worker_id.clone(), Kind::Started)) {
                        self.say(agent_message::Kind::Started(started))?;
                    }
                }
                News::Exited(exited) => {
                    let worker = exited.worker_id.clone();
                    if self.told.insert((worker.clone(), Kind::Exited)) {
                        self.say(agent_message::Kind::Exited(exited))?;
                        self.unproven.push((Instant::now(), worker));
                    }
                }
            }
        }
        Ok(())
    }

    /// Says once that no worker could run here.
    fn warn(&mut self, unfit: Option<String>) -> Result<(), QueueFull> {
        let warned = std::mem::replace(&mut self.warned, unfit.is_some());
        match unfit {
            Some(reason) if !warned => {
                tracing::warn!(%reason, "no worker could run here");
                self.say(agent_message::Kind::Unfit(NodeUnfit { reason }))
            }
            _ => Ok(()),
        }
    }

    fn prove(&mut self, supervisor: &Supervisor) {
        self.unproven.retain(|(said, worker)| {
            let proven = said.elapsed() >= PROOF;
            if proven {
                supervisor.told(worker);
            }
            !proven
        });
    }
}

/// Waits until this agent is about to end. One that was dropped says nothing more.
async fn told_to_leave(leaving: &mut watch::Receiver<Option<u32>>) {
    if leaving.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Reads on until the coordinator has closed its side: then it has read all of ours.
async fn drain(inbound: &mut Streaming<AgentCommand>) {
    while let Ok(Some(_)) = inbound.message().await {}
}

fn load() -> AgentHeartbeat {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    AgentHeartbeat {
        load1: sysinfo::System::load_average().one,
        memory_available_bytes: system.available_memory(),
    }
}

async fn send_log(
    request: ReadLog,
    path: Option<std::path::PathBuf>,
    voice: mpsc::Sender<AgentMessage>,
) {
    let content = |data, offset, last, error| AgentMessage {
        kind: Some(agent_message::Kind::Log(LogContent {
            request_id: request.request_id,
            worker_id: request.worker_id.clone(),
            data,
            last,
            error,
            offset,
        })),
    };
    let start = match (request.offset, request.tail_lines) {
        (Some(offset), _) => Start::Offset(offset),
        (None, Some(lines)) => Start::Tail(lines),
        (None, None) => Start::First,
    };
    let opened = match path {
        None => Err("no such worker".to_owned()),
        Some(path) => tokio::task::spawn_blocking(move || logs::open(&path, start))
            .await
            .map_err(|error| error.to_string())
            .and_then(|opened| opened.map_err(|error| error.to_string())),
    };
    let (mut file, mut offset) = match opened {
        Ok((file, offset)) => (tokio::fs::File::from_std(file), offset),
        Err(error) => {
            let _ = voice.send(content(Vec::new(), 0, true, error)).await;
            return;
        }
    };
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let outcome = (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut data)
            .await;
        let (last, error) = match outcome {
            Ok(read) => (read < CHUNK_BYTES, String::new()),
            Err(error) => (true, error.to_string()),
        };
        let end = offset + data.len() as u64;
        let sent = voice.send(content(data, offset, last, error)).await;
        if sent.is_err() || last {
            return;
        }
        offset = end;
    }
}
