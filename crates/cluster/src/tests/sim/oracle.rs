use std::collections::{BTreeMap, BTreeSet};

use muster_types::{Generation, JobId, StateId, Step, WorkerId};

use super::{
    content::{self, Content},
    violation::must,
};
use crate::{CommittedStep, Resume};

/// What really happened, as someone sees it who sees everything.
#[derive(Debug, Default)]
pub struct Oracle {
    pub jobs: BTreeMap<JobId, Line>,
    pub spawned: BTreeSet<WorkerId>,
    pub calm_preemptions: usize,
}

/// One job's history.
#[derive(Debug, Default)]
pub struct Line {
    /// Every state that was ever committed by the rules.
    pub states: BTreeMap<StateId, Made>,
    /// The one line.
    pub line: BTreeMap<Step, StateId>,
    pub formed: Generation,
    pub members: Vec<WorkerId>,
    /// What was told of each generation.
    pub told: BTreeMap<Generation, (Vec<WorkerId>, Resume)>,
    /// Positions that are left out, because someone said so.
    pub windows: Vec<(u64, u64)>,
    pub back_to: Option<StateId>,
    pub checkpoints: BTreeMap<StateId, bool>,
    pub ever_saved: bool,
    pub gap: bool,
    /// Losses since a step was reported, and since one beyond the furthest was.
    pub losses: u32,
    pub losses_without_advance: u32,
    pub furthest: Step,
}

/// How a state was made.
#[derive(Clone, Debug)]
pub struct Made {
    pub content: Content,
    /// Up to it, from the beginning.
    pub end: u64,
    pub tokens: u64,
    pub evidence: u64,
    pub samples: u64,
}

impl Line {
    pub fn made(&self, job: JobId, state: StateId) -> Option<Made> {
        if state == StateId::INITIAL {
            return Some(Made {
                content: content::initial(job),
                end: 0,
                tokens: 0,
                evidence: 0,
                samples: 0,
            });
        }
        self.states.get(&state).cloned()
    }

    pub fn is_on_line(&self, state: StateId) -> bool {
        state == StateId::INITIAL || self.line.get(&state.step) == Some(&state)
    }

    /// The newest checkpoint that may be loaded.
    pub fn newest_checkpoint(&self) -> Option<StateId> {
        let usable =
            |(state, condemned): &(&StateId, &bool)| !**condemned && self.is_on_line(**state);
        let usable = self
            .checkpoints
            .iter()
            .filter(usable)
            .map(|(state, _)| *state);
        usable.max_by_key(|state| state.step)
    }

    pub fn lost(&mut self) {
        self.losses += 1;
        self.losses_without_advance += 1;
    }
}

impl Oracle {
    /// Takes note of what a member was told. Returns whether all were told the same.
    pub fn told(
        &mut self,
        job: JobId,
        generation: Generation,
        members: &[WorkerId],
        resume: &Resume,
    ) -> bool {
        let line = self.jobs.entry(job).or_default();
        let told = line.told.entry(generation);
        let told = told.or_insert_with(|| (members.to_vec(), resume.clone()));
        told.0 == members && told.1 == *resume
    }

    /// The coordinator takes a step as one of the line.
    pub fn reported(&mut self, step: &CommittedStep) {
        let line = self.jobs.entry(step.job).or_default();
        must!(
            line.is_on_line(step.state),
            Fencing,
            "{} is reported, and counts, off the line",
            step.state
        );
        line.losses = 0;
        if step.state.step > line.furthest {
            line.furthest = step.state.step;
            line.losses_without_advance = 0;
        }
    }
}
