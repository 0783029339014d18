use std::time::Duration;

use muster_spec::RunSpec;
use muster_types::{Digest, Generation, JobId, NodeName, Rank, StateId, Step, WorkerId};
use serde::{Deserialize, Serialize};

/// What has happened in the world. The shells turn messages, exits and clocks into these.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A client submitted a job whose spec and dataset were validated.
    Submitted(Box<Submission>),
    /// A client asked to stop a job.
    StopRequested {
        /// The job.
        job: JobId,
        /// How long its workers may take to save and leave; 0: as the spec says.
        grace_seconds: u32,
    },
    /// A client asked to end a job at once, without a checkpoint of where it stands.
    CancelRequested {
        /// The job.
        job: JobId,
        /// Why, in words; may be empty.
        reason: String,
    },
    /// A client asked to take a stopped or failed job up again.
    ResumeRequested {
        /// The job.
        job: JobId,
    },
    /// Someone asked that nothing new is placed on a node.
    CordonRequested {
        /// The node.
        node: NodeName,
        /// Why, in words; may be empty.
        reason: String,
    },
    /// Someone asked that a node is emptied: nothing new is placed there, and what runs there moves or saves.
    DrainRequested {
        /// The node.
        node: NodeName,
        /// Why, in words; may be empty.
        reason: String,
    },
    /// Someone asked that a node is used again.
    UncordonRequested {
        /// The node.
        node: NodeName,
    },
    /// An agent has checked its machine, and no worker could run there.
    NodeUnfit {
        /// The node.
        node: NodeName,
        /// What it lacks, in words.
        reason: String,
    },
    /// An agent said hello.
    AgentConnected(AgentHello),
    /// An agent is about to end, and its workers with it.
    AgentLeaving {
        /// The node.
        node: NodeName,
        /// How long it waits for its workers to leave in good order, in seconds.
        grace_seconds: u32,
    },
    /// An agent's stream broke. Its workers are not known to be dead.
    AgentDisconnected {
        /// The node.
        node: NodeName,
    },
    /// An agent has started a worker.
    WorkerStarted {
        /// The worker.
        worker: WorkerId,
        /// Process id on its node.
        pid: u32,
    },
    /// An agent has seen a worker's process end (or failed to start it): its slot is empty.
    WorkerExited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// A message of a worker's control thread.
    Worker {
        /// The job.
        job: JobId,
        /// The worker.
        worker: WorkerId,
        /// The generation that the sender is in; 0: none.
        generation: Generation,
        /// What it says.
        message: WorkerMessage,
    },
    /// A worker's control stream broke.
    WorkerDisconnected {
        /// The worker.
        worker: WorkerId,
    },
    /// The shell has written (or failed to write) a manifest that it was commanded to write.
    ManifestDone {
        /// The job.
        job: JobId,
        /// The state.
        state: StateId,
        /// The checkpoint's directory, or why there is no manifest.
        result: Result<String, String>,
    },
    /// The shell has deleted a checkpoint.
    CheckpointDeleted {
        /// The job.
        job: JobId,
        /// The state.
        state: StateId,
    },
    /// Time has passed.
    Tick,
}

impl Event {
    /// Whether it is the word of one worker, or of its agent about it. Of such events, many may be taken in before the rules
    /// are followed.
    pub fn is_of_one_worker(&self) -> bool {
        matches!(
            self,
            Self::Worker { .. }
                | Self::WorkerStarted { .. }
                | Self::WorkerExited { .. }
                | Self::WorkerDisconnected { .. }
        )
    }

    /// Whether slots may be free or wanted that were not before.
    pub(crate) fn frees_slots(&self) -> bool {
        matches!(
            self,
            Self::AgentConnected(_)
                | Self::AgentLeaving { .. }
                | Self::AgentDisconnected { .. }
                | Self::WorkerExited { .. }
                | Self::ManifestDone { .. }
                | Self::Tick
                | Self::Submitted(_)
        )
    }
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
    /// It is about to end, and waits so many seconds for its workers to leave in good order; `None` where it stays.
    pub leaving_seconds: Option<u32>,
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
        /// Process id on its node.
        pid: u32,
        /// Where peers reach it for collectives.
        collective_address: String,
        /// The valid state in hand, if any.
        holdings: Option<StateId>,
        /// Whether it is ready to be a candidate.
        warm: bool,
        /// Under which numerics it computes.
        numerics_fingerprint: String,
        /// Where peers see whether they reach it; empty where it cannot say.
        reach_address: String,
    },
    /// Ready to be a candidate.
    Warm {
        /// Under which numerics it computes.
        numerics_fingerprint: String,
        /// Where peers see whether they reach it; empty where it cannot say.
        reach_address: String,
    },
    /// No commit happens in `superseded` any more.
    Fenced {
        /// The generation that is over for it.
        superseded: Generation,
        /// The valid state in hand, if any.
        holdings: Option<StateId>,
    },
    /// Built, healed, agreed.
    Ready {
        /// Over parameters and optimizer state, equal on all ranks.
        state_hash: u64,
        /// How long the heal took.
        heal_ms: u32,
        /// Bytes that were overwritten.
        healed_bytes: u64,
        /// `live`, `checkpoint`, `init`, or `none` where it held the state already.
        healed_from: String,
    },
    /// Committed steps, oldest first.
    Report {
        /// One entry a step.
        steps: Vec<StepMetrics>,
    },
    /// This rank cannot go on in this generation.
    Failed {
        /// What went wrong, in words.
        cause: String,
        /// `collective`, `data`, `memory`, `divergence`, `state` or `other`.
        class: String,
        /// What it was doing.
        phase: String,
        /// Its newest committed step.
        step: Step,
    },
    /// Left at an agreed step boundary, with this state.
    AtBoundary {
        /// The state.
        state: StateId,
    },
    /// A part of a checkpoint is durable.
    PartWritten(Part),
    /// A part could not be written.
    PartFailed {
        /// The state.
        state: StateId,
        /// The writer's rank.
        rank: Rank,
        /// What went wrong, in words.
        cause: String,
    },
    /// A checkpoint could not be read.
    Unreadable {
        /// The state.
        state: StateId,
        /// Its directory.
        uri: String,
        /// What went wrong, in words.
        cause: String,
        /// Whether the content is wrong, and not merely out of reach.
        corrupt: bool,
    },
    /// Gone in good order.
    Left {
        /// In words.
        reason: String,
        /// Its newest committed step.
        step: Step,
    },
    /// What it is doing.
    Phase {
        /// What it was doing.
        phase: String,
        /// Its newest committed step.
        step: Step,
    },
    /// The held-out loss at a step.
    Evaluated {
        /// Its newest committed step.
        step: Step,
        /// Mean loss per token, nats.
        validation_loss: f64,
        /// Over so many tokens.
        tokens: u64,
    },
    /// The control thread's answer to a probe.
    ProbeAnswer(ProbeAnswer),
    /// It has tried to connect to some of its peers.
    Reached {
        /// The number of the question.
        number: u64,
        /// Where that was in vain.
        unreachable: Vec<WorkerId>,
    },
    /// A step looks wrong, to all ranks alike.
    Tripped(Trip),
    /// The ranks' states were compared between two steps, and differ.
    Diverged {
        /// Committed steps.
        step: Step,
        /// This rank's hash of its state.
        state_hash: u64,
    },
}

/// A step that looks wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// Committed steps: the one after it is the one.
    pub step: Step,
    /// Its loss or gradient is not finite; else it is a spike.
    pub not_finite: bool,
    /// Mean loss per token, nats; NaN where it is not finite.
    pub loss: f64,
    /// Global L2 norm of the mean gradient, before clipping.
    pub gradient_norm: f64,
    /// Robust z-score of the loss among the steps before.
    pub loss_score: f64,
    /// Robust z-score of the norm's logarithm.
    pub norm_score: f64,
    /// It was not applied, and the ranks wait for the generation that goes on from there.
    pub held: bool,
}

/// What a training thread is doing, as its control thread sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The probe's number.
    pub number: u64,
    /// What it is at.
    pub activity: Activity,
    /// For how long it has given no sign of life.
    pub quiet: Duration,
    /// The longest that it was lately quiet in this activity; zero where it has not been in it yet.
    pub usual: Duration,
}

/// What a training thread can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Waits for orders.
    Idle,
    /// Gets warm.
    Loading,
    /// Builds a generation's group.
    Building,
    /// Reads a checkpoint.
    Restoring,
    /// Reads samples.
    Reading,
    /// Forward and backward passes, updates, hashes.
    Computing,
    /// In a collective.
    Reducing,
    /// Copies its state for a checkpoint, or waits for the one before to be written.
    Saving,
}

impl Activity {
    /// Whether it goes on only when the peers do.
    pub fn waits_for_peers(self) -> bool {
        matches!(self, Self::Building | Self::Reducing)
    }

    /// For events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Loading => "loading",
            Self::Building => "building",
            Self::Restoring => "restoring",
            Self::Reading => "reading",
            Self::Computing => "computing",
            Self::Reducing => "reducing",
            Self::Saving => "saving",
        }
    }

    /// As it goes on after "it".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Idle => "waits for orders",
            Self::Loading => "gets warm",
            Self::Building => "builds the group",
            Self::Restoring => "reads a checkpoint",
            Self::Reading => "reads samples",
            Self::Computing => "computes",
            Self::Reducing => "waits in a collective",
            Self::Saving => "copies its state for a checkpoint",
        }
    }
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
    /// Work of the reporting rank's own for each slot of the batch that it trained, without what it waited for others; zero where that
    /// is not known, as on a GPU.
    #[serde(default)]
    pub slot_ms: f64,
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
