use muster_spec::RunSpec;
use muster_types::{Digest, Generation, JobId, NodeName, Rank, StateId, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// What has happened in the world. The shells turn messages, exits and clocks into these.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A client submitted a job whose spec and dataset were validated.
    Submitted(Submission),
    /// A client asked to stop a job.
    StopRequested { job: JobId, grace_seconds: u32 },
    /// A client asked to take a stopped or failed job up again.
    ResumeRequested { job: JobId },
    /// An agent said hello.
    AgentConnected(AgentHello),
    /// An agent's stream broke. Its workers are not known to be dead.
    AgentDisconnected { node: NodeName },
    /// An agent has started a worker.
    WorkerStarted { worker: WorkerId, pid: u32 },
    /// An agent has seen a worker's process end (or failed to start it): its slot is empty.
    WorkerExited { worker: WorkerId, exit: Exit },
    /// A message of a worker's control thread.
    Worker {
        job: JobId,
        worker: WorkerId,
        generation: Generation,
        message: WorkerMessage,
    },
    /// A worker's control stream broke.
    WorkerDisconnected { worker: WorkerId },
    /// The shell has written (or failed to write) a manifest that it was commanded to write.
    ManifestDone {
        job: JobId,
        state: StateId,
        result: Result<String, String>,
    },
    /// The shell has deleted a checkpoint.
    CheckpointDeleted { job: JobId, state: StateId },
    /// Time has passed.
    Tick,
}

/// A validated submit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The job's id; a second submit of the same id changes nothing.
    pub job: JobId,
    /// The resolved spec.
    pub spec: RunSpec,
    /// blake3 of the dataset's index.
    pub dataset_digest: Digest,
    /// Training sequences of the dataset (an epoch).
    pub dataset_samples: u64,
    /// Where the job's checkpoints lie.
    pub checkpoint_root: String,
}

/// What an agent offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The node's name.
    pub node: NodeName,
    /// Where other nodes reach this one's workers.
    pub advertise: String,
    /// Its slots, by index.
    pub slots: Vec<SlotOffer>,
    /// What runs there now: (worker, slot, pid). What is not listed does not run.
    pub running: Vec<(WorkerId, u32, u32)>,
}

/// One slot of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOffer {
    /// Index on the node.
    pub index: u32,
    /// `cpu` or `cuda:INDEX`.
    pub device: String,
    /// CPU threads for a worker here.
    pub threads: u32,
}

/// How a worker's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status; absent where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it could not be started; empty where it was.
    pub start_error: String,
    /// The last lines of its stderr.
    pub stderr_tail: String,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// First on every stream.
    Attach {
        pid: u32,
        collective_address: String,
        holdings: Option<StateId>,
        warm: bool,
        numerics_fingerprint: String,
    },
    /// Ready to be a candidate.
    Warm { numerics_fingerprint: String },
    /// No commit happens in `superseded` any more.
    Fenced {
        superseded: Generation,
        holdings: Option<StateId>,
    },
    /// Built, healed, agreed.
    Ready {
        state_hash: u64,
        heal_ms: u32,
        healed_bytes: u64,
        healed_from: String,
    },
    /// Committed steps, oldest first.
    Report { steps: Vec<StepMetrics> },
    /// This rank cannot go on in this generation.
    Failed {
        cause: String,
        class: String,
        phase: String,
        step: Step,
    },
    /// Left at an agreed step boundary, with this state.
    AtBoundary { state: StateId },
    /// A part of a checkpoint is durable.
    PartWritten(Part),
    /// A part could not be written.
    PartFailed {
        state: StateId,
        rank: Rank,
        cause: String,
    },
    /// A checkpoint could not be read.
    Unreadable {
        state: StateId,
        uri: String,
        cause: String,
        corrupt: bool,
    },
    /// Gone in good order.
    Left { reason: String, step: Step },
    /// What it is doing.
    Phase { phase: String, step: Step },
    /// The held-out loss at a step.
    Evaluated {
        step: Step,
        validation_loss: f64,
        tokens: u64,
    },
}

/// What one committed step brought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The state reached.
    pub step: Step,
    /// Mean loss per token, nats.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global L2 norm before clipping.
    pub gradient_norm: f64,
    /// Tokens whose loss was counted.
    pub tokens: u64,
    /// Duration on the reporting rank.
    pub step_ms: f64,
    /// Wrapping sum of hash(position, tokens) over the samples that were fed.
    pub evidence: u64,
    /// How many samples that was.
    pub samples: u64,
}

/// A durable part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Of which state.
    pub state: StateId,
    /// Written by.
    pub rank: Rank,
    /// Parts in all.
    pub world_size: u32,
    /// What the manifest will say of it.
    pub file: muster_checkpoint::FileEntry,
}
