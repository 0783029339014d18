use std::ops::Range;

use muster_spec::RunSpec;
use muster_types::{Generation, JobId, StateId, Step, WorkerId};

use super::{
    content::{self, Content},
    coordinator::Coordinator,
    oracle::{Line, Made},
    storage::Read,
    violation::must,
    world::World,
};
use crate::{JobState, OpenCause, Record, RecordKind, Resume, ResumeSource, record::EVIDENCE_GAP};

/// What is looked at, and when.
impl World {
    pub fn coordinator_spec(&self, job: JobId) -> RunSpec {
        let number: usize = job.to_string()[24..].parse().expect("a job of this world");
        self.plan.jobs[number - 1].spec.clone()
    }

    /// Looks at a record before it is applied.
    pub fn check_record(&mut self, record: &Record) {
        let Some(job) = record.kind.job() else { return };
        match &record.kind {
            RecordKind::GenerationFormed {
                generation,
                members,
                resume,
                ..
            } => {
                self.check_formed(job, *generation, members, resume);
            }
            RecordKind::GenerationOpened { cause, .. } => {
                self.coverage.count("generations opened");
                if *cause == OpenCause::Lost {
                    self.line(job).lost();
                }
            }
            RecordKind::WorkerExpelled { .. } => {
                self.coverage.count("workers expelled");
                self.line(job).lost();
            }
            RecordKind::WorkerGone { worker, .. } => {
                self.line(job).lost();
                must!(
                    !self.workers.contains_key(worker),
                    OneWorkerASlot,
                    "the slot of {worker} is taken to be empty, and it runs"
                );
            }
            RecordKind::CheckpointCommitted { state, .. } => self.check_checkpoint(job, *state),
            RecordKind::CheckpointCondemned { state, .. } => {
                let found = self.storage.directories.get(&(job, *state));
                must!(
                    found.is_none_or(|it| it.corrupt || it.content().is_none()),
                    AllOrNothing,
                    "the whole checkpoint of {state} is condemned"
                );
                self.line(job).checkpoints.insert(*state, true);
            }
            RecordKind::CheckpointDeleted { state, .. } => {
                self.line(job).checkpoints.remove(state);
            }
            RecordKind::Watermark {
                state,
                tokens_seen,
                evidence,
                samples,
                ..
            } => {
                self.check_watermark(job, *state, *tokens_seen, *evidence, *samples);
            }
            RecordKind::Noted { event, .. } if event == EVIDENCE_GAP => self.line(job).gap = true,
            RecordKind::Noted { event, .. } if event == "spare_used" => {
                self.coverage.count("spares that took a place");
            }
            RecordKind::BatchSkipped {
                from, to, back_to, ..
            } => {
                self.coverage.count("batches skipped");
                let line = self.line(job);
                line.windows.push((from.get(), to.get()));
                line.back_to = *back_to;
            }
            RecordKind::JobPreempted { by, .. } => self.check_preempted(job, *by),
            RecordKind::WorkerReleased { worker, .. } => {
                let entry = &self.coordinator.cluster.jobs[&job].job;
                let kept = entry.workers.keys().filter(|worker| entry.keeps(worker));
                // Whoever waits on a node that is drained is replaced elsewhere.
                let node = &entry.workers[worker].node;
                let Coordinator {
                    cluster, decided, ..
                } = &self.coordinator;
                let drained = cluster.is_draining(node) || decided.is_draining(node);
                let waits = drained && !entry.takes_part(worker);
                must!(
                    (kept.count() > entry.gang() || waits) && entry.keeps(worker),
                    FairShare,
                    "a job gives back what it needs"
                );
            }
            RecordKind::WorkerPlaced { node, slot, .. } => {
                let decided = &self.coordinator.decided;
                must!(
                    !decided.is_cordoned(node, *slot) && !decided.is_draining(node),
                    FairShare,
                    "{job} is placed on {node}, which is cordoned or drained"
                );
            }
            RecordKind::JobState { state, reason, .. } => self.check_state(job, *state, reason),
            _ => {}
        }
    }

    fn line(&mut self, job: JobId) -> &mut Line {
        self.oracle.jobs.entry(job).or_default()
    }

    fn check_formed(
        &mut self,
        job: JobId,
        generation: Generation,
        members: &[WorkerId],
        resume: &Resume,
    ) {
        self.coverage.count("generations formed");
        let state = resume.state;
        self.line(job);
        let line = &self.oracle.jobs[&job];
        must!(
            line.formed < generation,
            OneHistory,
            "generation {generation} is formed twice"
        );
        must!(
            line.is_on_line(state),
            OneHistory,
            "generation {generation} starts off the line, at {state}"
        );
        for member in members {
            let Some(it) = self.workers.get(member) else {
                continue;
            };
            must!(
                it.generation == Generation(0) || it.superseded.next() >= generation,
                Fencing,
                "generation {generation} is formed before {member} has fenced"
            );
            let held = it
                .holdings
                .filter(|held| line.is_on_line(*held) && it.generation > Generation(0));
            must!(
                line.back_to.is_some() || held.is_none_or(|held| held.step <= state.step),
                NothingLost,
                "generation {generation} starts at {state}, and {member} holds {held:?}"
            );
        }
        let former: Vec<_> = line
            .members
            .iter()
            .filter(|member| members.contains(member))
            .collect();
        must!(
            members.iter().take(former.len()).eq(former),
            RankOrder,
            "of {:?}, generation {generation} makes {members:?}",
            line.members
        );
        let stored = line.newest_checkpoint();
        must!(
            stored.is_none_or(|stored| stored.step <= state.step),
            NothingLost,
            "generation {generation} starts at {state}, and {stored:?} is stored"
        );
        let made = line.made(job, state).expect("what is on the line was made");
        match &resume.source {
            ResumeSource::Initialise => {
                self.coverage.count("starts from the seed");
                must!(
                    !line.ever_saved,
                    NothingLost,
                    "back to the seed with a checkpoint on record"
                );
            }
            ResumeSource::Live { ranks } => {
                let sources = ranks
                    .iter()
                    .filter_map(|rank| members.get(rank.get() as usize));
                for source in sources.filter_map(|source| self.workers.get(source)) {
                    must!(
                        source.holdings == Some(state) && source.content == made.content,
                        ReplicasAgree,
                        "{} is a source of {state}, and holds {:?}, {:016x} and not {:016x}",
                        source.id,
                        source.holdings,
                        source.content,
                        made.content
                    );
                }
            }
            ResumeSource::Checkpoint { .. } => {
                self.coverage.count("resumes from a checkpoint");
                must!(
                    line.checkpoints.get(&state) == Some(&false),
                    AllOrNothing,
                    "generation {generation} starts from a checkpoint that is not on record"
                );
            }
        }
        let line = self.line(job);
        line.formed = generation;
        line.members = members.to_vec();
        line.back_to = None;
        line.line.retain(|step, _| *step <= state.step);
    }

    fn check_preempted(&mut self, job: JobId, by: Option<JobId>) {
        let Some(by) = by else {
            self.coverage
                .count("jobs that save since their nodes are drained");
            let Coordinator {
                cluster, decided, ..
            } = &self.coordinator;
            let mut places = cluster.jobs[&job].job.workers.values();
            must!(
                places.any(|placement| decided.is_draining(&placement.node)),
                FairShare,
                "{job} gives way to nobody"
            );
            return;
        };
        self.coverage.count("jobs preempted");
        let priority = |job| self.coordinator_spec(job).queue.priority;
        let entry = &self.coordinator.cluster.jobs[&job].job;
        let stuck = entry.serving().len() < entry.gang();
        must!(
            priority(by) > priority(job) || stuck,
            FairShare,
            "{job} gives way to {by}, of no higher priority"
        );
        if !self.chaos {
            // Each gives way to each above it, and one more where two hold what the other lacks.
            self.oracle.calm_preemptions += 1;
            must!(
                self.oracle.calm_preemptions <= self.plan.jobs.len() + 1,
                FairShare,
                "jobs go on giving way to each other"
            );
        }
    }

    fn check_checkpoint(&mut self, job: JobId, state: StateId) {
        self.coverage.count("checkpoints committed");
        self.line(job);
        let line = &self.oracle.jobs[&job];
        must!(
            line.is_on_line(state),
            AllOrNothing,
            "a checkpoint of the discarded {state} is committed"
        );
        let made = line.made(job, state).map(|made| made.content);
        let found = self
            .storage
            .directories
            .get(&(job, state))
            .and_then(|it| it.content());
        must!(
            found.is_some() && found == made,
            AllOrNothing,
            "the checkpoint of {state} is on record, and holds {found:016x?} and not {made:016x?}"
        );
        let line = self.line(job);
        line.checkpoints.insert(state, false);
        line.ever_saved = true;
    }

    /// Whoever hears that a part is on record may forget it.
    pub fn check_acknowledged(&mut self, job: JobId, state: StateId) {
        must!(
            self.line(job).checkpoints.contains_key(&state),
            AllOrNothing,
            "a part of {state} is said to be on record, and no checkpoint is"
        );
    }

    pub fn check_deletion(&mut self, job: JobId, state: StateId) {
        let newest = self.line(job).newest_checkpoint();
        must!(
            newest != Some(state),
            AllOrNothing,
            "the newest checkpoint, of {state}, is to be deleted"
        );
    }

    fn check_watermark(
        &mut self,
        job: JobId,
        state: StateId,
        tokens: u64,
        evidence: u64,
        samples: u64,
    ) {
        let batch = u64::from(self.coordinator_spec(job).train.global_batch);
        let line = self.line(job);
        must!(
            line.is_on_line(state),
            OneHistory,
            "a watermark off the line, at {state}"
        );
        let made = line.made(job, state).expect("what is on the line was made");
        let expected = (made.tokens, made.evidence, made.samples);
        must!(
            made.samples == batch * state.step.get() && samples == made.samples,
            ExactlyOnce,
            "up to {state}, {samples} samples are on record, and {} were trained on",
            made.samples
        );
        must!(
            line.gap || (tokens, evidence, samples) == expected,
            ExactlyOnce,
            "up to {state}, {:?} is on record, and {expected:?} was trained on",
            (tokens, evidence, samples)
        );
    }

    fn check_state(&mut self, job: JobId, state: JobState, reason: &str) {
        let options = self.plan.options.clone();
        let spec = self.coordinator_spec(job);
        let line = self.line(job);
        match state {
            JobState::Failed if reason.contains("failures in a row without") => {
                must!(
                    line.losses >= options.max_failures,
                    Perseverance,
                    "{} losses since the last step, and: {reason}",
                    line.losses
                );
            }
            JobState::Failed if reason.contains("failures that never got beyond") => {
                must!(
                    line.losses_without_advance >= options.max_failures_without_advance,
                    Perseverance,
                    "{} losses since the furthest step, and: {reason}",
                    line.losses_without_advance
                );
            }
            JobState::Finished => {
                let steps: Vec<_> = line.line.keys().map(|step| step.get()).collect();
                must!(
                    steps.iter().copied().eq(1..=spec.train.steps),
                    NothingLost,
                    "a finished job has the steps {steps:?}"
                );
                let newest = line.newest_checkpoint().map(|state| state.step);
                must!(
                    newest == Some(Step(spec.train.steps)),
                    NothingLost,
                    "a finished job has its newest checkpoint at {newest:?}"
                );
                let marks = &self.coordinator.cluster.jobs[&job].job.marks;
                let marked = marks.last_key_value().map(|(step, _)| step.get());
                must!(
                    marked == Some(spec.train.steps),
                    ExactlyOnce,
                    "a finished job is on record up to step {marked:?}"
                );
                self.coverage.count("jobs finished");
            }
            _ => {}
        }
        let line = self.line(job);
        if state.is_over() {
            (line.losses, line.losses_without_advance) = (0, 0);
        }
    }

    /// A rank has committed what all ranks have agreed to.
    pub fn committed(
        &mut self,
        worker: &WorkerId,
        (before, old): (StateId, Content),
        (state, new): (StateId, Content),
        ranges: &[Range<u64>],
    ) {
        self.coverage.count("steps committed by a rank");
        let job = self.workers[worker].job;
        let batch = u64::from(self.coordinator_spec(job).train.global_batch);
        let line = self.line(job);
        must!(
            state.generation >= line.formed || !line.members.contains(worker),
            Fencing,
            "{worker} commits {state}, and is a member of generation {}",
            line.formed
        );
        must!(
            state.generation <= line.formed,
            Fencing,
            "{worker} commits {state}, which was never formed"
        );
        let parent = line.made(job, before);
        must!(
            parent.as_ref().is_some_and(|parent| parent.content == old),
            ReplicasAgree,
            "{worker} trains on {old:016x}, which is not {before}"
        );
        let parent = parent.expect("just looked at");
        let samples: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        must!(
            samples == batch,
            ConstantBatch,
            "{state} trains on {samples} samples, not {batch}"
        );
        let mut at = ranges[0].start;
        for range in ranges {
            must!(
                range.start == at,
                ExactlyOnce,
                "{state} trains on {ranges:?}"
            );
            at = range.end;
        }
        let mut expected = parent.end;
        while let Some((_, to)) = line
            .windows
            .iter()
            .find(|(from, _)| *from == expected && expected < ranges[0].start)
        {
            expected = *to;
        }
        must!(
            ranges[0].start == expected,
            ExactlyOnce,
            "{state} trains on {ranges:?}, and what comes next is {expected}"
        );
        let made = Made {
            content: new,
            end: at,
            tokens: parent.tokens + ranges.iter().map(content::tokens).sum::<u64>(),
            evidence: ranges.iter().fold(parent.evidence, |sum, range| {
                sum.wrapping_add(content::evidence(range))
            }),
            samples: parent.samples + samples,
        };
        let first = line.states.entry(state).or_insert_with(|| made.clone());
        must!(
            first.content == new,
            ReplicasAgree,
            "{worker} commits {new:016x} as {state}, which is {:016x}",
            first.content
        );
        if state.generation == line.formed {
            must!(
                line.is_on_line(before),
                OneHistory,
                "{state} is built on {before}, which is off the line"
            );
            let stands = *line.line.entry(state.step).or_insert(state);
            must!(
                stands == state,
                OneHistory,
                "{state} is committed, and {stands} stands"
            );
        }
    }

    /// A rank says that it is ready.
    pub fn check_ready(&mut self, worker: &WorkerId, resume: StateId) {
        let it = &self.workers[worker];
        let (job, content) = (it.job, it.content);
        let generation = it.form.as_ref().map(|(generation, _)| *generation);
        let line = self.line(job);
        if generation == Some(line.formed) {
            let made = line.made(job, resume).map(|made| made.content);
            must!(
                made == Some(content),
                ReplicasAgree,
                "{worker} is ready with {content:016x}, and {resume} is {made:016x?}"
            );
        }
    }

    /// Whether a job can do nothing but wait and say so: nobody holds a state, and no checkpoint reads back.
    pub fn must_wait(&self, job: JobId) -> bool {
        let Some(line) = self.oracle.jobs.get(&job) else {
            return false;
        };
        let readable = line.checkpoints.keys().any(|state| {
            line.is_on_line(*state) && matches!(self.read_checkpoint(job, *state), Read::Whole(_))
        });
        let held = self.workers.values().any(|it| {
            it.job == job
                && it
                    .holdings
                    .is_some_and(|held| held.step > Step(0) && line.is_on_line(held))
        });
        line.ever_saved && !readable && !held
    }
}
