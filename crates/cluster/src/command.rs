use muster_checkpoint::FileEntry;
use muster_types::{BatchSlots, Generation, JobId, NodeName, Rank, Segment, StateId, WorkerId};
use serde::{Deserialize, Serialize};

/// What the shells are to do. Every command is idempotent: a restart issues it again.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a worker's process on a slot.
    StartWorker {
        node: NodeName,
        slot: u32,
        job: JobId,
        worker: WorkerId,
        device: String,
        threads: u32,
    },
    /// End a worker's process, at once.
    KillWorker {
        node: NodeName,
        worker: WorkerId,
        reason: String,
    },
    /// Say something to a worker.
    Tell {
        worker: WorkerId,
        job: JobId,
        generation: Generation,
        order: Order,
    },
    /// The generation is over: its store's waits end with an error.
    CloseStore { job: JobId, generation: Generation },
    /// The generation may use its store.
    OpenStore { job: JobId, generation: Generation },
    /// All parts are durable: write the manifest if there is none, then report `ManifestDone`.
    WriteManifest {
        job: JobId,
        state: StateId,
        parts: Vec<FileEntry>,
        tokens_seen: u64,
    },
    /// Remove a checkpoint's directory, manifest first.
    DeleteCheckpoint {
        job: JobId,
        state: StateId,
        uri: String,
    },
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// The answer to an attach: the job's resolved spec and where its checkpoints lie.
    Welcome {
        spec_json: String,
        checkpoint_root: String,
    },
    /// No commit in `superseded` from now on; answer `Fenced`.
    Supersede {
        superseded: Generation,
        reason: String,
    },
    /// The next generation, for this worker.
    Form(Box<Form>),
    /// Raise the flag in the next control all-reduce: all leave together at a boundary.
    Reconfigure { reason: String },
    /// Save a checkpoint at the next boundary.
    SaveNow,
    /// At the next boundary (or at once where no training goes on): save if asked, leave, exit 0.
    Leave { save: bool, reason: String },
    /// You are not part of this job any more: exit.
    Expelled { reason: String },
    /// The part is on record.
    PartAcknowledged { state: StateId },
}

/// One member's view of a generation that is formed.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// This worker's rank.
    pub rank: Rank,
    /// All members in rank order, with the addresses their peers reach them at.
    pub members: Vec<(WorkerId, String)>,
    /// The state to go on from.
    pub resume: Resume,
    /// Who trains which slots of the batch.
    pub assignment: Vec<BatchSlots>,
    /// The job's data order so far.
    pub segments: Vec<Segment>,
}

/// Where a generation starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// The state's name.
    pub state: StateId,
    /// Where it comes from.
    pub source: ResumeSource,
}

/// Where a state comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ResumeSource {
    /// Made from the seed: only where the journal never committed a checkpoint.
    Initialise,
    /// Held by these ranks of the new generation.
    Live { ranks: Vec<Rank> },
    /// Read from this checkpoint.
    Checkpoint { uri: String },
}
