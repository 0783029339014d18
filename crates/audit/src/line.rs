use std::{collections::BTreeMap, ops::Range};

use muster_types::{Generation, Position, Segment, StateId, Step};

use crate::{Fact, Flaw, JobHistory, Totals};

/// The stretch between two known sums: the steps after one state up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The first step.
    pub from: Step,
    /// The last step.
    pub to: Step,
    /// What its steps were fed, by the difference of the sums.
    pub fed: Totals,
    /// Steps that the sum at its end lacks.
    pub gap: u64,
}

/// A job's one line, as its facts make it: which generation committed which steps, and the sums along it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub segments: Vec<Segment>,
    /// What was left out.
    skips: Vec<Range<u64>>,
    /// The skip that the next segment carries out.
    skipping: Option<Range<u64>>,
    /// Generations on the line, by the first step of each.
    owners: BTreeMap<Step, Generation>,
    newest: Option<Generation>,
    marks: BTreeMap<Step, Totals>,
    /// Watermarks of states below the newest one, journaled late. What follows the newest one does not build on them.
    late: BTreeMap<Step, Totals>,
    gaps: BTreeMap<Step, u64>,
    pub flaws: Vec<Flaw>,
}

impl Line {
    /// Follows a history from its first fact to its last.
    pub fn of(job: &JobHistory) -> Self {
        let mut line = Self::default();
        for fact in &job.facts {
            match *fact {
                Fact::Segment(segment) => line.open(job, segment),
                Fact::Skipped { from, to } => line.skipping = Some(from.get()..to.get()),
                Fact::Formed { generation, resume } => line.form(generation, resume),
                Fact::Watermark { state, fed } => line.mark(state, fed),
                Fact::Gap { state, steps } => {
                    line.gaps.insert(state.step, steps);
                }
            }
        }
        line
    }

    /// The generation that committed a step; `None` before the first one.
    pub fn owner(&self, step: Step) -> Option<Generation> {
        let (_, owner) = self.owners.range(..=step).next_back()?;
        Some(*owner)
    }

    /// How many samples were left out.
    pub fn skipped(&self) -> u64 {
        let mut skips = self.skips.clone();
        skips.sort_by_key(|skip| skip.start);
        let mut end = 0;
        // A job that went back leaves out what it had left out before as well.
        let new = |skip: Range<u64>| {
            let samples = skip.end.saturating_sub(skip.start.max(end));
            end = end.max(skip.end);
            samples
        };
        skips.into_iter().map(new).sum()
    }

    /// How many generations have steps on the line.
    pub fn generations(&self) -> usize {
        self.owners.len()
    }

    /// The newest state with a sum.
    pub fn newest_mark(&self) -> Step {
        self.marks
            .last_key_value()
            .map_or(Step(0), |(step, _)| *step)
    }

    /// The stretches between known sums, from the first step on.
    pub fn windows(&self) -> Vec<Window> {
        let mut before = (Step(0), Totals::default());
        // Below a gap it is not known which sum a late one builds on.
        let is_sure = |step: &Step| self.gaps.range(..=step).next().is_none();
        let late = self.late.iter().filter(|(step, _)| is_sure(step));
        let marks: BTreeMap<_, _> = self.marks.iter().chain(late).collect();
        let marks = marks.into_iter().filter(|(step, _)| **step > Step(0));
        let window = |(&to, &sum)| {
            let (last, base) = std::mem::replace(&mut before, (to, sum));
            let from = last.next();
            Window {
                from,
                to,
                fed: sum.since(base),
                gap: self.gaps.range(from..=to).map(|(_, steps)| *steps).sum(),
            }
        };
        marks.map(window).collect()
    }

    fn has(&self, state: StateId) -> bool {
        state == StateId::INITIAL
            || (state.step > Step(0) && self.owner(state.step) == Some(state.generation))
    }

    fn open(&mut self, job: &JobHistory, segment: Segment) {
        let step = segment.start_step;
        let covering = |older: &&Segment| older.start_step <= step;
        let mut expected = match self.segments.iter().rev().find(covering) {
            None => (step == Step(0)).then_some(Position(0)),
            Some(before) => step
                .get()
                .checked_sub(before.start_step.get())
                .and_then(|steps| steps.checked_mul(before.global_batch.into()))
                .and_then(|samples| before.start_position.get().checked_add(samples))
                .map(Position),
        };
        if let Some(skip) = self.skipping.take() {
            if expected.is_some_and(|expected| expected.get() != skip.start) {
                self.flaws.push(Flaw::OtherSkip {
                    step,
                    skipped: skip.clone(),
                    expected: expected.unwrap_or_default(),
                });
            }
            expected = Some(Position(skip.end));
            // What was planned from there on is replaced.
            self.segments.retain(|older| older.start_step < step);
            self.skips.push(skip);
        }
        // A segment that starts no later than the one before is out of order; the plan says so.
        match expected {
            None if self.segments.is_empty() => self.flaws.push(Flaw::LateStart { step }),
            Some(expected) if expected != segment.start_position => {
                self.flaws.push(Flaw::NotContiguous {
                    step,
                    found: segment.start_position,
                    expected,
                });
            }
            _ => {}
        }
        if segment.global_batch != job.global_batch {
            self.flaws.push(Flaw::OtherBatch {
                step,
                found: segment.global_batch,
                expected: job.global_batch,
            });
        }
        if segment.dataset_digest != job.dataset {
            self.flaws.push(Flaw::OtherDataset {
                step,
                found: segment.dataset_digest,
                expected: job.dataset,
            });
        }
        self.segments.push(segment);
    }

    /// What lies above the state that a generation starts from is discarded.
    fn form(&mut self, generation: Generation, resume: StateId) {
        if let Some(newest) = self.newest
            && newest >= generation
        {
            self.flaws.push(Flaw::NotNewer { generation, newest });
        }
        if !self.has(resume) {
            self.flaws.push(Flaw::ResumeOffLine { generation, resume });
        }
        self.newest = Some(generation);
        let first = resume.step.next();
        self.owners.split_off(&first);
        self.owners.insert(first, generation);
        self.marks.split_off(&first);
        self.late.split_off(&first);
        self.gaps.split_off(&first);
        // The sums that follow build on the newest one that is left.
        if let Some((&step, &sum)) = self.late.last_key_value()
            && step > self.newest_mark()
        {
            self.marks.insert(step, sum);
        }
    }

    fn mark(&mut self, state: StateId, fed: Totals) {
        let step = state.step;
        if !self.has(state) {
            return self.flaws.push(Flaw::MarkOffLine { state });
        }
        if let Some(said) = self.marks.get(&step).or_else(|| self.late.get(&step)) {
            if *said != fed && !self.gaps.contains_key(&step) {
                self.flaws.push(Flaw::MarksContradict { state });
            }
            return;
        }
        let Some((&newest, before)) = self.marks.last_key_value() else {
            self.marks.insert(step, fed);
            return;
        };
        if newest > step {
            self.late.insert(step, fed);
            return;
        }
        if before.samples > fed.samples {
            let before = newest;
            self.flaws.push(Flaw::MarkFalls { state, before });
        }
        self.marks.insert(step, fed);
    }
}
