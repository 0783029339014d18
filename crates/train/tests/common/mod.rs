//! A small run that trains in milliseconds.
// Each test binary uses its own share of this.
#![allow(clippy::unwrap_used, dead_code)]

use muster_arch::ModelConfig;
use muster_checkpoint::{FORMAT_VERSION, FileEntry, Manifest};
use muster_spec::{OptimizerSpec, RunSpec, ScheduleSpec, TrainSpec};
use muster_train::{SlotLoss, SlotOrder, Trainer, Update, numerics};
use muster_types::{Generation, JobId, StateId, Step};
use tch::Device;

/// Tokens of a sequence.
pub const CONTEXT: usize = 12;

/// Two layers, 8 sequences a step in slots of 2.
pub fn spec() -> RunSpec {
    RunSpec {
        model: ModelConfig {
            layers: 2,
            heads: 2,
            hidden_size: 32,
            context_length: CONTEXT as u32,
            vocab_size: 48,
            ..ModelConfig::default()
        },
        train: TrainSpec {
            steps: 40,
            global_batch: 8,
            micro_batch: 2,
            ..TrainSpec::default()
        },
        optimizer: OptimizerSpec {
            learning_rate: 1e-2,
            ..OptimizerSpec::default()
        },
        schedule: ScheduleSpec {
            warmup_steps: 5,
            ..ScheduleSpec::default()
        },
        ..RunSpec::default()
    }
}

/// A trainer with deterministic kernels.
pub fn trainer(spec: &RunSpec) -> Trainer {
    numerics::configure(Device::Cpu, 1).unwrap();
    Trainer::new(spec, Device::Cpu).unwrap()
}

/// Sequences `first ..` of a text that repeats every 37 tokens.
pub fn sequences(first: usize, count: usize) -> Vec<i64> {
    let token = |place: usize| (place * place % 37) as i64;
    (first..first + count)
        .flat_map(|sequence| (0..=CONTEXT).map(move |i| token(sequence * CONTEXT + i)))
        .collect()
}

/// One step on `count` sequences from `first`, `micro` at a time.
pub fn step(
    trainer: &mut Trainer,
    step: u64,
    first: usize,
    count: usize,
    micro: usize,
) -> (SlotLoss, Update) {
    trainer.begin_step().unwrap();
    let slots = count / micro;
    let mut loss = SlotLoss::default();
    for slot in 0..slots {
        let batch = trainer
            .batch(&sequences(first + slot * micro, micro))
            .unwrap();
        let order = if slot + 1 == slots {
            SlotOrder::Last
        } else {
            SlotOrder::More
        };
        loss += trainer
            .forward_backward(&batch, Step(step), slot as u32, order, None)
            .unwrap();
    }
    let mean = loss.mean().unwrap();
    (loss, trainer.apply(Step(step), loss.tokens, mean).unwrap())
}

/// A manifest over these shards.
pub fn manifest(files: Vec<FileEntry>) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        job: JobId::new(uuid::Uuid::nil()),
        state: StateId::new(Generation(1), Step(3)),
        tokens_seen: 0,
        spec: serde_json::Value::Null,
        segments: vec![],
        numerics_fingerprint: String::new(),
        files,
        extra_files: vec![],
    }
}
