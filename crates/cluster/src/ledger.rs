use std::collections::BTreeMap;

use muster_types::{Generation, Monotonic, StateId, Step};

use crate::{
    StepMetrics,
    job::Job,
    mutation::{Mutation, is_planted},
    totals::Totals,
};

/// Steps that are remembered one by one; more than twice [`MARK_EVERY_STEPS`].
const KEPT_STEPS: usize = 512;
/// A watermark is due after so many steps, whatever the clock says: what lies between two must be at hand.
pub(crate) const MARK_EVERY_STEPS: u64 = 200;
/// The speed is taken over so many steps.
const SPEED_STEPS: usize = 20;

/// What the newest committed steps brought. Volatile: members say it again after a restart of the coordinator.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ledger {
    steps: BTreeMap<Step, (Generation, StepMetrics)>,
    /// When the last watermark was journaled.
    pub marked_at: Option<Monotonic>,
}

/// Totals, and how many of the steps they cover were never reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub totals: Totals,
    /// Steps whose tokens and samples are inferred from the constant global batch, and whose evidence is missing.
    pub unreported: u64,
}

impl Ledger {
    /// Takes a step that lies on the line; the first report of it counts. Returns whether this was it.
    pub fn insert(&mut self, generation: Generation, metrics: StepMetrics) -> bool {
        if let Some((_, there)) = self.steps.get_mut(&metrics.step) {
            if is_planted(Mutation::RepeatedReport) {
                there.samples += metrics.samples;
            }
            return false;
        }
        self.steps.insert(metrics.step, (generation, metrics));
        while self.steps.len() > KEPT_STEPS {
            self.steps.pop_first();
        }
        self.steps.contains_key(&metrics.step)
    }

    /// Whether a step was reported, and is remembered.
    pub fn has(&self, step: Step) -> bool {
        self.steps.contains_key(&step)
    }

    /// Forgets what lies above the state that a generation resumes at.
    pub fn truncate(&mut self, resume: Step) {
        self.steps.retain(|step, _| *step <= resume);
    }

    /// The newest reported step.
    pub fn newest(&self) -> Option<&StepMetrics> {
        self.steps.last_key_value().map(|(_, (_, metrics))| metrics)
    }

    /// The name of the newest reported state.
    pub fn newest_state(&self) -> Option<StateId> {
        self.steps
            .last_key_value()
            .map(|(step, (generation, _))| StateId::new(*generation, *step))
    }

    /// What the job was trained on up to `state`: the newest mark at or below it, and the steps since.
    pub fn totals_at(&self, job: &Job, state: StateId) -> Sum {
        let base = job
            .marks
            .range(..=state.step)
            .next_back()
            .map_or(Totals::ZERO, |(_, totals)| *totals);
        let mut totals = Totals { state, ..base };
        let mut reported = 0;
        for (_, (_, metrics)) in self
            .steps
            .range(base.state.step.next()..=state.step.max(base.state.step.next()))
        {
            if metrics.step > state.step {
                break;
            }
            totals.tokens += metrics.tokens;
            totals.samples += metrics.samples;
            totals.evidence = totals.evidence.wrapping_add(metrics.evidence);
            reported += 1;
        }
        let unreported = (state.step.get() - base.state.step.get()) - reported;
        let spec = &job.submission.spec;
        let samples = u64::from(spec.train.global_batch);
        // World size never changes what a step trains on, so any step's tokens stand for any other's.
        let tokens = self
            .newest()
            .map_or(samples * u64::from(spec.model.context_length), |metrics| {
                metrics.tokens
            });
        totals.tokens += unreported * tokens;
        totals.samples += unreported * samples;
        Sum { totals, unreported }
    }

    /// Tokens and steps a second over the last steps; `None` while there are none.
    pub fn speed(&self) -> Option<(f64, f64)> {
        let last = self.steps.values().rev().take(SPEED_STEPS);
        let (mut tokens, mut steps, mut seconds) = (0.0, 0.0, 0.0);
        for (_, metrics) in last {
            tokens += metrics.tokens as f64;
            seconds += metrics.step_ms / 1000.0;
            steps += 1.0;
        }
        (seconds > 0.0).then(|| (tokens / seconds, steps / seconds))
    }
}
