//! Failures that lie with a worker itself, and where it was then: for the job's evidence, and for a verdict on the place.

use std::time::Duration;

use muster_types::{Monotonic, NodeName, Step, WorkerId};

use crate::{job::Phase, job_turn::JobTurn};

/// More than any verdict needs.
const KEPT_FAULTS: usize = 64;

/// A worker failed by itself: it was neither the victim of another nor told to leave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub node: NodeName,
    pub slot: u32,
    pub at: Monotonic,
    /// The step that it failed at, as a member that trained. Where that happens again, it may be the step's fault.
    pub step: Option<Step>,
    /// A worker on another slot of the node has committed a step since.
    pub node_works: bool,
    /// It was said that the place is suspect, and not cordoned.
    pub told: bool,
    pub cause: String,
}

/// Where a worker was when it failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    pub worker: WorkerId,
    pub node: NodeName,
    pub slot: u32,
    /// As a member of the newest formed generation.
    pub rank: Option<usize>,
    pub phase: String,
    /// The newest committed step.
    pub step: Step,
}

impl Scene {
    /// As it stands in brackets behind what happened.
    pub fn words(&self) -> String {
        match self.rank {
            Some(rank) => format!("rank {rank}, {}, after step {}", self.phase, self.step),
            None => self.phase.clone(),
        }
    }
}

impl JobTurn<'_> {
    /// Where a worker is; `None` for one that is not in the job.
    pub fn scene(&self, worker: &WorkerId) -> Option<Scene> {
        let placement = self.job.workers.get(worker)?;
        let phase = self.volatile.workers.get(worker).map(|view| &view.phase);
        let phase = phase.filter(|phase| !phase.is_empty());
        let is_member = self.job.phase != Phase::Idle;
        let rank = self.job.rank_of(worker).filter(|_| is_member);
        let unsaid = match rank {
            Some(_) if self.is_in_step() => "training",
            Some(_) => "between generations",
            None if self.is_warm(worker) => "waiting",
            None => "starting",
        };
        Some(Scene {
            worker: worker.clone(),
            node: placement.node.clone(),
            slot: placement.slot,
            rank,
            phase: phase.map_or(unsaid, |phase| &**phase).to_owned(),
            step: self.newest_step(),
        })
    }

    /// Takes note of a failure that lies with a worker itself.
    pub fn note_fault(&mut self, scene: Scene, cause: &str) {
        if self.job.is_to_leave() || self.job.is_done() {
            return;
        }
        let (now, window) = (self.now.monotonic, self.options.fault_window);
        let trained = scene.rank.is_some() && self.is_in_step();
        let fault = Fault {
            node: scene.node.clone(),
            slot: scene.slot,
            at: now,
            step: trained.then_some(scene.step),
            node_works: false,
            told: false,
            cause: cause.to_owned(),
        };
        let volatile = self.volatile();
        volatile.strikes.scene = Some(scene);
        volatile
            .faults
            .retain(|fault| is_recent(fault, now, window));
        if volatile.faults.len() == KEPT_FAULTS {
            volatile.faults.remove(0);
        }
        volatile.faults.push(fault);
    }

    /// Whether a step is under way: all members of the formed generation were at work.
    pub fn is_in_step(&self) -> bool {
        self.job.phase == Phase::Active && self.volatile.round.ready
    }
}

/// Whether a failure still counts.
pub(crate) fn is_recent(fault: &Fault, now: Monotonic, window: Duration) -> bool {
    now.since(fault.at) <= window
}
