use std::sync::Arc;

use muster_checkpoint::FileEntry;
use muster_types::{
    BatchSlots, Generation, JobId, NodeName, Rank, Segment, StateId, Step, WorkerId,
};
use serde::{Deserialize, Serialize};

/// What the shells are to do. Every command is idempotent: a restart issues it again.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a worker's process on a slot.
    StartWorker {
        /// The slot's node.
        node: NodeName,
        /// The slot's index on the node.
        slot: u32,
        /// The job.
        job: JobId,
        /// The worker's id, never used before.
        worker: WorkerId,
        /// What the slot is: `cpu` or `cuda:INDEX`.
        device: String,
        /// CPU threads for it.
        threads: u32,
    },
    /// End a worker's process, at once.
    KillWorker {
        /// Where it runs.
        node: NodeName,
        /// The worker.
        worker: WorkerId,
        /// Why, in words.
        reason: String,
    },
    /// Say something to a worker.
    Tell {
        /// To whom.
        worker: WorkerId,
        /// Its job.
        job: JobId,
        /// The generation that the order is about.
        generation: Generation,
        /// What is said.
        order: Order,
    },
    /// The generation is over: its store's waits end with an error.
    CloseStore {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
    },
    /// The generation may use its store.
    OpenStore {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
    },
    /// All parts are durable: write the manifest if there is none, then report `ManifestDone`.
    WriteManifest {
        /// The job.
        job: JobId,
        /// The state that the parts make up.
        state: StateId,
        /// The parts, by rank.
        parts: Vec<FileEntry>,
        /// Tokens trained on up to the state.
        tokens_seen: u64,
    },
    /// Remove a checkpoint's directory, manifest first, then report `CheckpointDeleted`.
    DeleteCheckpoint {
        /// The job.
        job: JobId,
        /// Its state.
        state: StateId,
        /// Its directory.
        uri: String,
    },
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// The answer to an attach: the job's resolved spec and where its checkpoints lie.
    Welcome {
        /// The resolved run spec.
        spec_json: String,
        /// Below which the job's checkpoints lie.
        checkpoint_root: String,
    },
    /// No commit in `superseded` from now on; answer `Fenced`.
    Supersede {
        /// The generation that is over.
        superseded: Generation,
        /// Why, in words.
        reason: String,
    },
    /// The next generation, for this worker.
    Form(Box<Form>),
    /// Raise the flag in the next control all-reduce: all leave together at a boundary.
    Reconfigure {
        /// Why, in words.
        reason: String,
    },
    /// Save a checkpoint at the next boundary.
    SaveNow,
    /// At the next boundary (or at once where no training goes on): save if asked, leave, exit 0.
    Leave {
        /// Whether a checkpoint is to be saved first.
        save: bool,
        /// Why, in words.
        reason: String,
    },
    /// You are not part of this job any more: exit.
    Expelled {
        /// Why, in words.
        reason: String,
    },
    /// Nothing moves: say what you are at.
    Probe {
        /// To be said in the answer.
        number: u64,
    },
    /// All wait for each other: try to connect to some of them.
    Reach {
        /// To be said in the answer.
        number: u64,
        /// Who, and where.
        peers: Vec<(WorkerId, Arc<str>)>,
    },
    /// The part is on record.
    PartAcknowledged {
        /// The part's state.
        state: StateId,
    },
}

/// One member's view of a generation that is formed. What is the same for all members is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// This worker's rank.
    pub rank: Rank,
    /// All members in rank order, with the addresses their peers reach them at.
    pub members: Arc<[(WorkerId, Arc<str>)]>,
    /// The state to go on from.
    pub resume: Arc<Resume>,
    /// Who trains which slots of the batch.
    pub assignment: Arc<[BatchSlots]>,
    /// The job's data order so far.
    pub segments: Arc<[Segment]>,
    /// The step after so many committed ones may be a spike: it has been skipped often enough.
    pub accept_spike_after: Option<Step>,
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
    Live {
        /// The ranks; the first one sends.
        ranks: Vec<Rank>,
    },
    /// Read from this checkpoint.
    Checkpoint {
        /// Its directory.
        uri: String,
    },
}
