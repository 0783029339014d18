use std::{collections::BTreeMap, iter::Peekable, ops::Range};

use muster_plan::positions;
use muster_types::Step;

use crate::{
    Difference, Flaw, JobHistory, Planned, Report, Standing, StepDifference, StepRecord, Totals,
    Uncovered,
    line::{Line, Window},
};

const NEVER_REPORTED: &str =
    "they were never reported to the coordinator, and their evidence went with their workers";
const NO_WATERMARK: &str = "they lie beyond the newest watermark and are not on record one by one";
const NO_PLAN: &str = "no segment says what they should have trained on";

/// Compares a history with its data order. `steps` are the records of single steps, in order, as far as there are any;
/// `recompute` reads the evidence of each of some stretches of positions from the dataset.
///
/// # Errors
/// What `steps` or `recompute` could not read. Whatever the history says, the outcome is a report.
pub fn audit<E>(
    job: &JobHistory,
    steps: impl Iterator<Item = Result<StepRecord, E>>,
    recompute: impl FnMut(&[Range<u64>]) -> Result<Vec<u64>, E>,
) -> Result<Report, E> {
    let mut line = Line::of(job);
    let mut auditor = Auditor {
        job,
        report: Report {
            generations: line.generations(),
            skipped: line.skipped(),
            flaws: std::mem::take(&mut line.flaws),
            ..Report::default()
        },
        line,
        steps: steps.peekable(),
        recompute,
    };
    for window in auditor.line.windows() {
        auditor.window(&window)?;
    }
    auditor.tail()?;
    Ok(auditor.report)
}

struct Auditor<'a, S: Iterator, R> {
    job: &'a JobHistory,
    line: Line,
    steps: Peekable<S>,
    recompute: R,
    report: Report,
}

impl<E, S, R> Auditor<'_, S, R>
where
    S: Iterator<Item = Result<StepRecord, E>>,
    R: FnMut(&[Range<u64>]) -> Result<Vec<u64>, E>,
{
    fn window(&mut self, window: &Window) -> Result<(), E> {
        let records = self.records_up_to(window.to)?;
        let steps = (window.from.get()..=window.to.get()).map(Step);
        let Some(planned) = self.plan(steps)? else {
            return Ok(());
        };
        let expected = sum(&planned);
        let agrees = window.fed == expected;
        let first_step = self.first_difference(&planned, &records);
        if !agrees && first_step.is_none() && window.gap > 0 {
            // The sum lacks steps that nobody knows of: only those on record can be compared.
            self.compare_records(planned, &records, NEVER_REPORTED);
            return Ok(());
        }
        self.report.windows += 1;
        self.report.audited += planned.len() as u64;
        self.report.expected = self.report.expected.plus(expected);
        self.report.fed = self.report.fed.plus(window.fed);
        if !agrees || first_step.is_some() {
            let found = (window.gap == 0 || agrees).then_some(window.fed);
            self.differ(&planned, found, first_step, records.len());
        }
        Ok(())
    }

    /// What was committed after the newest watermark.
    fn tail(&mut self) -> Result<(), E> {
        let marked = self.line.newest_mark();
        if self.job.standing == Standing::Open {
            self.report.committed = self.job.committed.max(marked);
            self.report.pending = self.report.committed.get() - marked.get();
            return Ok(());
        }
        let records = self.records_up_to(Step(u64::MAX))?;
        let last = records.last_key_value().map_or(marked, |(step, _)| *step);
        let committed = self.job.committed.max(last).max(marked);
        self.report.committed = committed;
        let steps = (marked.next().get()..=committed.get()).map(Step);
        if committed > marked
            && let Some(planned) = self.plan(steps)?
        {
            match self.first_difference(&planned, &records) {
                None => self.compare_records(planned, &records, NO_WATERMARK),
                first => {
                    self.report.windows += 1;
                    self.differ(&planned, None, first, records.len());
                }
            }
        }
        let total = self.job.total_steps;
        if self.job.standing == Standing::Finished && committed < total {
            self.report.flaws.push(Flaw::NotDone { committed, total });
        }
        Ok(())
    }

    /// The records of steps of the line that come next, up to a step. Those of a discarded branch are passed over.
    fn records_up_to(&mut self, last: Step) -> Result<BTreeMap<Step, StepRecord>, E> {
        let mut records = BTreeMap::new();
        let is_due = |next: &Result<StepRecord, E>| match next {
            Ok(record) => record.state.step <= last,
            Err(_) => true,
        };
        while let Some(record) = self.steps.next_if(is_due) {
            let record = record?;
            if self.line.owner(record.state.step) == Some(record.state.generation) {
                records.insert(record.state.step, record);
            }
        }
        Ok(records)
    }

    /// What steps should have been fed; `None` where the data order does not say.
    fn plan(&mut self, steps: impl Iterator<Item = Step>) -> Result<Option<Vec<Planned>>, E> {
        let mut planned = Vec::new();
        let mut steps = steps.peekable();
        while let Some(step) = steps.next() {
            // Step s is the one that makes state s, of the state before it.
            match positions(&self.line.segments, Step(step.get() - 1)) {
                Ok((_, positions)) => planned.push(Planned {
                    step,
                    positions,
                    totals: Totals::default(),
                }),
                Err(error) => {
                    let from = planned.first().map_or(step, |first: &Planned| first.step);
                    let to = steps.last().unwrap_or(step);
                    self.report.flaws.push(Flaw::NoPlan { from, to, error });
                    self.uncover(from, to, NO_PLAN);
                    return Ok(None);
                }
            }
        }
        let stretches: Vec<_> = planned.iter().map(|it| it.positions.clone()).collect();
        let evidence = (self.recompute)(&stretches)?;
        for (planned, evidence) in planned.iter_mut().zip(evidence) {
            let samples = planned.positions.end - planned.positions.start;
            planned.totals = Totals {
                tokens: samples.saturating_mul(self.job.context_length.into()),
                samples,
                evidence,
            };
        }
        Ok(Some(planned))
    }

    fn first_difference(
        &self,
        planned: &[Planned],
        records: &BTreeMap<Step, StepRecord>,
    ) -> Option<StepDifference> {
        planned.iter().find_map(|planned| {
            let record = records.get(&planned.step)?;
            (record.fed != planned.totals).then(|| StepDifference {
                planned: planned.clone(),
                generation: self.line.owner(planned.step),
                found: record.fed,
            })
        })
    }

    /// Counts the steps that are on record, all of which agree, and says of the others that they are not covered.
    fn compare_records(
        &mut self,
        planned: Vec<Planned>,
        records: &BTreeMap<Step, StepRecord>,
        reason: &'static str,
    ) {
        self.report.windows += 1;
        for planned in planned {
            match records.get(&planned.step) {
                Some(record) => {
                    self.report.audited += 1;
                    self.report.expected = self.report.expected.plus(planned.totals);
                    self.report.fed = self.report.fed.plus(record.fed);
                }
                None => self.uncover(planned.step, planned.step, reason),
            }
        }
    }

    fn uncover(&mut self, from: Step, to: Step, reason: &'static str) {
        if let Some(last) = self.report.uncovered.last_mut()
            && last.reason == reason
            && last.steps.end().next() == from
        {
            last.steps = *last.steps.start()..=to;
            return;
        }
        let steps = from..=to;
        self.report.uncovered.push(Uncovered { steps, reason });
    }

    fn differ(
        &mut self,
        planned: &[Planned],
        found: Option<Totals>,
        first_step: Option<StepDifference>,
        on_record: usize,
    ) {
        self.report.differing += 1;
        let (Some(first), Some(last)) = (planned.first(), planned.last()) else {
            return;
        };
        if self.report.difference.is_some() {
            return;
        }
        let owners = (self.line.owner(first.step), self.line.owner(last.step));
        let generations = match owners {
            (Some(first), Some(last)) => Some(first..=last),
            _ => None,
        };
        self.report.difference = Some(Difference {
            generations,
            steps: first.step..=last.step,
            positions: first.positions.start..last.positions.end,
            expected: sum(planned),
            found,
            first_step,
            on_record: on_record as u64,
        });
    }
}

fn sum(planned: &[Planned]) -> Totals {
    planned
        .iter()
        .fold(Totals::default(), |all, one| all.plus(one.totals))
}
