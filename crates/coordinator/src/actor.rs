use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster_cluster::{Cluster, Command, Event, Order, Record, Superseded, describe};
use muster_proto::v1::{AgentCommand, AgentWelcome, WorkerCommand, agent_command};
use muster_store::Journal;
use muster_types::{NodeName, WorkerId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    CoordinatorError,
    clock::Clock,
    convert,
    effects::{ManifestJob, delete_checkpoint},
    inbox::{Core, Message, Progress},
    job_files::JobFiles,
    journal_entry,
    link::Link,
    spaces::Spaces,
};

/// How often agents say how their node is doing.
const HEARTBEAT_MS: u32 = 2000;
/// The least time between two ticks, whatever the state asks for.
const TICK_FLOOR: Duration = Duration::from_millis(1);

/// The one task that owns the state. It takes one message after the other: decides, puts what was decided on record, applies
/// it, and only then acts on it. What workers and agents say of single workers is taken in together where more of it is
/// there already: it is decided on at once, and is on record with one wait for the disk.
pub(crate) struct Actor {
    pub(crate) cluster: Cluster,
    /// Which records each new one makes superfluous.
    pub(crate) superseded: Superseded,
    pub(crate) journal: Journal<Record>,
    pub(crate) clock: Clock,
    pub(crate) core: Core,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) spaces: Arc<Spaces>,
    pub(crate) files: JobFiles,
    pub(crate) agents: BTreeMap<NodeName, (String, Link<AgentCommand>)>,
    pub(crate) workers: BTreeMap<WorkerId, Link<WorkerCommand>>,
    pub(crate) orders: convert::Orders,
    /// What was heard and is not decided on yet; and what the actor itself has noticed while it ran commands: streams that had
    /// to be given up.
    pub(crate) heard: Vec<Event>,
}

impl Actor {
    /// Runs until `stop` is cancelled.
    ///
    /// # Errors
    /// If the journal cannot be written: nothing more is decided then.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        stop: CancellationToken,
    ) -> Result<(), CoordinatorError> {
        // Replay has applied the records; this sets bounds anew and opens the stores of formed generations again.
        self.take(Event::Tick)?;
        loop {
            let deadline = self
                .cluster
                .next_deadline()
                .map(|at| self.clock.instant(at));
            let tick = async {
                match deadline {
                    Some(at) => {
                        let soonest = tokio::time::Instant::now() + TICK_FLOOR;
                        tokio::time::sleep_until(soonest.max(at.into())).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tick => self.tick(&mut inbox)?,
                message = inbox.recv() => match message {
                    Some(message) => self.receive_all(message, &mut inbox)?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// A bound may have run out. Whoever has answered by now is heard before: that it was not read yet is no silence.
    fn tick(&mut self, inbox: &mut mpsc::Receiver<Message>) -> Result<(), CoordinatorError> {
        self.receive_waiting(inbox)?;
        self.take(Event::Tick)
    }

    /// Takes a message, and those that are there already.
    fn receive_all(
        &mut self,
        first: Message,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Result<(), CoordinatorError> {
        self.receive(first)?;
        self.receive_waiting(inbox)?;
        self.decide()
    }

    /// Takes the messages that are there, but no more than there may be at once: whoever stops has to wait as long.
    fn receive_waiting(
        &mut self,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Result<(), CoordinatorError> {
        for _ in 0..inbox.len() {
            match inbox.try_recv() {
                Ok(message) => self.receive(message)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) -> Result<(), CoordinatorError> {
        match message {
            Message::Event { event, done } => {
                self.take(event)?;
                self.decide()?;
                if let Some(done) = done {
                    // Whoever waits may have gone meanwhile.
                    let _ = done.send(());
                }
            }
            // Of the state as it was decided last: what was heard since is not on record.
            Message::Read(question) => question(&self.cluster, self.clock.now()),
            Message::AgentHere {
                hello,
                host,
                link,
                reply,
            } => {
                let node = hello.node.clone();
                if let Some((other, _)) = self.agents.get(&node).filter(|(_, old)| !old.is_closed())
                {
                    // The agent that is there has workers on its slots; a second one of its name would offer them again.
                    let _ = reply.send(Err(Status::already_exists(format!(
                        "a node named {node} is connected already, from host {other}; give each agent its own --name"
                    ))));
                    return Ok(());
                }
                if self.agents.remove(&node).is_some() {
                    self.take(Event::AgentDisconnected { node: node.clone() })?;
                }
                let welcome = AgentWelcome {
                    heartbeat_ms: HEARTBEAT_MS,
                };
                let welcome = AgentCommand {
                    kind: Some(agent_command::Kind::Welcome(welcome)),
                };
                if link.send(welcome).is_ok() && reply.send(Ok(())).is_ok() {
                    self.agents.insert(node, (host, link));
                    self.take(Event::AgentConnected(hello))?;
                }
            }
            Message::AgentSays {
                node,
                session,
                event,
            } => {
                if self
                    .agents
                    .get(&node)
                    .is_some_and(|(_, link)| link.session == session)
                {
                    self.take(event)?;
                }
            }
            Message::AgentGone { node, session } => {
                if self
                    .agents
                    .get(&node)
                    .is_some_and(|(_, link)| link.session == session)
                {
                    self.agents.remove(&node);
                    self.take(Event::AgentDisconnected { node })?;
                }
            }
            Message::AskAgent {
                node,
                command,
                reply,
            } => {
                let link = self.agents.get(&node);
                let _ = reply.send(link.is_some_and(|(_, link)| link.send(command).is_ok()));
            }
            Message::WorkerHere {
                worker,
                link,
                event,
            } => {
                // A worker opens a new stream only after it has lost the old one, whatever we know of that.
                self.workers.insert(worker, link);
                self.take(event)?;
            }
            Message::WorkerSays {
                worker,
                session,
                event,
            } => {
                if self
                    .workers
                    .get(&worker)
                    .is_some_and(|link| link.session == session)
                {
                    self.take(event)?;
                }
            }
            Message::WorkerGone { worker, session } => {
                if self
                    .workers
                    .get(&worker)
                    .is_some_and(|link| link.session == session)
                {
                    self.workers.remove(&worker);
                    self.take(Event::WorkerDisconnected { worker })?;
                }
            }
        }
        Ok(())
    }

    /// Takes an event in. One that is not the word of a single worker is decided on now.
    fn take(&mut self, event: Event) -> Result<(), CoordinatorError> {
        let may_wait = event.is_of_one_worker();
        self.heard.push(event);
        match may_wait {
            true => Ok(()),
            false => self.decide(),
        }
    }

    /// Decides on what was heard, and on all that is noticed while acting on the decision.
    fn decide(&mut self) -> Result<(), CoordinatorError> {
        if self.heard.is_empty() {
            return Ok(());
        }
        while !self.heard.is_empty() {
            let events = std::mem::take(&mut self.heard);
            self.step(events)?;
        }
        let sequence = self.journal.last_sequence();
        self.progress.send_modify(|progress| {
            progress.events += 1;
            progress.sequence = sequence;
        });
        Ok(())
    }

    fn step(&mut self, events: Vec<Event>) -> Result<(), CoordinatorError> {
        let decision = self.cluster.decide_all(self.clock.now(), events);
        if !decision.records.is_empty() {
            let entries: Vec<_> = decision.records.iter().map(journal_entry::entry).collect();
            let sequences = self.journal.last_sequence() + 1..;
            let superseded: Vec<_> = sequences
                .zip(&decision.records)
                .filter_map(|(sequence, record)| self.superseded.by(sequence, &record.kind))
                .collect();
            self.journal.replace(&entries, &superseded)?;
        }
        for record in &decision.records {
            self.cluster.apply(record);
            self.files.decided(record);
            log(record);
        }
        for note in decision.notes {
            self.cluster.note(note);
        }
        for step in decision.committed {
            self.files.committed(step);
        }
        for command in decision.commands {
            self.act(command);
        }
        Ok(())
    }

    fn act(&mut self, command: Command) {
        match command {
            Command::StartWorker {
                node,
                slot,
                job,
                worker,
                device,
                threads,
            } => {
                let submission = self.cluster.submission(job);
                let interface = submission.map(|it| it.spec.network.interface.clone());
                let interface = interface.unwrap_or_default();
                let start = convert::start_worker(job, &worker, slot, device, threads, interface);
                self.tell_agent(node, start);
            }
            Command::KillWorker {
                node,
                worker,
                reason,
            } => {
                tracing::info!(%node, %worker, %reason, "having a worker killed");
                self.tell_agent(node, convert::kill_worker(&worker, reason));
            }
            Command::Tell {
                worker,
                job,
                generation,
                order,
            } => {
                let is_last = matches!(order, Order::Expelled { .. });
                let Some(link) = self.workers.get(&worker) else {
                    tracing::debug!(%worker, "a command for a worker without a stream is dropped");
                    return;
                };
                let order = self.orders.order(job, generation, order);
                let is_stuck = link.send(order).is_err();
                if is_stuck || is_last {
                    // Dropping the link lets what is queued go out before the stream ends.
                    self.workers.remove(&worker);
                }
                if is_stuck {
                    tracing::warn!(%worker, "a worker does not read; its stream is given up");
                    self.heard.push(Event::WorkerDisconnected { worker });
                }
            }
            Command::OpenStore { job, generation } => self.spaces.open(job, generation),
            Command::CloseStore { job, generation } => self.spaces.close(job, generation),
            Command::WriteManifest {
                job,
                state,
                parts,
                tokens_seen,
            } => match ManifestJob::new(&self.cluster, job, state, parts, tokens_seen) {
                Some(task) => drop(tokio::spawn(task.run(self.core.clone()))),
                None => tracing::error!(%job, "a manifest of an unknown job is not written"),
            },
            Command::DeleteCheckpoint { job, state, uri } => {
                let Some(submission) = self.cluster.submission(job) else {
                    tracing::error!(%job, %uri, "a checkpoint of an unknown job is not removed");
                    return;
                };
                let root = submission.checkpoint_root.clone();
                // Ends by itself, after a bounded number of attempts.
                tokio::spawn(delete_checkpoint(self.core.clone(), root, job, state));
            }
        }
    }

    fn tell_agent(&mut self, node: NodeName, command: AgentCommand) {
        let Some((_, link)) = self.agents.get(&node) else {
            tracing::debug!(%node, "a command for a node without an agent is dropped; it comes again with the next hello");
            return;
        };
        if link.send(command).is_err() {
            tracing::warn!(%node, "an agent does not read; its stream is given up");
            self.agents.remove(&node);
            self.heard.push(Event::AgentDisconnected { node });
        }
    }
}

fn log(record: &Record) {
    let Some(event) = describe(record) else {
        return;
    };
    let details = serde_json::to_string(&event.details).unwrap_or_default();
    tracing::info!(
        job = event.job.map(tracing::field::display),
        generation = event.generation.get(),
        step = event.step.get(),
        kind = %event.kind,
        reason = %event.reason,
        %details,
    );
}
