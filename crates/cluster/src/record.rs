use std::collections::BTreeMap;

use muster_types::{
    Generation, JobId, NodeName, Position, Segment, StateId, Step, Timestamp, WorkerId,
};
use serde::{Deserialize, Serialize};

use crate::{Exit, Resume, Submission};

/// The event of steps that were never reported.
pub(crate) const EVIDENCE_GAP: &str = "evidence_gap";
/// Its detail: how many steps.
pub(crate) const GAP_STEPS: &str = "steps";

/// A change of durable state. Journaled and fsynced before any command it comes with is run; replay applies records alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// For people; nothing is decided by it.
    pub at: Timestamp,
    /// The job's newest generation when this was recorded. For people.
    #[serde(default)]
    pub generation: Generation,
    /// The job's newest committed step when this was recorded. For people.
    #[serde(default)]
    pub step: Step,
    /// What changed.
    pub kind: RecordKind,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RecordKind {
    /// A job exists.
    JobSubmitted(Box<Submission>),
    /// A job's lifecycle moved.
    JobState {
        /// The job.
        job: JobId,
        /// Where it is now.
        state: JobState,
        /// Why, in words.
        reason: String,
    },
    /// Someone asked for the job to be stopped. Taking the job up again ends it.
    StopRequested {
        /// The job.
        job: JobId,
        /// How long its workers may take to save and leave.
        grace_seconds: u32,
    },
    /// The job gives its slots back and waits again: its workers save and leave, and it goes on when its turn comes.
    JobPreempted {
        /// The job.
        job: JobId,
        /// Who takes its slots; absent where the nodes that they are on are drained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<JobId>,
        /// How long its workers may take to save and leave.
        grace_seconds: u32,
        /// Why, in words.
        reason: String,
    },
    /// A preempted job's workers are out: it waits for slots again.
    JobRequeued {
        /// The job.
        job: JobId,
        /// Why, in words.
        reason: String,
    },
    /// A data-order segment begins.
    SegmentOpened {
        /// The job.
        job: JobId,
        /// The stretch of its data order.
        segment: Segment,
    },
    /// A step looked wrong, and its samples are not trained on: it takes those after them. The segment that says so comes with
    /// this.
    BatchSkipped {
        /// The job.
        job: JobId,
        /// Committed steps: the one after it looked wrong.
        step: Step,
        /// The first position that is not trained on.
        from: Position,
        /// The position after the last.
        to: Position,
        /// The state of the checkpoint that the job goes back to; absent where it goes on from `step`.
        back_to: Option<StateId>,
        /// Why, in words.
        reason: String,
        /// The measurements.
        details: BTreeMap<String, serde_json::Value>,
    },
    /// A worker of a job belongs on a slot: it is to be started there.
    WorkerPlaced {
        /// The job.
        job: JobId,
        /// The worker; its id is never used again.
        worker: WorkerId,
        /// The slot's node.
        node: NodeName,
        /// The slot's index on the node.
        slot: u32,
        /// What the slot is: `cpu` or `cuda:INDEX`.
        #[serde(default)]
        device: String,
        /// CPU threads for the worker.
        #[serde(default)]
        threads: u32,
        /// Why, in words.
        reason: String,
    },
    /// A worker is out of the job for good; its slot is free once its process has ended.
    WorkerExpelled {
        /// The job.
        job: JobId,
        /// The worker.
        worker: WorkerId,
        /// Why, in words.
        reason: String,
    },
    /// A worker's slot is given back: the job goes on without it, and it leaves in good order.
    WorkerReleased {
        /// The job.
        job: JobId,
        /// The worker.
        worker: WorkerId,
        /// Why, in words.
        reason: String,
    },
    /// A worker's process has ended: its slot is empty.
    WorkerGone {
        /// The job.
        job: JobId,
        /// The worker.
        worker: WorkerId,
        /// How it ended, in words.
        reason: String,
        /// How it ended, where its agent has seen it.
        #[serde(default)]
        exit: Option<Exit>,
    },
    /// A generation is being agreed on; the one before is over.
    GenerationOpened {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Who may become a member, in the order of the ranks to be.
        candidates: Vec<WorkerId>,
        /// What made it necessary.
        #[serde(default)]
        cause: OpenCause,
        /// Why, in words.
        reason: String,
    },
    /// A generation is agreed: members in rank order.
    GenerationFormed {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Its members, in rank order.
        members: Vec<WorkerId>,
        /// The state that it starts from.
        resume: Resume,
    },
    /// The members of the generation that was just formed compute under other numerics than those before.
    NumericsSeen {
        /// The job.
        job: JobId,
        /// Theirs, in order, each once.
        fingerprints: Vec<String>,
        /// Those before; empty at first.
        before: Vec<String>,
    },
    /// A checkpoint is complete and verified.
    CheckpointCommitted {
        /// The job.
        job: JobId,
        /// Its state.
        state: StateId,
        /// Its directory.
        uri: String,
        /// Tokens trained on up to it.
        tokens_seen: u64,
        /// Bytes of all its parts.
        total_bytes: u64,
    },
    /// A checkpoint turned out not to read back; it is never loaded again.
    CheckpointCondemned {
        /// The job.
        job: JobId,
        /// Its state.
        state: StateId,
        /// What was wrong with it.
        reason: String,
    },
    /// A checkpoint was removed, by retention.
    CheckpointDeleted {
        /// The job.
        job: JobId,
        /// Its state.
        state: StateId,
    },
    /// How far the committed history is known to have come: every few seconds, at each generation change and for each
    /// checkpoint.
    Watermark {
        /// The job.
        job: JobId,
        /// A state on the line.
        state: StateId,
        /// Tokens trained on up to it.
        tokens_seen: u64,
        /// Wrapping sum of the evidence of all samples fed up to it.
        evidence: u64,
        /// How many samples that was.
        samples: u64,
    },
    /// The held-out loss of a committed state.
    Evaluated {
        /// The job.
        job: JobId,
        /// The state.
        state: StateId,
        /// Mean loss per token, nats; absent where it was not finite.
        validation_loss: Option<f64>,
        /// Over so many tokens.
        tokens: u64,
    },
    /// Nothing new is placed on a node, or on one of its slots; where the node is drained, what runs there is to leave.
    NodeCordoned {
        /// The node.
        node: NodeName,
        /// The slot; absent where it is the whole node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
        /// Why, in words.
        reason: String,
        /// It was concluded from failures, so it gives way to a job that has no other place to go.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        judged: bool,
        /// What runs there is to leave.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drain: bool,
    },
    /// The node may be used again, with all its slots.
    NodeUncordoned {
        /// The node.
        node: NodeName,
    },
    /// Something for people to know that changes no state.
    Noted {
        /// The job.
        job: JobId,
        /// The event's kind.
        event: String,
        /// The generation that it concerns.
        generation: Generation,
        /// The step that it concerns.
        step: Step,
        /// In words.
        reason: String,
        /// What else the kind needs.
        details: BTreeMap<String, serde_json::Value>,
    },
}

impl RecordKind {
    /// The job that the record belongs to; `None` for one about a node.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::NodeCordoned { .. } | Self::NodeUncordoned { .. } => None,
            Self::JobSubmitted(submission) => Some(submission.job),
            Self::JobState { job, .. }
            | Self::StopRequested { job, .. }
            | Self::JobPreempted { job, .. }
            | Self::JobRequeued { job, .. }
            | Self::SegmentOpened { job, .. }
            | Self::BatchSkipped { job, .. }
            | Self::WorkerPlaced { job, .. }
            | Self::WorkerExpelled { job, .. }
            | Self::WorkerReleased { job, .. }
            | Self::WorkerGone { job, .. }
            | Self::GenerationOpened { job, .. }
            | Self::GenerationFormed { job, .. }
            | Self::NumericsSeen { job, .. }
            | Self::CheckpointCommitted { job, .. }
            | Self::CheckpointCondemned { job, .. }
            | Self::CheckpointDeleted { job, .. }
            | Self::Watermark { job, .. }
            | Self::Evaluated { job, .. }
            | Self::Noted { job, .. } => Some(*job),
        }
    }

    /// The state up to which, and the number of steps of which the watermark there lacks the evidence, if that is what was noted.
    pub fn evidence_gap(&self) -> Option<(StateId, u64)> {
        match self {
            Self::Noted {
                event,
                generation,
                step,
                details,
                ..
            } if event == EVIDENCE_GAP => {
                let steps = details.get(GAP_STEPS)?.as_u64()?;
                Some((StateId::new(*generation, *step), steps))
            }
            _ => None,
        }
    }
}

/// What made a new generation necessary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenCause {
    /// Workers have come together: the first generation, or the first since the job was taken up.
    #[default]
    Gathered,
    /// A worker was lost, or a generation failed.
    Lost,
    /// All members left at a boundary to take newcomers along.
    Grown,
    /// All members left at a boundary, and some of them give their slots back.
    Shrunk,
    /// A step looked wrong: all members go on with other samples, or from an older state.
    Skipped,
}

/// A job's lifecycle, as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for slots.
    Pending,
    /// Workers start, get warm, or agree on a generation.
    Rendezvous,
    /// A generation is formed and its state is being built or healed.
    Restoring,
    /// Steps are committed.
    Training,
    /// Saves and leaves.
    Draining,
    /// All steps are done.
    Finished,
    /// Gave up, with its evidence.
    Failed,
    /// Stopped or cancelled on request; can be resumed.
    Stopped,
}

impl JobState {
    /// The word for it, as every interface shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Rendezvous => "rendezvous",
            Self::Restoring => "restoring",
            Self::Training => "training",
            Self::Draining => "draining",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether nothing happens to the job any more unless someone takes it up again.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Stopped)
    }
}
