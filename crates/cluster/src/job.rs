use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muster_checkpoint::History;
use muster_types::{Generation, NodeName, Segment, StateId, Step, Timestamp, WorkerId};

use crate::{
    JobState, OpenCause, Record, RecordKind, Resume, ResumeSource, Submission,
    mutation::{Mutation, is_planted},
    ranks::Ranks,
    totals::Totals,
};

/// Totals that are kept besides those of checkpoints: a live resume falls back by a step at most.
pub(crate) const KEPT_MARKS: usize = 8;

/// Which generation business a job is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    /// No generation.
    Idle,
    /// The newest generation is being agreed on, by these.
    Forming { candidates: Ranks },
    /// The newest generation is formed.
    Active,
}

/// A worker that belongs on a slot until its process has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placement {
    pub node: NodeName,
    pub slot: u32,
    pub device: Arc<str>,
    pub threads: u32,
    /// The job's so-many-th worker, from 1.
    pub ordinal: u32,
    /// Out of the job for good.
    pub expelled: bool,
    /// Its slot is given back: it is in no further generation, and leaves.
    pub released: bool,
    /// It is in the newest generation: a member, or asked to be one.
    pub takes_part: bool,
    /// It has been a candidate, so it has run.
    pub was_candidate: bool,
    /// It has been a member, so it may have committed: only its own word fences it.
    pub was_member: bool,
}

/// A checkpoint on record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CheckpointEntry {
    pub uri: String,
    pub condemned: bool,
}

/// A job gives its slots back, until its workers are out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preemption {
    /// How long its workers may take to save and leave, in seconds.
    pub grace_seconds: u32,
    pub reason: String,
}

/// A job's durable state: what its records say, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub submission: Arc<Submission>,
    /// Place in the order of submission.
    pub sequence: u64,
    pub submitted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub state: JobState,
    pub reason: String,
    /// Someone asked for a stop; how long the workers may take, in seconds.
    pub stop: Option<u32>,
    pub preemption: Option<Preemption>,
    /// Why it gave its slots back, until it has a generation again.
    pub requeued: Option<String>,
    pub segments: Vec<Segment>,
    /// Under which numerics the newest formed generation's members compute.
    pub numerics: Vec<String>,
    /// The step after which samples were skipped last, and how often in a row.
    pub skips: Option<(Step, u32)>,
    /// The checkpoint that the next generation goes back to.
    pub back_to: Option<StateId>,
    /// Workers whose slot is not known to be empty.
    pub workers: BTreeMap<WorkerId, Placement>,
    /// Every worker ever placed, in order.
    pub placed: Arc<Vec<(WorkerId, NodeName)>>,
    /// The newest generation that was opened.
    pub generation: Generation,
    pub phase: Phase,
    /// Of the newest formed generation, in rank order.
    pub members: Ranks,
    /// Members that the job does not go on with: gone, out, or told to go.
    pub missing: BTreeSet<WorkerId>,
    /// Where the newest formed generation started.
    pub resume: Option<Resume>,
    pub history: History,
    pub checkpoints: BTreeMap<StateId, CheckpointEntry>,
    /// From then on, the job never starts from the seed again.
    pub ever_committed: bool,
    pub marks: BTreeMap<Step, Totals>,
    /// Held-out losses on the line.
    pub evaluations: BTreeMap<Step, Option<f64>>,
    pub recoveries: u64,
    /// A generation was opened because something was lost, and none was formed since.
    pub recovering: bool,
}

impl Job {
    /// A job as its first record makes it.
    pub fn new(submission: Submission, at: Timestamp, sequence: u64) -> Self {
        Self {
            submission: Arc::new(submission),
            sequence,
            submitted_at: at,
            started_at: None,
            ended_at: None,
            state: JobState::Pending,
            reason: "submitted".into(),
            stop: None,
            preemption: None,
            requeued: None,
            segments: Vec::new(),
            numerics: Vec::new(),
            skips: None,
            back_to: None,
            workers: BTreeMap::new(),
            placed: Arc::default(),
            generation: Generation(0),
            phase: Phase::Idle,
            members: Ranks::default(),
            missing: BTreeSet::new(),
            resume: None,
            history: History::default(),
            checkpoints: BTreeMap::new(),
            ever_committed: false,
            marks: BTreeMap::from([(Step(0), Totals::ZERO)]),
            evaluations: BTreeMap::new(),
            recoveries: 0,
            recovering: false,
        }
    }

    /// Changes what a record says. A record of another job, or one that repeats itself, changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match &record.kind {
            RecordKind::JobSubmitted(_)
            | RecordKind::NodeCordoned { .. }
            | RecordKind::NodeUncordoned { .. }
            | RecordKind::Noted { .. } => {}
            RecordKind::JobState { state, reason, .. } => self.move_to(*state, reason, record.at),
            RecordKind::StopRequested { grace_seconds, .. } => self.stop = Some(*grace_seconds),
            RecordKind::JobPreempted {
                grace_seconds,
                reason,
                ..
            } => {
                self.preemption = Some(Preemption {
                    grace_seconds: *grace_seconds,
                    reason: reason.clone(),
                });
            }
            RecordKind::JobRequeued { reason, .. } => {
                debug_assert!(
                    self.serving().is_empty(),
                    "a job with workers is queued again"
                );
                self.requeued = self.preemption.take().map(|preemption| preemption.reason);
                self.move_to(JobState::Pending, reason, record.at);
                self.disband();
            }
            RecordKind::SegmentOpened { segment, .. } => {
                // What was planned from there on is not committed, or is discarded.
                self.segments
                    .retain(|older| older.start_step < segment.start_step);
                self.segments.push(*segment);
            }
            RecordKind::BatchSkipped { step, back_to, .. } => {
                let before = self.skips.filter(|(skipped, _)| skipped == step);
                self.skips = Some((*step, before.map_or(0, |(_, count)| count) + 1));
                self.back_to = *back_to;
            }
            RecordKind::WorkerPlaced {
                worker,
                node,
                slot,
                device,
                threads,
                ..
            } => {
                debug_assert!(
                    !self.state.is_over(),
                    "a worker is placed for a job that is over"
                );
                Arc::make_mut(&mut self.placed).push((worker.clone(), node.clone()));
                let placement = Placement {
                    node: node.clone(),
                    slot: *slot,
                    device: device.as_str().into(),
                    threads: *threads,
                    ordinal: self.placed.len() as u32,
                    expelled: false,
                    released: false,
                    takes_part: false,
                    was_candidate: false,
                    was_member: false,
                };
                self.workers.insert(worker.clone(), placement);
            }
            RecordKind::WorkerExpelled { worker, .. } => {
                if let Some(placement) = self.workers.get_mut(worker) {
                    placement.expelled = true;
                }
                self.miss(worker);
            }
            RecordKind::WorkerReleased { worker, .. } => {
                debug_assert!(
                    !matches!(&self.phase, Phase::Forming { candidates } if candidates.contains(worker)),
                    "a candidate's slot is given back"
                );
                if let Some(placement) = self.workers.get_mut(worker) {
                    placement.released = true;
                }
                self.miss(worker);
            }
            RecordKind::WorkerGone { worker, .. } => {
                self.workers.remove(worker);
                self.miss(worker);
            }
            RecordKind::GenerationOpened {
                generation,
                candidates,
                cause,
                ..
            } => {
                self.open(*generation, candidates, *cause);
            }
            RecordKind::GenerationFormed {
                generation,
                members,
                resume,
                ..
            } => {
                self.form(*generation, members, resume, record.at);
            }
            RecordKind::NumericsSeen { fingerprints, .. } => self.numerics.clone_from(fingerprints),
            RecordKind::CheckpointCommitted { state, uri, .. } => {
                debug_assert!(
                    self.history.is_eligible(*state),
                    "a checkpoint of a discarded branch is committed"
                );
                self.ever_committed = true;
                self.checkpoints.insert(
                    *state,
                    CheckpointEntry {
                        uri: uri.clone(),
                        condemned: false,
                    },
                );
            }
            RecordKind::CheckpointCondemned { state, .. } => {
                if let Some(checkpoint) = self.checkpoints.get_mut(state) {
                    checkpoint.condemned = true;
                }
            }
            RecordKind::CheckpointDeleted { state, .. } => {
                self.checkpoints.remove(state);
            }
            RecordKind::Watermark {
                state,
                tokens_seen,
                evidence,
                samples,
                ..
            } => {
                debug_assert!(self.history.is_eligible(*state), "a watermark off the line");
                let totals = Totals {
                    state: *state,
                    tokens: *tokens_seen,
                    evidence: *evidence,
                    samples: *samples,
                };
                self.marks.insert(state.step, totals);
                self.prune_marks();
            }
            RecordKind::Evaluated {
                state,
                validation_loss,
                ..
            } => {
                self.evaluations.insert(state.step, *validation_loss);
                while self.evaluations.len() > KEPT_MARKS {
                    self.evaluations.pop_first();
                }
            }
        }
    }

    fn move_to(&mut self, state: JobState, reason: &str, at: Timestamp) {
        let taken_up = self.state.is_over() && !state.is_over();
        self.state = state;
        self.reason = reason.into();
        self.ended_at = state.is_over().then_some(at);
        if taken_up || state.is_over() {
            self.stop = None;
            self.preemption = None;
            self.requeued = None;
            self.disband();
        }
    }

    /// No generation is formed or being agreed on.
    fn disband(&mut self) {
        self.phase = Phase::Idle;
        self.members = Ranks::default();
        self.missing.clear();
        self.take_part(&[]);
        self.recovering = false;
    }

    fn open(&mut self, generation: Generation, candidates: &[WorkerId], cause: OpenCause) {
        debug_assert_eq!(
            generation,
            self.generation.next(),
            "generations are opened one after the other"
        );
        debug_assert!(!candidates.is_empty(), "a generation without candidates");
        debug_assert!(
            candidates.iter().all(|worker| self.keeps(worker)),
            "a candidate that is out of the job"
        );
        self.generation = generation;
        self.recovering |= cause == OpenCause::Lost;
        let candidates: Ranks = candidates.iter().cloned().collect();
        self.take_part(&candidates);
        for placement in self.workers.values_mut() {
            placement.was_candidate |= placement.takes_part;
        }
        self.phase = Phase::Forming { candidates };
    }

    /// Only these are in the newest generation.
    fn take_part(&mut self, workers: &[WorkerId]) {
        for placement in self.workers.values_mut() {
            placement.takes_part = false;
        }
        for worker in workers {
            if let Some(placement) = self.workers.get_mut(worker) {
                placement.takes_part = true;
            }
        }
    }

    fn form(
        &mut self,
        generation: Generation,
        members: &[WorkerId],
        resume: &Resume,
        at: Timestamp,
    ) {
        debug_assert_eq!(
            generation, self.generation,
            "only the newest generation is formed"
        );
        debug_assert!(
            matches!(&self.phase, Phase::Forming { candidates } if members.iter().all(|m| candidates.contains(m))),
            "a member that was no candidate, or a generation formed twice"
        );
        debug_assert!(
            resume.source != ResumeSource::Initialise || !self.ever_committed,
            "a job with a checkpoint on record starts from the seed"
        );
        self.history.form(generation, resume.state);
        self.phase = Phase::Active;
        self.requeued = None;
        self.back_to = None;
        self.members = members.iter().cloned().collect();
        let gone = members.iter().filter(|member| !self.keeps(member));
        self.missing = gone.cloned().collect();
        self.resume = Some(resume.clone());
        self.take_part(members);
        for placement in self.workers.values_mut() {
            placement.was_member |= placement.takes_part;
        }
        self.marks.retain(|step, _| *step <= resume.state.step);
        self.evaluations
            .retain(|step, _| *step <= resume.state.step);
        self.started_at.get_or_insert(at);
        self.recoveries += u64::from(std::mem::take(&mut self.recovering));
    }

    /// The job does not go on with a worker.
    fn miss(&mut self, worker: &WorkerId) {
        if self.members.contains(worker) {
            self.missing.insert(worker.clone());
        }
        if let Phase::Forming { candidates } = &mut self.phase
            && candidates.contains(worker)
            && !is_planted(Mutation::GoneCandidateStays)
        {
            let others = candidates.iter().filter(|candidate| *candidate != worker);
            *candidates = others.cloned().collect();
            if let Some(placement) = self.workers.get_mut(worker) {
                placement.takes_part = false;
            }
        }
    }

    fn prune_marks(&mut self) {
        let newest: Vec<Step> = self.marks.keys().rev().take(KEPT_MARKS).copied().collect();
        let checkpoints: Vec<Step> = self.checkpoints.keys().map(|state| state.step).collect();
        self.marks.retain(|step, _| {
            *step == Step(0) || newest.contains(step) || checkpoints.contains(step)
        });
    }

    /// Whether the worker is in the job: placed, not expelled, not gone.
    pub fn serves(&self, worker: &WorkerId) -> bool {
        self.workers
            .get(worker)
            .is_some_and(|placement| !placement.expelled)
    }

    /// Whether the worker is in the job, and its slot is not given back.
    pub fn keeps(&self, worker: &WorkerId) -> bool {
        self.workers
            .get(worker)
            .is_some_and(|placement| !placement.expelled && !placement.released)
    }

    /// Members that are gone or out, in rank order.
    pub fn lost(&self) -> Vec<&WorkerId> {
        let mut lost: Vec<_> = self.missing.iter().filter(|it| !self.serves(it)).collect();
        lost.sort_by_key(|member| self.rank_of(member));
        lost
    }

    /// How many workers the newest generation has, without those that the job does not go on with.
    pub fn strength(&self) -> usize {
        match &self.phase {
            Phase::Idle => 0,
            Phase::Active => self.members.len() - self.missing.len(),
            Phase::Forming { candidates } => candidates.len(),
        }
    }

    /// Whether no slot is given back.
    pub fn keeps_all(&self) -> bool {
        !self.workers.values().any(|placement| placement.released)
    }

    /// The workers that are in the job, oldest first.
    pub fn serving(&self) -> Vec<WorkerId> {
        let mut serving: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, placement)| !placement.expelled)
            .collect();
        serving.sort_by_key(|(_, placement)| placement.ordinal);
        serving
            .into_iter()
            .map(|(worker, _)| worker.clone())
            .collect()
    }

    /// Whether a worker whose slot is not known to be empty is in the newest generation: a member, or asked to be one.
    pub fn takes_part(&self, worker: &WorkerId) -> bool {
        let placement = self.workers.get(worker);
        placement.is_some_and(|placement| placement.takes_part)
    }

    /// The rank of a member of the newest formed generation.
    pub fn rank_of(&self, worker: &WorkerId) -> Option<usize> {
        self.members.rank_of(worker)
    }

    /// Optimizer steps in all.
    pub fn total_steps(&self) -> Step {
        Step(self.submission.spec.train.steps)
    }

    /// The largest world size.
    pub fn capacity(&self) -> usize {
        let spec = &self.submission.spec;
        spec.workers.max.min(spec.batch_slots()).max(1) as usize
    }

    /// The smallest world size to train with.
    pub fn gang(&self) -> usize {
        (self.submission.spec.workers.min.max(1) as usize).min(self.capacity())
    }

    /// The smallest world size. Where the job is only to save and leave, one is enough.
    pub fn required(&self) -> usize {
        if self.leave_grace().is_some() {
            1
        } else {
            self.gang()
        }
    }

    /// How long the workers may take to save and leave, in seconds, where they were asked to: by a stop or a preemption.
    pub fn leave_grace(&self) -> Option<u32> {
        self.stop.or(self
            .preemption
            .as_ref()
            .map(|preemption| preemption.grace_seconds))
    }

    /// Whether the workers were asked to save and leave.
    pub fn is_to_leave(&self) -> bool {
        self.leave_grace().is_some()
    }

    /// Whether a state lies on the line, and the next generation may start from it: a job that goes back has given up what lies
    /// beyond.
    pub fn is_kept(&self, state: StateId) -> bool {
        let limit = self.back_to.map(|limit| limit.step);
        let limit = limit.filter(|_| !is_planted(Mutation::DiscardedBeyondRollback));
        self.history.is_eligible(state) && limit.is_none_or(|limit| state.step <= limit)
    }

    /// The newest checkpoint that may be loaded.
    pub fn newest_checkpoint(&self) -> Option<(StateId, &CheckpointEntry)> {
        self.checkpoints
            .iter()
            .filter(|(state, checkpoint)| !checkpoint.condemned && self.is_kept(**state))
            .max_by_key(|(state, _)| (state.step, state.generation))
            .map(|(state, checkpoint)| (*state, checkpoint))
    }

    /// Whether the state of the last step is safe in a checkpoint.
    pub fn is_done(&self) -> bool {
        self.newest_checkpoint()
            .is_some_and(|(state, _)| state.step >= self.total_steps())
    }
}
