use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use muster_spec::RunSpec;
use muster_types::{
    Digest, Generation, JobId, Monotonic, NodeName, Now, StateId, Step, Timestamp, WorkerId,
};

use super::fake::FakeWorker;
use crate::{
    AgentHello, Cluster, ClusterOptions, Command, CommittedStep, Event, Exit, JobState, JobStatus,
    PublicEvent, Record, RecordKind, Resume, ResumeSource, SlotOffer, Submission, Superseded,
    WorkerMessage, describe, job::Job, turn::Turn,
};

pub const SIGKILL: i32 = 9;

/// One coordinator, agents and workers, and one job unless a test submits more. Everything that the core decides is
/// checked on the way: see [`World::feed`].
pub struct World {
    pub cluster: Cluster,
    options: ClusterOptions,
    pub journal: Vec<Record>,
    pub now: Now,
    pub agents: BTreeMap<NodeName, FakeAgent>,
    pub workers: BTreeMap<WorkerId, FakeWorker>,
    /// What the coordinator's own shell has to say.
    pub shell: VecDeque<Event>,
    /// Streams of processes that have ended, with what was in flight on them.
    pub last_words: VecDeque<Event>,
    pub storage: BTreeMap<(JobId, StateId), u64>,
    pub storage_down: bool,
    pub unreadable: BTreeMap<StateId, bool>,
    pub commands: Vec<Command>,
    pub committed: Vec<CommittedStep>,
    pub heard: Vec<Event>,
    /// By job and step: the state that stands in the committed history.
    line: BTreeMap<JobId, BTreeMap<Step, StateId>>,
    formed: BTreeMap<JobId, Generation>,
    pub initialised: u32,
}

#[derive(Debug)]
pub struct FakeAgent {
    pub connected: bool,
    /// The coordinator has taken its hello on this stream: what it was told before went to the old one, and is lost.
    pub heard: bool,
    pub slots: Vec<SlotOffer>,
    pub out: VecDeque<Event>,
}

pub fn job_id(number: u64) -> JobId {
    format!("01890a5d-ac96-774b-bcce-{number:012}")
        .parse()
        .unwrap()
}

/// A job of `steps` steps on `min..=max` workers that saves every 5 steps and has 8 slots of the batch.
pub fn spec(steps: u64, min: u32, max: u32) -> RunSpec {
    let mut spec = RunSpec::default();
    spec.train.steps = steps;
    spec.train.global_batch = 8;
    spec.train.micro_batch = 1;
    spec.workers.min = min;
    spec.workers.max = max;
    spec.checkpoint.every_steps = 5;
    spec.checkpoint.keep_last = 2;
    spec
}

pub fn submission(job: JobId, spec: RunSpec) -> Submission {
    Submission {
        job,
        spec,
        dataset_digest: Digest::new([7; 32]),
        dataset_samples: 1000,
        checkpoint_root: "/checkpoints".into(),
    }
}

impl World {
    pub fn new() -> Self {
        Self::with_options(ClusterOptions::default())
    }

    pub fn with_options(options: ClusterOptions) -> Self {
        Self {
            cluster: Cluster::new(options.clone()),
            options,
            journal: Vec::new(),
            now: Now {
                monotonic: Monotonic(Duration::from_secs(1)),
                wall: Timestamp(1_000_000),
            },
            agents: BTreeMap::new(),
            workers: BTreeMap::new(),
            shell: VecDeque::new(),
            last_words: VecDeque::new(),
            storage: BTreeMap::new(),
            storage_down: false,
            unreadable: BTreeMap::new(),
            commands: Vec::new(),
            committed: Vec::new(),
            heard: Vec::new(),
            line: BTreeMap::new(),
            formed: BTreeMap::new(),
            initialised: 0,
        }
    }

    /// A world in which job 1 was submitted and its workers train.
    pub fn training(steps: u64, min: u32, max: u32, slots: u32) -> Self {
        let mut world = Self::new();
        world.add_node("a", slots);
        world.submit(1, spec(steps, min, max));
        world.run();
        assert_eq!(
            world.status().state,
            JobState::Restoring,
            "{}",
            world.status().state_reason
        );
        world
    }

    pub fn add_node(&mut self, name: &str, slots: u32) {
        self.add_node_with(
            name,
            (0..slots)
                .map(|index| SlotOffer {
                    index,
                    device: "cpu".into(),
                    threads: 2,
                })
                .collect(),
        );
    }

    pub fn add_node_with(&mut self, name: &str, slots: Vec<SlotOffer>) {
        let node = NodeName::from(name);
        self.agents.insert(
            node.clone(),
            FakeAgent {
                connected: false,
                heard: false,
                slots,
                out: VecDeque::new(),
            },
        );
        self.connect_agent(&node);
    }

    pub fn connect_agent(&mut self, node: &NodeName) {
        let running = self.workers.values().filter(|worker| worker.node == *node);
        let running = running
            .map(|worker| (worker.id.clone(), worker.slot, 1))
            .collect();
        let agent = self.agents.get_mut(node).unwrap();
        agent.connected = true;
        agent.heard = false;
        agent.out.clear();
        let slots = agent.slots.clone();
        // The coordinator takes a node's new stream only once it has noticed the end of the old one.
        let end = Event::AgentDisconnected { node: node.clone() };
        if let Some(at) = self.shell.iter().position(|event| *event == end) {
            agent.out.extend(self.shell.remove(at));
        }
        agent.out.push_back(Event::AgentConnected(AgentHello {
            node: node.clone(),
            advertise: format!("{node}.example"),
            slots,
            running,
            leaving_seconds: None,
        }));
    }

    pub fn disconnect_agent(&mut self, node: &NodeName) {
        let agent = self.agents.get_mut(node).unwrap();
        if agent.connected {
            agent.connected = false;
            agent.out.clear();
            self.shell
                .push_back(Event::AgentDisconnected { node: node.clone() });
        }
    }

    pub fn submit(&mut self, number: u64, spec: RunSpec) {
        self.feed(Event::Submitted(Box::new(submission(job_id(number), spec))));
    }

    pub fn status(&self) -> JobStatus {
        self.status_of(1)
    }

    pub fn status_of(&self, number: u64) -> JobStatus {
        self.cluster.status(job_id(number), self.now).unwrap()
    }

    pub fn job(&self) -> &Job {
        self.job_of(1)
    }

    pub fn job_of(&self, number: u64) -> &Job {
        &self.cluster.jobs[&job_id(number)].job
    }

    /// Decides one event, does what follows, and checks what must always hold.
    pub fn feed(&mut self, event: Event) {
        self.feed_until(event, usize::MAX);
    }

    /// As [`World::feed`], but the coordinator dies after so many commands.
    pub fn feed_until(&mut self, event: Event, commands: usize) {
        let decision = self.cluster.decide(self.now, event.clone());
        let mut turn = Turn::new(&self.cluster, self.now);
        turn.handle([event.clone()]);
        self.heard_on_new_stream(&event);
        if matches!(event, Event::Worker { .. }) {
            self.heard.push(event);
        }
        for record in &decision.records {
            let text = serde_json::to_string(record).unwrap();
            let read: Record = serde_json::from_str(&text).unwrap();
            assert_eq!(&read, record, "a record that does not read back");
            self.check(record, &turn.cluster);
            self.cluster.apply(record);
            self.journal.push(read);
        }
        for note in decision.notes {
            self.cluster.note(note);
        }
        assert_eq!(
            turn.outcome().jobs,
            self.cluster.jobs,
            "records and notes do not make what was decided"
        );
        assert_eq!(turn.cluster.nodes, self.cluster.nodes);
        assert_eq!(turn.cluster.cordons, self.cluster.cordons);
        self.committed.extend(decision.committed);
        for command in decision.commands.into_iter().take(commands) {
            self.commands.push(command.clone());
            self.execute(command);
        }
    }

    fn heard_on_new_stream(&mut self, event: &Event) {
        match event {
            Event::AgentConnected(hello) => {
                if let Some(agent) = self.agents.get_mut(&hello.node) {
                    agent.heard = true;
                }
            }
            Event::Worker {
                worker,
                message: WorkerMessage::Attach { .. },
                ..
            } => {
                if let Some(fake) = self.workers.get_mut(worker) {
                    fake.heard = true;
                }
            }
            _ => {}
        }
    }

    fn reaches(&self, node: &NodeName) -> bool {
        self.agents
            .get(node)
            .is_some_and(|agent| agent.connected && agent.heard)
    }

    /// `decided` is what the decision comes to.
    fn check(&mut self, record: &Record, decided: &Cluster) {
        match &record.kind {
            RecordKind::GenerationFormed {
                job,
                generation,
                members,
                resume,
            } => {
                self.check_formed(*job, *generation, members, resume);
            }
            RecordKind::CheckpointCommitted { job, state, .. } => {
                let stands = self.line.get(job).and_then(|line| line.get(&state.step));
                assert_eq!(
                    stands,
                    Some(state),
                    "a checkpoint of a discarded state is committed"
                );
            }
            RecordKind::JobPreempted { job, by, .. } => {
                let priority = |job| {
                    let spec = &self.cluster.submission(job).unwrap().spec;
                    spec.queue.priority
                };
                let entry = &self.cluster.jobs[job].job;
                let stuck = entry.serving().len() < entry.gang();
                let fair = match by {
                    Some(by) => priority(*by) > priority(*job) || stuck,
                    None => {
                        let mut places = entry.workers.values();
                        places.any(|it| decided.is_draining(&it.node))
                    }
                };
                assert!(
                    fair,
                    "a job gives way to one of no higher priority, or for a node where it has nobody"
                );
            }
            RecordKind::WorkerReleased { job, worker, .. } => {
                let entry = &self.cluster.jobs[job].job;
                let kept = entry.workers.keys().filter(|worker| entry.keeps(worker));
                let node = &entry.workers[worker].node;
                let drained = self.cluster.is_draining(node) || decided.is_draining(node);
                let waits = drained && !entry.takes_part(worker);
                assert!(
                    (kept.count() > entry.gang() || waits) && entry.keeps(worker),
                    "a job gives back what it needs"
                );
            }
            RecordKind::WorkerPlaced {
                job, node, slot, ..
            } => {
                assert!(
                    !decided.is_closed(node, *slot),
                    "{job} is placed on a node that is cordoned or drained"
                );
            }
            _ => {}
        }
    }

    fn check_formed(
        &mut self,
        job: JobId,
        generation: Generation,
        members: &[WorkerId],
        resume: &Resume,
    ) {
        let entry = &self.cluster.jobs[&job];
        let newest = self.formed.insert(job, generation);
        assert!(
            newest < Some(generation),
            "generation {generation} is formed twice"
        );
        for worker in members {
            assert!(
                entry.job.serves(worker),
                "{worker} is a member of generation {generation} and out of the job"
            );
            // A process that has ended since cannot commit either.
            if let Some(fake) = self.workers.get(worker) {
                assert!(
                    fake.generation == Generation(0) || fake.superseded.next() >= generation,
                    "generation {generation} is formed before {worker} has fenced"
                );
            }
        }
        let line = self.line.entry(job).or_default();
        let stands = line
            .get(&resume.state.step)
            .copied()
            .unwrap_or(StateId::INITIAL);
        assert_eq!(
            stands, resume.state,
            "generation {generation} starts off the line"
        );
        line.retain(|step, _| *step <= resume.state.step);
        match &resume.source {
            ResumeSource::Initialise => {
                self.initialised += 1;
                let committed = |record: &Record| matches!(&record.kind, RecordKind::CheckpointCommitted { job: of, .. } if *of == job);
                assert!(
                    !self.journal.iter().any(committed),
                    "back to the seed with a checkpoint on record"
                );
            }
            ResumeSource::Live { ranks } => assert!(!ranks.is_empty()),
            ResumeSource::Checkpoint { .. } => {
                assert!(
                    self.storage.contains_key(&(job, resume.state)),
                    "{} was deleted",
                    resume.state
                );
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::StartWorker {
                node,
                slot,
                job,
                worker,
                ..
            } => {
                if !self.reaches(&node) || self.workers.contains_key(&worker) {
                    return;
                }
                let taken = self
                    .workers
                    .values()
                    .find(|other| other.node == node && other.slot == slot);
                assert!(
                    taken.is_none(),
                    "slot {slot} of {node} runs {taken:?} and is to run {worker}"
                );
                let mut fake = FakeWorker::start(worker.clone(), job, node.clone(), slot);
                fake.connect();
                self.workers.insert(worker.clone(), fake);
                self.agents
                    .get_mut(&node)
                    .unwrap()
                    .out
                    .push_back(Event::WorkerStarted { worker, pid: 1 });
            }
            Command::KillWorker { node, worker, .. } => {
                if self.reaches(&node) {
                    self.kill(&worker);
                }
            }
            Command::Tell {
                worker,
                generation,
                order,
                ..
            } => {
                let Some(fake) = self.workers.get_mut(&worker) else {
                    return;
                };
                if !fake.connected || !fake.heard || fake.frozen {
                    return;
                }
                if let crate::Order::Form(form) = &order {
                    let dealt: u32 = form.assignment.iter().map(|slots| slots.count).sum();
                    assert_eq!(dealt, 8, "the global batch changes with the world size");
                    assert_eq!(form.assignment.len(), form.members.len());
                }
                if fake.obey(generation, order) {
                    self.end(&worker, Some(0), None);
                } else {
                    self.leave_if_told(&worker);
                }
            }
            Command::WriteManifest {
                job,
                state,
                parts,
                tokens_seen,
            } => {
                let result = if self.storage_down {
                    Err("the disk is full".to_owned())
                } else {
                    assert!(!parts.is_empty());
                    self.storage.insert((job, state), tokens_seen);
                    Ok(format!(
                        "/checkpoints/{}",
                        muster_checkpoint::directory_name(state)
                    ))
                };
                self.shell
                    .push_back(Event::ManifestDone { job, state, result });
            }
            Command::DeleteCheckpoint { job, state, .. } => {
                self.storage.remove(&(job, state));
                self.shell
                    .push_back(Event::CheckpointDeleted { job, state });
            }
            Command::OpenStore { .. } | Command::CloseStore { .. } => {}
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, worker: &WorkerId) {
        self.end(worker, None, Some(SIGKILL));
    }

    pub fn end(&mut self, worker: &WorkerId, code: Option<i32>, signal: Option<i32>) {
        let Some(mut fake) = self.workers.remove(worker) else {
            return;
        };
        self.last_words.append(&mut fake.out);
        if fake.connected {
            self.last_words.push_back(Event::WorkerDisconnected {
                worker: worker.clone(),
            });
        }
        let exit = Exit {
            code,
            signal,
            start_error: String::new(),
            stderr_tail: "its last line".into(),
        };
        let agent = self.agents.get_mut(&fake.node).unwrap();
        if agent.connected {
            agent.out.push_back(Event::WorkerExited {
                worker: worker.clone(),
                exit,
            });
        }
    }

    fn leave_if_told(&mut self, worker: &WorkerId) {
        if self.workers.get(worker).is_some_and(|fake| fake.left) {
            self.end(worker, Some(0), None);
        }
    }

    /// The worker's stream breaks; what was in flight is lost.
    pub fn drop_stream(&mut self, worker: &WorkerId) {
        if let Some(fake) = self.workers.get_mut(worker)
            && fake.connected
        {
            fake.connected = false;
            fake.out.clear();
            self.shell.push_back(Event::WorkerDisconnected {
                worker: worker.clone(),
            });
        }
    }

    pub fn reconnect(&mut self) {
        for fake in self
            .workers
            .values_mut()
            .filter(|fake| !fake.connected && !fake.frozen)
        {
            // A worker's new stream takes the place of the old one, whose end then is no news any more.
            let end = |event: &Event| matches!(event, Event::WorkerDisconnected { worker } if *worker == fake.id);
            self.shell.retain(|event| !end(event));
            fake.connect();
        }
        let away: Vec<_> = self
            .agents
            .iter()
            .filter(|(_, agent)| !agent.connected)
            .map(|(node, _)| node.clone())
            .collect();
        for node in away {
            self.connect_agent(&node);
        }
    }

    /// The coordinator dies and comes back with its journal.
    pub fn restart_coordinator(&mut self) {
        let mut superseded = Superseded::default();
        let forgotten: BTreeSet<u64> = (0..)
            .zip(&self.journal)
            .filter_map(|(sequence, record)| superseded.by(sequence, &record.kind))
            .collect();
        let mut replayed = Cluster::new(self.options.clone());
        for (sequence, record) in (0..).zip(&self.journal) {
            if !forgotten.contains(&sequence) {
                replayed.apply(record);
            }
        }
        assert_eq!(
            replayed.durable(),
            self.cluster.durable(),
            "replay does not give the durable state"
        );
        assert_eq!(replayed.cordons, self.cluster.cordons);
        self.cluster = replayed;
        self.shell.clear();
        self.last_words.clear();
        for agent in self.agents.values_mut() {
            agent.connected = false;
            agent.out.clear();
        }
        for fake in self.workers.values_mut() {
            fake.connected = false;
            fake.out.clear();
        }
        self.feed(Event::Tick);
    }

    /// How many senders have something to say.
    fn queues(&mut self) -> Vec<&mut VecDeque<Event>> {
        let mut queues: Vec<_> = vec![&mut self.shell, &mut self.last_words];
        queues.extend(self.agents.values_mut().map(|agent| &mut agent.out));
        queues.extend(
            self.workers
                .values_mut()
                .filter(|fake| !fake.frozen)
                .map(|fake| &mut fake.out),
        );
        queues.retain(|queue| !queue.is_empty());
        queues
    }

    /// The next event of one of the senders; `None` where nobody has anything to say.
    pub fn next_event(&mut self, choice: usize) -> Option<Event> {
        let mut queues = self.queues();
        let count = queues.len();
        if count == 0 {
            None
        } else {
            queues.swap_remove(choice % count).pop_front()
        }
    }

    /// Delivers everything that is under way.
    pub fn deliver(&mut self) -> bool {
        let mut any = false;
        for _ in 0..10_000 {
            let Some(event) = self.next_event(0) else {
                return any;
            };
            any = true;
            self.feed(event);
        }
        panic!("the messages never end");
    }

    fn members(&self, job: JobId, generation: Generation) -> Vec<WorkerId> {
        let member = |fake: &&FakeWorker| {
            fake.job == job && fake.generation == generation && fake.form.is_some()
        };
        let Some(any) = self.workers.values().find(member) else {
            return Vec::new();
        };
        any.form
            .as_ref()
            .unwrap()
            .members
            .iter()
            .map(|(worker, _)| worker.clone())
            .collect()
    }

    /// One move of the group of a generation: fail, build and heal, agree on a step, commit, save, leave.
    /// Returns whether anything happened.
    pub fn work(&mut self) -> bool {
        let groups: BTreeSet<_> = self
            .workers
            .values()
            .filter(|fake| fake.form.is_some())
            .map(|fake| (fake.job, fake.generation))
            .collect();
        let mut any = false;
        for (job, generation) in groups {
            any |= self.work_group(job, generation);
        }
        any
    }

    fn work_group(&mut self, job: JobId, generation: Generation) -> bool {
        let members = self.members(job, generation);
        if members.is_empty() {
            // What another of this job's groups did just now took the last of them along.
            return false;
        }
        let mine = |fake: &FakeWorker| fake.generation == generation && fake.job == job;
        let gone = members.iter().any(|member| match self.workers.get(member) {
            // Whoever has not joined yet is waited for; whoever has failed or fenced is out of the group.
            Some(fake) => (mine(fake) && fake.failed) || fake.generation > generation,
            None => true,
        });
        let active =
            |fake: &FakeWorker| mine(fake) && !fake.frozen && !fake.is_fenced() && !fake.failed;
        if gone {
            let done = |fake: &FakeWorker| fake.leaving || fake.left || fake.at_boundary;
            let victims: Vec<_> = members
                .iter()
                .filter(|m| {
                    self.workers
                        .get(*m)
                        .is_some_and(|fake| active(fake) && !done(fake))
                })
                .cloned()
                .collect();
            for victim in &victims {
                self.workers.get_mut(victim).unwrap().fail("collective");
            }
            return self.leave_when_acknowledged(&members) || !victims.is_empty();
        }
        if !members.iter().all(|member| active(&self.workers[member])) {
            return self.commit_pending(&members, usize::MAX);
        }
        if members.iter().any(|member| !self.workers[member].ready) {
            return self.build(job, &members);
        }
        if self.commit_pending(&members, usize::MAX) || self.leave_when_acknowledged(&members) {
            return true;
        }
        self.agree(&members)
    }

    fn build(&mut self, job: JobId, members: &[WorkerId]) -> bool {
        let first = &self.workers[&members[0]];
        let resume = first.form.as_ref().unwrap().resume.clone();
        if let (ResumeSource::Checkpoint { uri }, Some(corrupt)) =
            (&resume.source, self.unreadable.get(&resume.state))
        {
            let message = WorkerMessage::Unreadable {
                state: resume.state,
                uri: uri.clone(),
                cause: "bad bytes".into(),
                corrupt: *corrupt,
            };
            for member in members {
                let fake = self.workers.get_mut(member).unwrap();
                fake.failed = true;
                fake.holdings = None;
                fake.say(message.clone());
            }
            return true;
        }
        if matches!(resume.source, ResumeSource::Checkpoint { .. }) {
            assert!(
                self.storage.contains_key(&(job, resume.state)),
                "the checkpoint is not there any more"
            );
        }
        for member in members {
            self.workers.get_mut(member).unwrap().heal();
        }
        true
    }

    /// The first `count` members commit the step that all have agreed on; all save where one is due.
    pub fn commit_pending(&mut self, members: &[WorkerId], count: usize) -> bool {
        let mut any = false;
        for member in members.iter().take(count) {
            let Some(fake) = self.workers.get_mut(member) else {
                continue;
            };
            if fake.frozen || fake.pending.is_none() {
                continue;
            }
            any = true;
            let job = fake.job;
            let Some(state) = fake.commit() else { continue };
            let total = self.cluster.submission(job).unwrap().spec.train.steps;
            if self.formed.get(&job) == Some(&state.generation) {
                self.line.entry(job).or_default().insert(state.step, state);
            }
            let fake = self.workers.get_mut(member).unwrap();
            if std::mem::take(&mut fake.save_now)
                || state.step.get().is_multiple_of(5)
                || state.step.get() == total
            {
                fake.save();
            }
        }
        any
    }

    fn agree(&mut self, members: &[WorkerId]) -> bool {
        let fakes: Vec<&FakeWorker> = members.iter().map(|member| &self.workers[member]).collect();
        let state = fakes[0].holdings.unwrap();
        assert!(
            fakes.iter().all(|fake| fake.holdings == Some(state)),
            "a generation trains on different states"
        );
        if fakes.iter().any(|fake| fake.at_boundary || fake.leaving) {
            return false;
        }
        let total = self
            .cluster
            .submission(fakes[0].job)
            .unwrap()
            .spec
            .train
            .steps;
        let (leave, reconfigure) = (
            fakes.iter().find_map(|fake| fake.leave),
            fakes.iter().any(|fake| fake.reconfigure),
        );
        let save_now = fakes.iter().any(|fake| fake.save_now);
        let finished = state.step.get() >= total;
        for member in members {
            let fake = self.workers.get_mut(member).unwrap();
            if finished || leave.is_some() {
                fake.leaving = true;
                if state.step > Step(0)
                    && (finished || leave == Some(true))
                    && !fake.acknowledged.contains(&state)
                {
                    fake.save();
                }
            } else if reconfigure {
                fake.leave_at_boundary(state);
            } else {
                fake.save_now |= save_now;
                fake.pending = Some(state.step.next());
            }
        }
        true
    }

    fn leave_when_acknowledged(&mut self, members: &[WorkerId]) -> bool {
        let mut any = false;
        for member in members {
            let Some(fake) = self.workers.get_mut(member) else {
                continue;
            };
            let state = fake.holdings.unwrap_or(StateId::INITIAL);
            let safe = state.step == Step(0)
                || fake.leave == Some(false)
                || fake.acknowledged.contains(&state);
            if fake.leaving && !fake.frozen && safe {
                fake.go();
                self.end(member, Some(0), None);
                any = true;
            }
        }
        any
    }

    /// Everything that happens without time passing, and without a step being agreed on.
    pub fn run(&mut self) {
        self.deliver();
    }

    /// Runs until `steps` steps are committed.
    pub fn run_to(&mut self, step: u64) {
        for _ in 0..10_000 {
            if self.status().step >= Step(step) {
                return;
            }
            let worked = self.work();
            let delivered = self.deliver();
            assert!(worked || delivered, "stuck: {:#?}", self.status());
        }
        panic!("step {step} is never reached: {:#?}", self.status());
    }

    /// Runs, lets time pass where nothing else happens, until the job is over.
    pub fn run_to_end(&mut self) -> JobState {
        self.run_until(|world| world.status().state.is_over());
        self.deliver();
        self.status().state
    }

    /// Runs until all jobs are over.
    pub fn run_all_to_end(&mut self) {
        let over = |world: &Self| {
            let mut jobs = world.cluster.jobs.values();
            jobs.all(|entry| entry.job.state.is_over())
        };
        self.run_until(over);
        self.deliver();
    }

    /// Runs, lets time pass where nothing else happens, until something is so.
    pub fn run_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if is_so(self) {
                return;
            }
            self.reconnect();
            let delivered = self.deliver();
            let worked = self.work();
            if !delivered && !worked {
                let Some(deadline) = self.cluster.next_deadline() else {
                    panic!(
                        "nothing will ever happen: {:#?}\n{:#?}",
                        self.statuses(),
                        self.workers
                    );
                };
                self.now.monotonic = self.now.monotonic.max(deadline);
                self.feed(Event::Tick);
            }
        }
        panic!("it never comes: {:#?}", self.statuses());
    }

    fn statuses(&self) -> Vec<JobStatus> {
        let jobs = self.cluster.jobs().into_iter();
        jobs.filter_map(|job| self.cluster.status(job, self.now))
            .collect()
    }

    /// Lets time pass and delivers what comes of it.
    pub fn wait(&mut self, seconds: u64) {
        let until = self.now.monotonic + Duration::from_secs(seconds);
        while let Some(deadline) = self
            .cluster
            .next_deadline()
            .filter(|deadline| *deadline <= until)
        {
            self.now.monotonic = self.now.monotonic.max(deadline);
            self.feed(Event::Tick);
            self.deliver();
        }
        self.now.monotonic = until;
        self.feed(Event::Tick);
        self.deliver();
    }

    pub fn worker(&self, number: usize) -> WorkerId {
        self.job().placed[number - 1].0.clone()
    }

    pub fn generation(&self) -> u64 {
        self.status().generation.get()
    }

    pub fn events(&self) -> Vec<PublicEvent> {
        self.journal.iter().filter_map(describe).collect()
    }

    pub fn event(&self, kind: &str) -> Vec<PublicEvent> {
        self.events()
            .into_iter()
            .filter(|event| event.kind == kind)
            .collect()
    }

    pub fn resumes(&self) -> Vec<Resume> {
        self.journal
            .iter()
            .filter_map(|record| match &record.kind {
                RecordKind::GenerationFormed { resume, .. } => Some(resume.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn message(&mut self, worker: &WorkerId, generation: u64, message: WorkerMessage) {
        let job = job_id(1);
        self.feed(Event::Worker {
            job,
            worker: worker.clone(),
            generation: Generation(generation),
            message,
        });
    }

    /// The durable state of all jobs, to compare.
    pub fn snapshot(&self) -> Vec<Arc<Job>> {
        self.cluster
            .jobs
            .values()
            .map(|entry| entry.job.clone())
            .collect()
    }

    /// What must hold when a job has finished.
    pub fn check_finished(&self, steps: u64) {
        self.check_job_finished(1, steps);
    }

    pub fn check_job_finished(&self, number: u64, steps: u64) {
        let status = self.status_of(number);
        assert_eq!(status.state, JobState::Finished, "{}", status.state_reason);
        assert_eq!(status.step, Step(steps));
        let line = &self.line[&job_id(number)];
        assert_eq!(
            line.keys().map(|step| step.get()).collect::<Vec<_>>(),
            (1..=steps).collect::<Vec<_>>()
        );
        let totals = self.job_of(number).marks.last_key_value().unwrap().1;
        assert_eq!(totals.state.step, Step(steps));
        assert_eq!(status.last_checkpoint.unwrap().state.step, Step(steps));
        assert_eq!(
            totals.samples,
            8 * steps,
            "samples were lost or trained twice"
        );
        let gaps = self.event("evidence_gap");
        if gaps.iter().any(|gap| gap.job == Some(job_id(number))) {
            // All who could report a step died before anyone did: its tokens are inferred from the constant global batch,
            // and a fake's is not constant.
            return;
        }
        assert_eq!(
            totals.tokens,
            (1..=steps).map(super::fake::tokens_of).sum::<u64>()
        );
        assert_eq!(
            totals.evidence,
            (1..=steps)
                .map(super::fake::evidence_of)
                .fold(0, u64::wrapping_add)
        );
    }
}
