use muster_arch::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The configuration of one training run.
///
/// Every key has a default, except `data.path`. Relative paths in `data.path` and `checkpoint.uri` are relative to the
/// directory that a command is run in, not to the file; `muster` makes them absolute before it submits a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// A name for people; it becomes part of directory names.
    pub name: String,
    /// What is trained.
    pub model: ModelConfig,
    /// What its weights are before the first step.
    pub init: InitSpec,
    /// What it is trained on.
    pub data: DataSpec,
    /// How long and how.
    pub train: TrainSpec,
    /// How gradients become updates.
    pub optimizer: OptimizerSpec,
    /// The learning rate over time.
    pub schedule: ScheduleSpec,
    /// Held-out loss.
    pub evaluation: EvaluationSpec,
    /// How many workers, on what.
    pub workers: WorkersSpec,
    /// What is saved, where and when.
    pub checkpoint: CheckpointSpec,
    /// How the job waits for slots, and how it gives way.
    pub queue: QueueSpec,
    /// How workers reach each other.
    pub network: NetworkSpec,
    /// What is done about steps that look wrong, and replicas that differ.
    pub guard: GuardSpec,
}

/// What a model's weights are before the first step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InitSpec {
    /// A checkpoint, readable on every node, whose weights training starts from, at step 0 and with a fresh optimizer. Empty:
    /// weights are drawn from `train.seed`. `muster` takes a job's or a run's directory, too, and puts its newest checkpoint here.
    pub from: String,
}

/// What a run is trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataSpec {
    /// Directory made by `muster data prepare`, readable on every node.
    pub path: String,
}

/// Precision of forward and backward. Parameters, moments and reductions are fp32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision throughout.
    #[default]
    Fp32,
    /// bfloat16 autocast.
    Bf16,
}

/// In which order gradients are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// c10d's reducer, overlapped with backward; bit-identical at the same world size.
    Fast,
    /// One fixed tree over the slots of the batch, after backward; bit-identical at every world size, given the same numerics.
    #[default]
    Canonical,
}

/// What a model learns to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Each place's next token.
    #[default]
    Causal,
    /// Tokens that are hidden from it (Devlin et al. 2019 §3.1); for the family "bert".
    Masked,
}

/// How long and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// Optimizer steps, at least 1.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Sequences a step, all workers together; a multiple of `micro_batch`.
    #[schemars(range(min = 1))]
    pub global_batch: u32,
    /// Sequences a forward pass, at least 1.
    #[schemars(range(min = 1))]
    pub micro_batch: u32,
    /// What the model learns to predict.
    pub objective: Objective,
    /// `masked` only: which share of a sequence's tokens is to be predicted, above 0 and below 1. Of these, 80 % are replaced
    /// by the mask token, 10 % by any other, 10 % stay.
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub mask_fraction: f64,
    /// What initialisation, data order, masks and dropout are derived from; at most 2^63 - 1, as TOML's integers.
    #[schemars(range(max = 9223372036854775807_u64))]
    pub seed: u64,
    /// In which order gradients are summed: `canonical` gives the same bits whatever dies, `fast` hides the exchange behind backward.
    pub reduction: Reduction,
    /// Precision of forward and backward.
    pub dtype: Dtype,
}

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Decoupled weight decay (Loshchilov & Hutter 2019).
    #[default]
    Adamw,
}

/// How gradients become updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Peak learning rate, above 0 and at most 10.
    #[schemars(range(max = 10.0), extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// Added to the denominator of the update; above 0.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub epsilon: f64,
    /// Decoupled decay of tensors with two or more dimensions, in [0, 10].
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Largest global L2 norm of the gradient; 0: no clipping.
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
}

/// The shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine from the peak to `min_ratio` of it at the last step.
    #[default]
    Cosine,
    /// A line from the peak to `min_ratio` of it at the last step.
    Linear,
    /// Warm-up, stable, decay: at the peak until the last `decay_steps`, then a line to `min_ratio` of it.
    Wsd,
    /// At the peak throughout.
    Constant,
}

/// The learning rate over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up, from peak/warmup_steps at the first step to the peak at step `warmup_steps`; 0: none.
    /// At most `train.steps`.
    pub warmup_steps: u64,
    /// Learning rate at the end, as a share of the peak, in [0, 1].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_ratio: f64,
    /// `wsd` only: steps of the decay, at least 1 and at most those that warm-up leaves.
    pub decay_steps: u64,
}

/// Held-out loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Every so many steps, and at the end; 0: never.
    pub every_steps: u64,
    /// Sequences of the held-out split, from its beginning; all of them where it has fewer. At least 1.
    #[schemars(range(min = 1))]
    pub sequences: u32,
}

/// What workers run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// GPUs where nodes offer them, else CPU slots.
    #[default]
    Auto,
    /// CPU slots only.
    Cpu,
    /// GPU slots only.
    Cuda,
}

/// How many workers, on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersSpec {
    /// Training waits while there are fewer. At least 1.
    #[schemars(range(min = 1))]
    pub min: u32,
    /// Never more; at least `min`, at most the slots of the batch (`global_batch / micro_batch`).
    #[schemars(range(min = 1))]
    pub max: u32,
    /// Warm standbys beside `max` workers. One takes the place of a lost worker at once. They are placed once the job trains, on
    /// slots that nobody else needs; they count for quotas, and are the first to be given back.
    pub spares: u32,
    /// What they run on.
    pub device: DeviceKind,
    /// CPU threads a worker; 0: what its slot offers.
    pub threads: u32,
    /// How long workers may take to save and leave when the job is stopped.
    pub grace_seconds: u32,
    /// A collective that takes longer than this has failed. At least 1.
    #[schemars(range(min = 1))]
    pub collective_timeout_seconds: u32,
}

/// What is saved, where and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Directory or `file://` URI on storage that every node reaches. Empty: below the run's own directory.
    pub uri: String,
    /// Every so many steps, and at the end; 0: at the end only.
    pub every_steps: u64,
    /// How many of the newest are kept; 0: all.
    pub keep_last: u32,
}

/// How a job waits for slots, and how it gives way to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSpec {
    /// Jobs of higher priority are placed first, and where slots are short they take those of lower ones. It speaks for
    /// the job's `workers.min`: what a job has above that is lent to it, whatever its priority. In [-100, 100].
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// Whose job it is, for quotas. Empty: whoever submits, by the name in their certificate or of their
    /// token; where the coordinator asks for neither, by the login name that `muster submit` puts in. Only an admin submits for
    /// others.
    pub user: String,
    /// How long workers may take to save and leave when their slots are wanted elsewhere; then they are killed, and the
    /// job goes on from its newest checkpoint. At least 1.
    #[schemars(range(min = 1))]
    pub preempt_grace_seconds: u32,
}

/// How workers reach each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// Network interface of every node that collectives use, such as `ib0`. Empty: the one of the address that the node's
    /// agent advertises; NCCL chooses by itself.
    pub interface: String,
}

/// What a job does about a spike of the loss or the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSpike {
    /// It is an event, and training goes on.
    #[default]
    Ignore,
    /// The batch is not trained on: the step takes the samples after it.
    SkipBatch,
    /// The job goes back to its newest checkpoint, and skips all samples from there to the spike.
    Rollback,
}

/// What is done about steps that look wrong, and replicas that differ. A step whose loss or gradient is not finite is
/// never applied: its batch is skipped, whatever `on_spike` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSpec {
    /// What is done about a spike.
    pub on_spike: OnSpike,
    /// From which robust z-score on the loss of a step, or the logarithm of its gradient's norm, is a spike: so many times the
    /// scaled median deviation above the median of the last 64 steps. Above 0.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub threshold: f64,
    /// How often in a row a step may take other samples. Then a spike is accepted, and a job that is not finite fails.
    /// At least 1.
    #[schemars(range(min = 1))]
    pub max_skips: u32,
    /// Every so many steps the ranks compare hashes of their whole state; 0: after each heal only.
    pub compare_every_steps: u64,
}

impl Default for GuardSpec {
    fn default() -> Self {
        Self {
            on_spike: OnSpike::Ignore,
            threshold: 10.0,
            max_skips: 5,
            compare_every_steps: 1000,
        }
    }
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            name: "run".into(),
            model: ModelConfig::default(),
            init: InitSpec::default(),
            data: DataSpec::default(),
            train: TrainSpec::default(),
            optimizer: OptimizerSpec::default(),
            schedule: ScheduleSpec::default(),
            evaluation: EvaluationSpec::default(),
            workers: WorkersSpec::default(),
            checkpoint: CheckpointSpec::default(),
            queue: QueueSpec::default(),
            network: NetworkSpec::default(),
            guard: GuardSpec::default(),
        }
    }
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            steps: 1000,
            global_batch: 16,
            micro_batch: 4,
            objective: Objective::Causal,
            mask_fraction: 0.15,
            seed: 1,
            reduction: Reduction::Canonical,
            dtype: Dtype::Fp32,
        }
    }
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 6e-4,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

impl Default for ScheduleSpec {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            warmup_steps: 0,
            min_ratio: 0.1,
            decay_steps: 0,
        }
    }
}

impl Default for EvaluationSpec {
    fn default() -> Self {
        Self {
            every_steps: 0,
            sequences: 64,
        }
    }
}

impl Default for WorkersSpec {
    fn default() -> Self {
        Self {
            min: 1,
            max: 1,
            spares: 0,
            device: DeviceKind::Auto,
            threads: 0,
            grace_seconds: 60,
            collective_timeout_seconds: 60,
        }
    }
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            uri: String::new(),
            every_steps: 100,
            keep_last: 3,
        }
    }
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self {
            priority: 0,
            user: String::new(),
            preempt_grace_seconds: 60,
        }
    }
}

impl RunSpec {
    /// Micro-batches a step: the slots of the batch, dealt to the ranks. At least 1.
    pub fn batch_slots(&self) -> u32 {
        (self.train.global_batch / self.train.micro_batch.max(1)).max(1)
    }
}
