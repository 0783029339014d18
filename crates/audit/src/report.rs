use std::ops::{Range, RangeInclusive};

use muster_types::{Generation, Step};

use crate::{Flaw, Totals};

/// What a step should have been fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub step: Step,
    /// Its positions in the data order.
    pub positions: Range<u64>,
    /// What lies there.
    pub totals: Totals,
}

/// A step whose own record is not what its positions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDifference {
    /// What it should have been fed.
    pub planned: Planned,
    /// The generation that committed it.
    pub generation: Option<Generation>,
    /// What its record says it was fed.
    pub found: Totals,
}

/// The first stretch in which what was fed is not what should have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The generations that committed its first and its last step.
    pub generations: Option<RangeInclusive<Generation>>,
    /// Its steps.
    pub steps: RangeInclusive<Step>,
    /// Its positions in the data order.
    pub positions: Range<u64>,
    /// What lies there.
    pub expected: Totals,
    /// What was fed by its watermarks; `None` where they have no sum of all of it.
    pub found: Option<Totals>,
    /// The first step whose own record differs; `None` where no record on hand does.
    pub first_step: Option<StepDifference>,
    /// How many of its steps are on record one by one.
    pub on_record: u64,
}

/// Committed steps whose evidence is nowhere on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The steps.
    pub steps: RangeInclusive<Step>,
    /// Why, in words.
    pub reason: &'static str,
}

/// What an audit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that was committed is accounted for; of a job that goes on, up to its newest watermark.
    Clean,
    /// Nothing differs, but some committed steps have no evidence.
    Incomplete,
    /// The history contradicts itself.
    Broken,
    /// Something else was fed than should have been.
    Differs,
}

impl Verdict {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Incomplete => "incomplete",
            Self::Broken => "broken",
            Self::Differs => "differs",
        }
    }
}

/// The figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The newest step that is known to be committed.
    pub committed: Step,
    /// Steps that were compared.
    pub audited: u64,
    /// Steps of a job that goes on, beyond its newest watermark.
    pub pending: u64,
    /// Generations that have steps on the line.
    pub generations: usize,
    /// Stretches that were compared.
    pub windows: u64,
    /// How many of them differ.
    pub differing: u64,
    /// What the audited steps should have been fed.
    pub expected: Totals,
    /// What they were fed.
    pub fed: Totals,
    /// Samples that were left out on purpose, because a step looked wrong.
    pub skipped: u64,
    /// The first stretch that differs.
    pub difference: Option<Difference>,
    /// What is not covered.
    pub uncovered: Vec<Uncovered>,
    /// What is wrong with the history itself.
    pub flaws: Vec<Flaw>,
}

impl Report {
    /// What it comes to.
    pub fn verdict(&self) -> Verdict {
        if self.difference.is_some() {
            Verdict::Differs
        } else if !self.flaws.is_empty() {
            Verdict::Broken
        } else if !self.uncovered.is_empty() {
            Verdict::Incomplete
        } else {
            Verdict::Clean
        }
    }
}
