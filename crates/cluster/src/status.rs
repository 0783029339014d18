use std::collections::BTreeMap;

use muster_types::{
    BatchSlots, Generation, JobId, NodeName, Now, Rank, Segment, StateId, Step, Timestamp,
    WorkerId, WorldSize,
};

use crate::{
    Cluster, DrainStage, JobState, Submission, cluster::JobEntry, job::Phase,
    job_turn::newest_step, nodes::SlotClass, spares::is_spare, stance::stance, totals::Totals,
};

/// Where a job stands. The fields are those of `muster.v1.JobStatus`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobStatus {
    /// The job.
    pub job_id: JobId,
    /// Its name for people.
    pub name: String,
    /// Whose it is; empty where nobody said.
    pub user: String,
    /// Its priority in the queue.
    pub priority: i32,
    /// Where it is in its lifecycle.
    pub state: JobState,
    /// Why, in words.
    pub state_reason: String,
    /// The newest generation that was opened; 0 before the first.
    pub generation: Generation,
    /// Committed optimizer steps.
    pub step: Step,
    /// Optimizer steps in all.
    pub total_steps: Step,
    /// Tokens trained on in the committed history.
    pub tokens_seen: u64,
    /// Mean loss per token of the newest committed step, nats.
    pub loss: Option<f64>,
    /// Mean loss per token on the held-out split, nats.
    pub validation_loss: Option<f64>,
    /// Over the last committed steps, all workers together; absent while nothing is trained.
    pub tokens_per_second: Option<f64>,
    /// Members of the formed generation; 0 while there is none.
    pub world_size: u32,
    /// How many workers are in the job.
    pub worker_count: u32,
    /// Workers that are in the job, oldest first; none in a summary.
    pub workers: Vec<WorkerStatus>,
    /// The newest checkpoint that may be loaded.
    pub last_checkpoint: Option<CheckpointRef>,
    /// Generations that were formed because something was lost.
    pub recoveries: u64,
    /// When the first generation was formed.
    pub started_at: Option<Timestamp>,
    /// How long the remaining steps take at the present speed.
    pub eta_seconds: Option<f64>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it ended; absent while it has not.
    pub ended_at: Option<Timestamp>,
    /// Under which numerics it computes; empty until a worker has said so.
    pub numerics_fingerprint: String,
    /// Who trains which slots of the batch; empty in a summary.
    pub assignment: Vec<BatchSlots>,
}

/// A worker in a job's status.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its node.
    pub node: NodeName,
    /// Its slot on the node.
    pub slot: u32,
    /// Its process id on the node, once known.
    pub pid: Option<u32>,
    /// Its rank, as a member of a formed generation.
    pub rank: Option<Rank>,
    /// What it is about.
    pub state: WorkerState,
    /// The newest step that it has committed.
    pub step: Option<Step>,
    /// Work of its own for each slot of the batch, ms: the median of the last steps of the generation, once known.
    pub slot_ms: Option<f64>,
}

/// What a worker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Its process starts, attaches and loads.
    Starting,
    /// It may become a candidate.
    Warm,
    /// It is warm, and stands by until a member is lost.
    Spare,
    /// A generation is being agreed on with it.
    Candidate,
    /// It is in the formed generation.
    Member,
    /// It leaves in good order.
    Leaving,
}

impl WorkerState {
    /// The word for it, as every interface shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Warm => "warm",
            Self::Spare => "spare",
            Self::Candidate => "candidate",
            Self::Member => "member",
            Self::Leaving => "leaving",
        }
    }
}

/// A checkpoint by name and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Its state.
    pub state: StateId,
    /// Its directory.
    pub uri: String,
}

/// A node whose agent has said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub name: NodeName,
    /// Where other nodes reach its workers.
    pub address: String,
    /// Whether its agent's stream is up.
    pub connected: bool,
    /// The slots that it offers.
    pub slots: u32,
    /// How many of them have a worker's process on them.
    pub slots_used: u32,
    /// `cuda` if any of its slots is a GPU, else `cpu`.
    pub device: String,
    /// Why nothing new is placed on it, or on some of its slots; `None` where it is not cordoned.
    pub cordon: Option<String>,
    /// How far it is emptied; `None` where it is not.
    pub drain: Option<DrainStage>,
}

impl Cluster {
    /// Where a job stands; `None` for an unknown id.
    pub fn status(&self, job: JobId, now: Now) -> Option<JobStatus> {
        let entry = self.jobs.get(&job)?;
        let summary = self.summary(job, now)?;
        let batch_slots = entry.job.submission.spec.batch_slots();
        let world_size = WorldSize(summary.world_size);
        let workers = entry.job.serving();
        Some(JobStatus {
            workers: workers
                .iter()
                .filter_map(|worker| self.worker_status(entry, worker))
                .collect(),
            assignment: muster_plan::deal(batch_slots, world_size).unwrap_or_default(),
            ..summary
        })
    }

    /// Where a job stands, without its workers and their slots of the batch: as quick to make for many workers as for few.
    pub fn summary(&self, job: JobId, now: Now) -> Option<JobStatus> {
        let entry = self.jobs.get(&job)?;
        let JobEntry { job, volatile } = entry;
        let (state, state_reason) = self.state_in_words(entry, now);
        let step = newest_step(job, volatile);
        let newest = self.newest_state(entry);
        let active = job.phase == Phase::Active;
        let speed = volatile
            .ledger
            .speed()
            .filter(|_| state == JobState::Training);
        let remaining = job.total_steps().get().saturating_sub(step.get()) as f64;
        let world_size = if active { job.members.len() as u32 } else { 0 };
        let spec = &job.submission.spec;
        Some(JobStatus {
            job_id: job.submission.job,
            name: spec.name.clone(),
            user: spec.queue.user.clone(),
            priority: spec.queue.priority,
            state,
            state_reason,
            generation: job.generation,
            step,
            total_steps: job.total_steps(),
            tokens_seen: volatile.ledger.totals_at(job, newest).totals.tokens,
            loss: volatile
                .ledger
                .newest()
                .map(|metrics| metrics.loss)
                .filter(|loss| loss.is_finite()),
            validation_loss: job.evaluations.last_key_value().and_then(|(_, loss)| *loss),
            tokens_per_second: speed.map(|(tokens, _)| tokens),
            world_size,
            worker_count: job.workers.values().filter(|it| !it.expelled).count() as u32,
            workers: Vec::new(),
            last_checkpoint: self.checkpoints(job.submission.job).into_iter().next(),
            recoveries: job.recoveries,
            started_at: job.started_at,
            eta_seconds: speed.map(|(_, steps)| remaining / steps),
            submitted_at: job.submitted_at,
            ended_at: job.ended_at,
            numerics_fingerprint: volatile.fingerprint.clone(),
            assignment: Vec::new(),
        })
    }

    fn newest_state(&self, entry: &JobEntry) -> StateId {
        let JobEntry { job, volatile } = entry;
        let marked = job
            .marks
            .last_key_value()
            .map_or(Totals::ZERO, |(_, totals)| *totals)
            .state;
        let resumed = job
            .resume
            .as_ref()
            .map_or(StateId::INITIAL, |resume| resume.state);
        let reported = volatile.ledger.newest_state().unwrap_or(StateId::INITIAL);
        [marked, resumed, reported]
            .into_iter()
            .max_by_key(|state| state.step)
            .unwrap_or(StateId::INITIAL)
    }

    fn state_in_words(&self, entry: &JobEntry, now: Now) -> (JobState, String) {
        if entry.job.state.is_over() {
            return (entry.job.state, entry.job.reason.clone());
        }
        let (state, reason) = stance(&entry.job, &entry.volatile, &self.options);
        if !matches!(state, JobState::Pending | JobState::Rendezvous) {
            return (state, reason);
        }
        let waits = self.why_it_waits(entry.job.submission.job, now.monotonic);
        if state == JobState::Rendezvous {
            return match waits {
                Some(waits) => (state, format!("{reason}; {waits}")),
                None => (state, reason),
            };
        }
        let mut words = waits.unwrap_or_else(|| "waits for its turn".into());
        if let Some(requeued) = &entry.job.requeued {
            words = format!("{words}; before, it had to wait because it {requeued}");
        } else if let Some(cause) = entry.volatile.strikes.causes.last() {
            words = format!("{words}; last: {cause}");
        }
        (state, words)
    }

    fn worker_status(&self, entry: &JobEntry, worker: &WorkerId) -> Option<WorkerStatus> {
        let JobEntry { job, volatile } = entry;
        let placement = job.workers.get(worker)?;
        let view = volatile.workers.get(worker);
        let rank = (job.phase == Phase::Active)
            .then(|| job.rank_of(worker))
            .flatten();
        let candidate = matches!(&job.phase, Phase::Forming { .. }) && placement.takes_part;
        let told_to_leave = view.is_some_and(|view| view.told_leave == Some(job.generation));
        let state = if volatile.left.contains_key(worker) || told_to_leave {
            WorkerState::Leaving
        } else if rank.is_some() {
            WorkerState::Member
        } else if candidate {
            WorkerState::Candidate
        } else if view.is_some_and(|view| view.warm) {
            match is_spare(job, worker) {
                true => WorkerState::Spare,
                false => WorkerState::Warm,
            }
        } else {
            WorkerState::Starting
        };
        Some(WorkerStatus {
            worker_id: worker.clone(),
            node: placement.node.clone(),
            slot: placement.slot,
            pid: view.and_then(|view| view.pid),
            rank: rank.map(|rank| Rank(rank as u32)),
            state,
            step: view.and_then(|view| view.step),
            slot_ms: view.and_then(|view| view.own_work.slot_ms(job.generation)),
        })
    }

    /// All jobs, in the order of submission.
    pub fn jobs(&self) -> Vec<JobId> {
        self.in_order()
    }

    /// The nodes whose agents have said hello, by name.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let mut workers: BTreeMap<&NodeName, usize> = BTreeMap::new();
        for placement in self.jobs.values().flat_map(|it| it.job.workers.values()) {
            *workers.entry(&placement.node).or_default() += 1;
        }
        let used = |name: &NodeName| workers.get(name).copied().unwrap_or(0);
        let status = |(name, node): (&NodeName, &crate::nodes::Node)| NodeStatus {
            name: name.clone(),
            address: node.address.clone(),
            connected: node.connected,
            slots: node.slots.len() as u32,
            slots_used: (used(name) + node.strangers.len()) as u32,
            device: if node
                .slots
                .iter()
                .any(|slot| SlotClass::of(&slot.device) == SlotClass::Cuda)
            {
                "cuda"
            } else {
                "cpu"
            }
            .to_owned(),
            cordon: self.cordon_words(name),
            drain: self.drain_stage(name),
        };
        let mut nodes: Vec<_> = self.nodes.known.iter().map(status).collect();
        // Cordoned ones are shown even where their agents have not come back since the coordinator started.
        let absent = |name: &&NodeName| !self.nodes.known.contains_key(*name);
        for name in self.cordons.keys().filter(absent) {
            nodes.push(NodeStatus {
                name: name.clone(),
                address: String::new(),
                connected: false,
                slots: 0,
                slots_used: used(name) as u32,
                device: String::new(),
                cordon: self.cordon_words(name),
                drain: self.drain_stage(name),
            });
        }
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes
    }

    /// Why nothing new is placed on a node, or on some of its slots.
    fn cordon_words(&self, node: &NodeName) -> Option<String> {
        if let Some(cordon) = self.cordons.get(node) {
            return Some(cordon.reason.clone());
        }
        if self.is_draining(node) {
            return Some("its agent is about to end".to_owned());
        }
        let slots = self.slot_cordons.iter().filter(|((it, _), _)| it == node);
        let words: Vec<_> = slots
            .map(|((_, slot), cordon)| format!("slot {slot} only: {}", cordon.reason))
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Whether a node was ever here: its agent has said hello, or one of its slots was used.
    pub fn has_seen(&self, node: &NodeName) -> bool {
        let used = |entry: &JobEntry| entry.job.placed.iter().any(|(_, place)| place == node);
        self.nodes.known.contains_key(node)
            || self.cordons.contains_key(node)
            || self.jobs.values().any(used)
    }

    /// What was submitted.
    pub fn submission(&self, job: JobId) -> Option<&Submission> {
        self.jobs.get(&job).map(|entry| &*entry.job.submission)
    }

    /// The job's checkpoints that may be loaded, newest first.
    pub fn checkpoints(&self, job: JobId) -> Vec<CheckpointRef> {
        let Some(JobEntry { job, .. }) = self.jobs.get(&job) else {
            return Vec::new();
        };
        let usable = job.checkpoints.iter().filter(|(state, checkpoint)| {
            !checkpoint.condemned && job.history.is_eligible(**state)
        });
        let mut usable: Vec<_> = usable
            .map(|(state, checkpoint)| CheckpointRef {
                state: *state,
                uri: checkpoint.uri.clone(),
            })
            .collect();
        usable.sort_by_key(|checkpoint| {
            std::cmp::Reverse((checkpoint.state.step, checkpoint.state.generation))
        });
        usable
    }

    /// The job's data order so far.
    pub fn segments(&self, job: JobId) -> &[Segment] {
        self.jobs.get(&job).map_or(&[], |entry| &entry.job.segments)
    }

    /// Under which numerics the job computes; empty until a worker has said so.
    pub fn numerics_fingerprint(&self, job: JobId) -> &str {
        self.jobs
            .get(&job)
            .map_or("", |entry| &entry.volatile.fingerprint)
    }

    /// Node and slot of a worker whose slot is not known to be empty.
    pub fn worker_slot(&self, job: JobId, worker: &WorkerId) -> Option<(NodeName, u32)> {
        let placement = self.jobs.get(&job)?.job.workers.get(worker)?;
        Some((placement.node.clone(), placement.slot))
    }

    /// Where a worker is, or was: the node that it was placed on. `None` for one that was never placed for the job.
    pub fn node_of(&self, job: JobId, worker: &WorkerId) -> Option<&NodeName> {
        let job = &self.jobs.get(&job)?.job;
        let there = job.workers.get(worker).map(|placement| &placement.node);
        let was = || job.placed.iter().find(|(placed, _)| placed == worker);
        there.or_else(|| was().map(|(_, node)| node))
    }

    /// Every worker that was ever placed for the job, in order, with its node.
    pub fn placements(&self, job: JobId) -> &[(WorkerId, NodeName)] {
        self.jobs
            .get(&job)
            .map_or(&[], |entry| entry.job.placed.as_slice())
    }

    /// Whether a generation may use its store: it is formed, and none was opened since.
    pub fn store_open(&self, job: JobId, generation: Generation) -> bool {
        self.jobs.get(&job).is_some_and(|entry| {
            entry.job.phase == Phase::Active && entry.job.generation == generation
        })
    }
}
