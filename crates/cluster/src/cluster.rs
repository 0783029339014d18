use std::{collections::BTreeMap, sync::Arc};

use muster_types::{JobId, Monotonic, NodeName, Now, StateId, WorkerId};

use crate::{
    ClusterOptions, Command, Event, Note, Record, RecordKind, StepMetrics,
    cordons::Cordon,
    job::{Job, Placement},
    nodes::Nodes,
    turn::Turn,
    volatile::{NoteKind, Volatile},
};

/// All jobs and nodes, as a value: [`Cluster::decide`] says what follows from an event, and changes nothing.
///
/// The shell journals a decision's records, applies them, takes its notes, and then runs its commands. Replay applies
/// records alone; after it, and whenever [`Cluster::next_deadline`] has come, the shell feeds [`Event::Tick`].
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) options: Arc<ClusterOptions>,
    pub(crate) jobs: BTreeMap<JobId, JobEntry>,
    pub(crate) nodes: Arc<Nodes>,
    /// Nodes on which nothing new is placed, and why.
    pub(crate) cordons: Arc<BTreeMap<NodeName, Cordon>>,
    /// Single slots of other nodes, likewise.
    pub(crate) slot_cordons: Arc<BTreeMap<(NodeName, u32), Cordon>>,
}

/// A job: what is on record, and what is merely known. Shared, so that a decision can try its consequences on a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobEntry {
    pub job: Arc<Job>,
    pub volatile: Arc<Volatile>,
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be journaled durably, then applied, in this order.
    pub records: Vec<Record>,
    /// To be taken after the records were applied.
    pub notes: Vec<Note>,
    /// To be run last, in this order.
    pub commands: Vec<Command>,
    /// Steps that were reported for the first time, in order. After a rollback, steps come again: the resume state of
    /// `GenerationFormed` says from where on.
    pub committed: Vec<CommittedStep>,
}

/// The first report of a committed step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommittedStep {
    /// Whose step it is.
    pub job: JobId,
    /// The state that it reached.
    pub state: StateId,
    /// What it brought.
    pub metrics: StepMetrics,
}

impl Cluster {
    /// No jobs, no nodes.
    pub fn new(options: ClusterOptions) -> Self {
        Self {
            options: Arc::new(options),
            jobs: BTreeMap::new(),
            nodes: Arc::default(),
            cordons: Arc::default(),
            slot_cordons: Arc::default(),
        }
    }

    /// What follows from an event, to the last consequence.
    pub fn decide(&self, now: Now, event: Event) -> Decision {
        self.decide_all(now, [event])
    }

    /// What follows from events that have come together. Each is taken in, one after the other; what follows from those that
    /// concern single workers follows from all of them at once, as if the rules were a little slow. With thousands of workers,
    /// to look at all after each one's word takes longer than the words take to come.
    pub fn decide_all(&self, now: Now, events: impl IntoIterator<Item = Event>) -> Decision {
        let mut turn = Turn::new(self, now);
        turn.handle(events);
        turn.into_decision()
    }

    /// Changes what a record says. Replaying a journal gives the durable state that wrote it.
    pub fn apply(&mut self, record: &Record) {
        if let RecordKind::JobSubmitted(submission) = &record.kind {
            let sequence = self.jobs.len() as u64;
            self.jobs.entry(submission.job).or_insert_with(|| JobEntry {
                job: Arc::new(Job::new((**submission).clone(), record.at, sequence)),
                volatile: Arc::default(),
            });
            return;
        }
        if let RecordKind::WorkerPlaced {
            worker, node, slot, ..
        } = &record.kind
        {
            // It is checked with each of thousands of placements: what differs most is compared first.
            let is_there = |other: &Placement| other.slot == *slot && other.node == *node;
            let is_taken =
                |job: &Job| job.workers.contains_key(worker) || job.workers.values().any(is_there);
            debug_assert!(
                !self.jobs.values().any(|entry| is_taken(&entry.job)),
                "slot {slot} of node {node} is to run a second worker"
            );
        }
        match &record.kind {
            RecordKind::NodeCordoned {
                node,
                slot,
                reason,
                judged,
                drain,
            } => {
                let cordon = Cordon {
                    reason: reason.clone(),
                    judged: *judged,
                    drain: *drain,
                };
                let node = node.clone();
                match slot {
                    None => Arc::make_mut(&mut self.cordons).insert(node, cordon),
                    Some(slot) => {
                        Arc::make_mut(&mut self.slot_cordons).insert((node, *slot), cordon)
                    }
                };
            }
            RecordKind::NodeUncordoned { node } => {
                Arc::make_mut(&mut self.cordons).remove(node);
                Arc::make_mut(&mut self.slot_cordons).retain(|(it, _), _| it != node);
            }
            _ => {}
        }
        if matches!(record.kind, RecordKind::Noted { .. }) {
            return;
        }
        if let Some(entry) = record.kind.job().and_then(|job| self.jobs.get_mut(&job)) {
            Arc::make_mut(&mut entry.job).apply(record);
        }
    }

    /// Takes a note of a decision whose records were applied.
    pub fn note(&mut self, note: Note) {
        match note.0 {
            NoteKind::Job(job, volatile) => {
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.volatile = volatile;
                }
            }
            NoteKind::Steps(job, repeated) => {
                if let Some(entry) = self.jobs.get_mut(&job) {
                    Arc::make_mut(&mut entry.volatile).has_reached(&repeated);
                }
            }
            NoteKind::Nodes(nodes) => self.nodes = nodes,
        }
    }

    /// When [`Event::Tick`] is wanted; a tick at any other time does no harm.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.jobs
            .values()
            .filter(|entry| !entry.job.state.is_over())
            .filter_map(|entry| entry.volatile.wake)
            .chain(self.nodes.next_change())
            .min()
    }

    /// The job that a worker belongs to, while its slot is not known to be empty.
    pub(crate) fn job_of(&self, worker: &WorkerId) -> Option<JobId> {
        self.jobs
            .iter()
            .find(|(_, entry)| entry.job.workers.contains_key(worker))
            .map(|(job, _)| *job)
    }

    /// The jobs in order of submission.
    pub(crate) fn in_order(&self) -> Vec<JobId> {
        let mut jobs: Vec<_> = self
            .jobs
            .iter()
            .map(|(job, entry)| (entry.job.sequence, *job))
            .collect();
        jobs.sort_unstable();
        jobs.into_iter().map(|(_, job)| job).collect()
    }

    /// The durable state: what a replay of the journal must give again.
    #[cfg(test)]
    pub(crate) fn durable(&self) -> Vec<&Job> {
        self.jobs.values().map(|entry| &*entry.job).collect()
    }
}
