use std::collections::BTreeMap;

use muster_types::{Generation, JobId, NodeName, Segment, StateId, Step, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{Resume, Submission};

/// A change of durable state. Journaled and fsynced before any command it comes with is run; replay applies records alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// For people; nothing is decided by it.
    pub at: Timestamp,
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
        job: JobId,
        state: JobState,
        reason: String,
    },
    /// A data-order segment begins.
    SegmentOpened { job: JobId, segment: Segment },
    /// A worker of a job belongs on a slot: it is to be started there.
    WorkerPlaced {
        job: JobId,
        worker: WorkerId,
        node: NodeName,
        slot: u32,
        reason: String,
    },
    /// A worker is out of the job for good; its slot is free once its process has ended.
    WorkerExpelled {
        job: JobId,
        worker: WorkerId,
        reason: String,
    },
    /// A worker's process has ended: its slot is empty.
    WorkerGone {
        job: JobId,
        worker: WorkerId,
        reason: String,
    },
    /// A generation is being agreed on; the one before is over.
    GenerationOpened {
        job: JobId,
        generation: Generation,
        candidates: Vec<WorkerId>,
        reason: String,
    },
    /// A generation is agreed: members in rank order.
    GenerationFormed {
        job: JobId,
        generation: Generation,
        members: Vec<WorkerId>,
        resume: Resume,
    },
    /// A checkpoint is complete and verified.
    CheckpointCommitted {
        job: JobId,
        state: StateId,
        uri: String,
        tokens_seen: u64,
        total_bytes: u64,
    },
    /// A checkpoint turned out not to read back; it is never loaded again.
    CheckpointCondemned {
        job: JobId,
        state: StateId,
        reason: String,
    },
    /// A checkpoint was removed, by retention.
    CheckpointDeleted { job: JobId, state: StateId },
    /// How far the committed history is known to have come. Every few seconds and at each generation change.
    Watermark {
        job: JobId,
        state: StateId,
        tokens_seen: u64,
        evidence: u64,
        samples: u64,
    },
    /// Something for people to know that changes no state.
    Noted {
        job: JobId,
        event: String,
        generation: Generation,
        step: Step,
        reason: String,
        details: BTreeMap<String, serde_json::Value>,
    },
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
    /// Stopped on request; can be resumed.
    Stopped,
}
