use muster_spec::{OnSpike, RunSpec};

use super::rng::Rng;
use crate::{ClusterOptions, tests::world::spec};

/// What can go wrong. Each seed has some of these, so that none hides another for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillWorker,
    KillAll,
    LoseNode,
    RestartAgent,
    AgentLeaves,
    CrashCoordinator,
    BreakStream,
    BlockLink,
    BlockPeers,
    Freeze,
    Hang,
    FailOnce,
    StorageDown,
    StorageSlow,
    CorruptCheckpoint,
    JumpWallClock,
    Ask,
}

pub const FAULTS: &[(Fault, u64)] = &[
    (Fault::KillWorker, 10),
    (Fault::KillAll, 2),
    (Fault::LoseNode, 2),
    (Fault::RestartAgent, 4),
    (Fault::AgentLeaves, 3),
    (Fault::CrashCoordinator, 6),
    (Fault::BreakStream, 8),
    (Fault::BlockLink, 6),
    (Fault::BlockPeers, 3),
    (Fault::Freeze, 4),
    (Fault::Hang, 3),
    (Fault::FailOnce, 4),
    (Fault::StorageDown, 3),
    (Fault::StorageSlow, 3),
    (Fault::CorruptCheckpoint, 2),
    (Fault::JumpWallClock, 2),
    (Fault::Ask, 3),
];

/// What a seed makes of a simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: Vec<u32>,
    pub jobs: Vec<JobPlan>,
    pub options: ClusterOptions,
    pub faults: Vec<(Fault, u64)>,
    /// Between two faults, on average, in ms.
    pub fault_every: u64,
    /// How long things go wrong, in ms.
    pub chaos: u64,
    /// Of 100 messages of workers, so many come twice.
    pub duplicates: u64,
    /// Of 100 hops, so many take long.
    pub slow_hops: u64,
    /// Of 100 steps, so many are agreed to at one rank alone.
    pub torn_steps: u64,
    /// Of 100 heals, in so many the source dies.
    pub source_dies: u64,
    /// Of so many batches one is a spike; 0: none.
    pub spikes: u64,
    pub step_ms: u64,
    pub save_ms: u64,
}

#[derive(Clone, Debug)]
pub struct JobPlan {
    pub spec: RunSpec,
    /// When it is submitted, in ms.
    pub at: u64,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = (0..rng.between(1, 3)).map(|_| rng.between(1, 2) as u32);
        let mut nodes: Vec<u32> = nodes.collect();
        if nodes.iter().sum::<u32>() < 2 {
            nodes.push(1);
        }
        let slots: u32 = nodes.iter().sum();
        let jobs = if rng.percent(20) {
            rng.between(2, 3)
        } else {
            1
        };
        let spikes = if rng.percent(15) {
            rng.between(8, 20)
        } else {
            0
        };
        let mut jobs: Vec<_> = (0..jobs)
            .map(|number| job(&mut rng, slots, spikes, number))
            .collect();
        // Drawn apart, so that what the other seeds make stays as it was.
        let mut apart = Rng::new(seed ^ 0x005B_A4E5);
        if apart.percent(25) {
            for job in &mut jobs {
                job.spec.workers.spares = apart.between(1, 2) as u32;
            }
        }
        let mut options = ClusterOptions::default();
        if rng.percent(70) {
            (options.max_failures, options.max_failures_without_advance) = (10_000, 10_000);
        }
        let enabled = rng.between(25, 100);
        let faults = FAULTS.iter().filter(|_| rng.percent(enabled)).copied();
        let mut faults: Vec<_> = faults.collect();
        if faults.is_empty() {
            faults.push(FAULTS[0]);
        }
        Self {
            seed,
            nodes,
            jobs,
            options,
            faults,
            fault_every: *rng.pick(&[700, 1500, 3000, 6000, 12_000]).unwrap_or(&3000),
            chaos: rng.between(15, 90) * 1000,
            duplicates: *rng.pick(&[0, 0, 3, 10]).unwrap_or(&0),
            slow_hops: *rng.pick(&[0, 1, 5]).unwrap_or(&0),
            torn_steps: *rng.pick(&[0, 0, 1, 4]).unwrap_or(&0),
            source_dies: *rng.pick(&[0, 0, 10, 30]).unwrap_or(&0),
            spikes,
            step_ms: *rng.pick(&[60, 200, 600]).unwrap_or(&200),
            save_ms: *rng.pick(&[20, 300, 2000]).unwrap_or(&300),
        }
    }
}

fn job(rng: &mut Rng, slots: u32, spikes: u64, number: u64) -> JobPlan {
    let min = rng.between(1, u64::from(slots.min(3))) as u32;
    let max = rng.between(u64::from(min), 5) as u32;
    let mut spec = spec(rng.between(15, 50), min, max);
    spec.checkpoint.every_steps = rng.between(3, 8);
    spec.checkpoint.keep_last = rng.between(1, 3) as u32;
    spec.queue.priority = rng.between(0, 2) as i32 - 1;
    spec.queue.preempt_grace_seconds = rng.between(3, 30) as u32;
    spec.workers.grace_seconds = rng.between(3, 60) as u32;
    if spikes > 0 {
        spec.guard.on_spike = if rng.percent(50) {
            OnSpike::SkipBatch
        } else {
            OnSpike::Rollback
        };
        spec.guard.max_skips = 2;
    }
    let at = if number == 0 { 0 } else { rng.below(30_000) };
    JobPlan { spec, at }
}
