use std::collections::{BTreeMap, BTreeSet};

use muster_types::{JobId, Monotonic, NodeName, Now, Timestamp, WorkerId};
use std::time::Duration;

use super::{
    control::Down,
    network::Peer,
    sabotage::Sabotage,
    violation::must,
    world::{Action, World, say},
};
use crate::{
    Cluster, ClusterOptions, Command, Decision, Event, JobState, Order, Record, Superseded,
    tests::world::{job_id, submission},
    turn::Turn,
};

/// A coordinator's process, and the disk that outlives it.
pub struct Coordinator {
    pub up: bool,
    pub cluster: Cluster,
    /// What the decision that is being carried out comes to.
    pub decided: Cluster,
    /// What replay would make of the records so far.
    replica: Cluster,
    pub disk: Disk,
    superseded: Superseded,
    links: BTreeMap<WorkerId, u64>,
    agents: BTreeMap<NodeName, u64>,
    /// What was heard while the actor was busy, and is decided on together.
    heard: Vec<Event>,
    /// The process; tasks of an older one are gone with it.
    pub epoch: u64,
    started_at: u64,
    alarm: u64,
    pub wall: i64,
    /// Where in its next decision with records it dies.
    pub dies: Option<Death>,
    /// The ids of jobs whose submit was answered.
    pub acknowledged: BTreeSet<JobId>,
}

/// Where a coordinator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    BeforeWrite,
    /// Written, and not synced: the whole transaction is there, or nothing of it.
    BeforeSync,
    /// On disk, and nothing was done yet.
    AfterSync,
    /// After so many commands.
    AfterCommands(usize),
}

/// Records as they lie in the file, oldest first.
#[derive(Debug, Default)]
pub struct Disk {
    pub synced: BTreeMap<u64, String>,
    pub unsynced: Vec<(u64, String)>,
    next: u64,
    /// Superfluous once what was written is on disk.
    forgotten: Vec<u64>,
}

impl Disk {
    fn sync(&mut self) {
        self.synced.extend(std::mem::take(&mut self.unsynced));
        for sequence in std::mem::take(&mut self.forgotten) {
            self.synced.remove(&sequence);
        }
    }
}

impl Coordinator {
    pub fn new(options: &ClusterOptions, wall: u64) -> Self {
        Self {
            up: false,
            cluster: Cluster::new(options.clone()),
            decided: Cluster::new(options.clone()),
            replica: Cluster::new(options.clone()),
            disk: Disk::default(),
            superseded: Superseded::default(),
            links: BTreeMap::new(),
            agents: BTreeMap::new(),
            heard: Vec::new(),
            epoch: 0,
            started_at: 0,
            alarm: 0,
            wall: (wall % 1_000_000_000) as i64,
            dies: None,
            acknowledged: BTreeSet::new(),
        }
    }
}

impl World {
    pub fn coordinator_now(&self) -> Now {
        // The monotonic clock of a process says nothing to the next one.
        let since = self.now - self.coordinator.started_at;
        Now {
            monotonic: Monotonic(Duration::from_millis(1000 + since)),
            wall: Timestamp(self.coordinator.wall + self.now as i64),
        }
    }

    pub fn start_coordinator(&mut self) {
        if self.coordinator.up {
            return;
        }
        let mut cluster = Cluster::new(self.plan.options.clone());
        let mut superseded = Superseded::default();
        for (sequence, line) in &self.coordinator.disk.synced {
            let record: Record =
                serde_json::from_str(line).expect("a record that does not read back");
            superseded.by(*sequence, &record.kind);
            cluster.apply(&record);
        }
        for job in &self.coordinator.acknowledged {
            must!(
                cluster.jobs.contains_key(job),
                NothingLost,
                "the acknowledged {job} is lost"
            );
        }
        if !self.is_sabotaged(Sabotage::ActBeforeJournal) {
            must!(
                cluster.durable() == self.coordinator.replica.durable(),
                Replay,
                "the journal does not give the state that it was written from"
            );
        }
        let coordinator = &mut self.coordinator;
        coordinator.replica = cluster.clone();
        coordinator.cluster = cluster;
        coordinator.superseded = superseded;
        coordinator.up = true;
        coordinator.started_at = self.now;
        say!(self, "coordinator {} starts", self.coordinator.epoch);
        self.coverage.count("coordinator starts");
        self.take(Event::Tick);
    }

    pub fn crash_coordinator(&mut self) {
        if !self.coordinator.up {
            return;
        }
        say!(self, "coordinator {} dies", self.coordinator.epoch);
        let coordinator = &mut self.coordinator;
        coordinator.up = false;
        coordinator.epoch += 1;
        coordinator.dies = None;
        coordinator.links.clear();
        coordinator.agents.clear();
        coordinator.heard.clear();
        coordinator.disk.unsynced.clear();
        coordinator.disk.forgotten.clear();
        self.all_sessions_die();
        self.stores_are_lost();
        let pause = if self.chaos {
            self.rng.between(50, 8000)
        } else {
            100
        };
        self.after(pause, Action::StartCoordinator);
    }

    /// A message on a stream, as the shell takes it.
    pub fn peer_says(&mut self, session: u64, peer: &Peer, event: Event) {
        if !self.coordinator.up {
            return;
        }
        match peer {
            Peer::Agent(node) => {
                let known = self.coordinator.agents.get(node).copied();
                if matches!(event, Event::AgentConnected(_)) {
                    if known.is_some() {
                        // The one that is there has workers on its slots; a second one of its name is refused.
                        return self.server_ends(session, u64::MAX);
                    }
                    self.coordinator.agents.insert(node.clone(), session);
                    self.send_down(session, Down::Opened);
                } else if known != Some(session) {
                    return;
                }
            }
            Peer::Worker(worker) => {
                let is_attach = matches!(
                    &event,
                    Event::Worker {
                        message: crate::WorkerMessage::Attach { .. },
                        ..
                    }
                );
                if is_attach {
                    let old = self.coordinator.links.insert(worker.clone(), session);
                    if let Some(old) = old {
                        self.server_ends(old, u64::MAX);
                    }
                    self.send_down(session, Down::Opened);
                } else if self.coordinator.links.get(worker) != Some(&session) {
                    return;
                } else if self.chaos && self.rng.percent(self.plan.duplicates) {
                    let delay = *self.rng.pick(&[0, 20, 700, 9000]).unwrap_or(&0);
                    self.after(
                        delay,
                        Action::Again {
                            event: event.clone(),
                        },
                    );
                }
            }
        }
        self.take(event);
    }

    /// A message comes again, whatever has happened since.
    pub fn again(&mut self, event: Event) {
        if self.coordinator.up {
            self.coverage.count("messages that came again");
            self.take(event);
        }
    }

    pub fn peer_gone(&mut self, session: u64, peer: &Peer) {
        if !self.coordinator.up {
            return;
        }
        match peer {
            Peer::Agent(node) if self.coordinator.agents.get(node) == Some(&session) => {
                self.coordinator.agents.remove(node);
                self.take(Event::AgentDisconnected { node: node.clone() });
            }
            Peer::Worker(worker) if self.coordinator.links.get(worker) == Some(&session) => {
                self.coordinator.links.remove(worker);
                self.take(Event::WorkerDisconnected {
                    worker: worker.clone(),
                });
            }
            _ => {}
        }
    }

    pub fn shell_says(&mut self, epoch: u64, event: Event) {
        if self.coordinator.up && self.coordinator.epoch == epoch {
            self.take(event);
        }
    }

    pub fn tick(&mut self, epoch: u64, alarm: u64) {
        if self.coordinator.up && self.coordinator.epoch == epoch && self.coordinator.alarm == alarm
        {
            self.take(Event::Tick);
        }
    }

    pub fn submit(&mut self, number: usize) {
        if !self.coordinator.up {
            // The client tries again.
            return self.after(700, Action::Submit { number });
        }
        let job = job_id(number as u64 + 1);
        let mut submission = submission(job, self.plan.jobs[number].spec.clone());
        submission.dataset_samples = 100_000;
        let epoch = self.coordinator.epoch;
        self.take(Event::Submitted(Box::new(submission)));
        if self.coordinator.epoch == epoch {
            self.coordinator.acknowledged.insert(job);
        } else {
            self.after(700, Action::Submit { number });
        }
    }

    /// Takes an event in. The word of a single worker may have to wait until the actor is not busy any more.
    pub fn take(&mut self, event: Event) {
        let waits = event.is_of_one_worker() && self.chaos && self.rng.percent(20);
        self.coordinator.heard.push(event);
        if waits {
            let (busy, epoch) = (self.rng.between(1, 40), self.coordinator.epoch);
            return self.after(busy, Action::Decide { epoch });
        }
        self.decide(self.coordinator.epoch);
    }

    /// Decides on what was heard, and on what is noticed while acting on the decision.
    pub fn decide(&mut self, epoch: u64) {
        let stands = self.coordinator.up && self.coordinator.epoch == epoch;
        if !stands || self.coordinator.heard.is_empty() {
            return;
        }
        while !self.coordinator.heard.is_empty() {
            let events = std::mem::take(&mut self.coordinator.heard);
            let alive = self.step(events);
            if !alive {
                return self.crash_coordinator();
            }
        }
        let deadline = self.coordinator.cluster.next_deadline();
        self.coordinator.alarm += 1;
        if let Some(Monotonic(at)) = deadline {
            let now = self.coordinator_now().monotonic.0;
            let delay = at.saturating_sub(now).as_millis() as u64;
            let (epoch, alarm) = (self.coordinator.epoch, self.coordinator.alarm);
            self.after(delay.max(1), Action::Tick { epoch, alarm });
        }
    }

    /// One decision: put on record, applied, acted on. Returns whether the coordinator lives on.
    fn step(&mut self, events: Vec<Event>) -> bool {
        if events.len() > 1 {
            self.coverage.count("events decided together");
        }
        for event in &events {
            self.coverage.count("events decided");
            if !matches!(event, Event::Tick) {
                say!(self, "< {}", brief(event));
            }
        }
        let now = self.coordinator_now();
        let mut turn = Turn::new(&self.coordinator.cluster, now);
        turn.handle(events);
        self.coordinator.decided = turn.outcome();
        let decision = turn.into_decision();
        let death = if decision.records.is_empty() {
            None
        } else {
            self.coordinator.dies.take()
        };
        if death.is_some() {
            self.coverage.count("coordinators that died in a decision");
        }
        if death == Some(Death::BeforeWrite) {
            return false;
        }
        self.write(&decision.records);
        if death == Some(Death::BeforeSync) {
            // The transaction is in the file, or it is not.
            if self.rng.percent(50) {
                self.coordinator.disk.sync();
                self.put_on_record(&decision);
            }
            return false;
        }
        if self.is_sabotaged(Sabotage::ActBeforeJournal) {
            let epoch = self.coordinator.epoch;
            self.after(1500, Action::Sync { epoch });
        } else {
            self.coordinator.disk.sync();
        }
        self.put_on_record(&decision);
        let Decision {
            notes,
            committed,
            commands,
            ..
        } = decision;
        if death == Some(Death::AfterSync) {
            return false;
        }
        for note in notes {
            self.coordinator.cluster.note(note);
        }
        let Coordinator {
            cluster, decided, ..
        } = &self.coordinator;
        must!(
            cluster.jobs == decided.jobs
                && cluster.nodes == decided.nodes
                && cluster.cordons == decided.cordons,
            Replay,
            "records and notes do not make what was decided"
        );
        for step in &committed {
            self.oracle.reported(step);
        }
        let limit = match death {
            Some(Death::AfterCommands(count)) => count,
            _ => usize::MAX,
        };
        for command in commands.into_iter().take(limit) {
            self.order(command);
        }
        death.is_none()
    }

    fn write(&mut self, records: &[Record]) {
        let coordinator = &mut self.coordinator;
        for record in records {
            let line = serde_json::to_string(record).expect("a record that cannot be written");
            coordinator.disk.next += 1;
            let sequence = coordinator.disk.next;
            coordinator.disk.unsynced.push((sequence, line));
            let forgotten = coordinator.superseded.by(sequence, &record.kind);
            coordinator.disk.forgotten.extend(forgotten);
        }
    }

    pub fn sync(&mut self, epoch: u64) {
        if self.coordinator.epoch == epoch && self.coordinator.up {
            self.coordinator.disk.sync();
        }
    }

    /// Applies what is on record, to the live state and to what replay would make.
    fn put_on_record(&mut self, decision: &Decision) {
        for record in &decision.records {
            say!(self, "  record {}", words(record));
            self.check_record(record);
            self.coordinator.cluster.apply(record);
            let line = serde_json::to_string(record).expect("a record that cannot be written");
            let read: Record =
                serde_json::from_str(&line).expect("a record that does not read back");
            must!(
                read == *record,
                Replay,
                "a record reads back as another: {line}"
            );
            self.coordinator.replica.apply(&read);
        }
        if !decision.records.is_empty() {
            must!(
                self.coordinator.cluster.durable() == self.coordinator.replica.durable(),
                Replay,
                "records do not make the durable state"
            );
        }
    }

    fn order(&mut self, command: Command) {
        let epoch = self.coordinator.epoch;
        match command {
            Command::StartWorker {
                node,
                slot,
                job,
                worker,
                ..
            } => {
                say!(self, "  > start {worker} on {node}/{slot}");
                self.tell_agent(&node, Down::Start { job, worker, slot });
            }
            Command::KillWorker {
                node,
                worker,
                reason,
            } => {
                say!(self, "  > kill {worker}: {reason}");
                self.tell_agent(&node, Down::Kill { worker });
            }
            Command::Tell {
                worker,
                job,
                generation,
                order,
            } => {
                if let Order::PartAcknowledged { state } = &order {
                    self.check_acknowledged(job, *state);
                }
                say!(self, "  > {worker} {generation} {}", order_words(&order));
                let is_last = matches!(order, Order::Expelled { .. });
                let Some(session) = self.coordinator.links.get(&worker).copied() else {
                    return;
                };
                self.send_down(session, Down::Order { generation, order });
                if is_last {
                    self.coordinator.links.remove(&worker);
                    self.server_ends(session, u64::MAX);
                }
            }
            Command::OpenStore { job, generation } => self.open_store(job, generation),
            Command::CloseStore { job, generation } => self.close_store(job, generation),
            Command::WriteManifest {
                job, state, parts, ..
            } => {
                let delay = self.storage_delay();
                self.after(
                    delay,
                    Action::WriteManifest {
                        epoch,
                        job,
                        state,
                        parts,
                    },
                );
            }
            Command::DeleteCheckpoint { job, state, .. } => {
                self.check_deletion(job, state);
                let delay = self.storage_delay();
                self.after(
                    delay,
                    Action::Delete {
                        epoch,
                        job,
                        state,
                        tries: 0,
                    },
                );
            }
        }
    }

    fn tell_agent(&mut self, node: &NodeName, down: Down) {
        if let Some(session) = self.coordinator.agents.get(node).copied() {
            self.send_down(session, down);
        }
    }

    pub fn state_of(&self, job: JobId) -> Option<JobState> {
        self.coordinator
            .cluster
            .jobs
            .get(&job)
            .map(|entry| entry.job.state)
    }
}

fn words(record: &Record) -> String {
    let text = format!("{:?}", record.kind);
    text.chars().take(300).collect()
}

fn order_words(order: &Order) -> String {
    match order {
        Order::Welcome { .. } => "Welcome".into(),
        Order::Form(form) => format!("Form rank {} resume {:?}", form.rank, form.resume),
        other => format!("{other:?}"),
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::Submitted(submission) => format!("submit {}", submission.job),
        Event::Worker {
            worker,
            generation,
            message,
            ..
        } => {
            let text = format!("{message:?}");
            let text: String = text.chars().take(160).collect();
            format!("{worker} {generation} {text}")
        }
        other => format!("{other:?}").chars().take(240).collect(),
    }
}
