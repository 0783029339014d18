//! Steps that look wrong, and replicas that differ.

use std::collections::BTreeMap;

use muster_spec::OnSpike;
use muster_types::{Position, Segment, StateId, Step, WorkerId};
use serde_json::{Value, json};

use crate::{OpenCause, RecordKind, Trip, job_turn::JobTurn};

impl JobTurn<'_> {
    /// A step looks wrong to all ranks alike. The first to say so speaks for them.
    pub fn tripped(&mut self, trip: Trip) {
        if self.is_broken() || trip.step >= self.job.total_steps() {
            return;
        }
        let next = trip.step.next();
        let words = match trip.not_finite {
            true => format!("the loss or the gradient of step {next} is not finite"),
            false => format!(
                "step {next} is a spike: its loss is {:.3}, {:.1} deviations above the median of the steps before, and the norm \
                 of its gradient is {:.3}, {:.1} above",
                trip.loss, trip.loss_score, trip.gradient_norm, trip.norm_score
            ),
        };
        if !trip.held {
            let kind = "loss_spike";
            let details = self.measured(trip);
            return self.note(
                kind,
                trip.step,
                format!("{words}; training goes on"),
                details,
            );
        }
        let policy = self.job.submission.spec.guard.clone();
        let count = self.skips_after(trip.step);
        if count >= policy.max_skips {
            if trip.not_finite {
                return self.fail(format!(
                    "{words}, as were those of the {count} batches that it took instead; lower optimizer.learning_rate, or go \
                     back to an older checkpoint"
                ));
            }
            let reason = format!("{words}, as were {count} batches before: it is accepted");
            let details = self.measured(trip);
            self.note("spike_accepted", trip.step, reason.clone(), details);
            return self.go_on_after_trip(reason);
        }
        let back_to = match policy.on_spike {
            OnSpike::Rollback => self.job.newest_checkpoint().map(|(state, _)| state),
            OnSpike::Ignore | OnSpike::SkipBatch => None,
        };
        self.skip(trip, words, back_to);
    }

    /// Has the job leave out the samples of the step that looks wrong, and of those before it back to a checkpoint.
    fn skip(&mut self, trip: Trip, words: String, back_to: Option<StateId>) {
        let first = back_to.map_or(trip.step, |state| state.step);
        let range = |step| muster_plan::positions(&self.job.segments, step);
        let (segment, from, to) = match (range(first), range(trip.step)) {
            (Ok((segment, first)), Ok((_, last))) => (segment, first.start, last.end),
            (Err(error), _) | (_, Err(error)) => {
                return self.fail(format!(
                    "{words}, and what it trained on is not known: {error}"
                ));
            }
        };
        let samples = to - from;
        let reason = match back_to {
            None => format!("{words}; its {samples} samples are skipped"),
            Some(state) => format!(
                "{words}; the job goes back to the checkpoint of step {} and skips the {samples} samples from there on",
                state.step
            ),
        };
        let details = self.measured(trip);
        self.record(RecordKind::BatchSkipped {
            job: self.id,
            step: trip.step,
            from: Position(from),
            to: Position(to),
            back_to,
            reason: reason.clone(),
            details,
        });
        self.record(RecordKind::SegmentOpened {
            job: self.id,
            segment: Segment {
                start_step: first,
                start_position: Position(to),
                ..segment
            },
        });
        self.go_on_after_trip(reason);
    }

    /// The ranks wait: they go on together in the next generation.
    fn go_on_after_trip(&mut self, reason: String) {
        let candidates = self.with_newcomers(self.present_members());
        if !candidates.is_empty() {
            self.open(candidates, OpenCause::Skipped, reason);
        }
    }

    fn skips_after(&self, step: Step) -> u32 {
        let skips = self.job.skips.filter(|(skipped, _)| *skipped == step);
        skips.map_or(0, |(_, count)| count)
    }

    /// The step whose spike has been skipped as often as may be.
    pub fn accepted_spike(&self) -> Option<Step> {
        let limit = self.job.submission.spec.guard.max_skips;
        let (step, count) = self.job.skips?;
        (count >= limit).then_some(step)
    }

    fn measured(&self, trip: Trip) -> BTreeMap<String, Value> {
        let values = [
            ("loss", json!(trip.loss)),
            ("gradient_norm", json!(trip.gradient_norm)),
            ("loss_score", json!(trip.loss_score)),
            ("norm_score", json!(trip.norm_score)),
            ("not_finite", json!(trip.not_finite)),
        ];
        values.map(|(key, value)| (key.to_owned(), value)).into()
    }

    fn note(&mut self, event: &str, step: Step, reason: String, details: BTreeMap<String, Value>) {
        self.record(RecordKind::Noted {
            job: self.id,
            event: event.into(),
            generation: self.job.generation,
            step,
            reason,
            details,
        });
    }

    /// A rank has found that states differ. Once all have said what they hold, the minority is put out.
    pub fn diverged(&mut self, worker: &WorkerId, step: Step, state_hash: u64) {
        let generation = self.job.generation;
        self.view(worker).diverged = Some((generation, state_hash));
        let mut hashes: BTreeMap<u64, Vec<WorkerId>> = BTreeMap::new();
        for member in self.present_members() {
            let view = self.volatile.workers.get(&member);
            match view.and_then(|view| view.diverged) {
                Some((said, hash)) if said == generation => {
                    hashes.entry(hash).or_default().push(member);
                }
                _ => return,
            }
        }
        self.judge_difference(hashes, &format!("at step {step}"));
    }
}
