use std::time::Duration;

use muster_checkpoint::{Committed, FileEntry, deletable};
use muster_types::{Rank, StateId, Step, WorkerId};

use crate::{
    Command, Order, Part, RecordKind, ResumeSource,
    job::Phase,
    job_turn::JobTurn,
    mutation::{Mutation, is_planted},
    record::{EVIDENCE_GAP, GAP_STEPS},
    saves::SaveKey,
};

/// Pause before a manifest is tried again.
const MANIFEST_RETRY: Duration = Duration::from_secs(2);

impl JobTurn<'_> {
    /// A part is durable. The writer says so until it hears that the part is on record.
    pub fn part_written(&mut self, worker: &WorkerId, part: Part) {
        let Part {
            state,
            rank,
            world_size,
            file,
        } = part;
        if self.job.checkpoints.contains_key(&state) {
            return self.tell(worker, Order::PartAcknowledged { state });
        }
        // A part of a discarded branch is refused, and so is one of a save that a newer checkpoint has overtaken.
        let overtaken = self
            .job
            .newest_checkpoint()
            .is_some_and(|(newest, _)| newest.step >= state.step);
        if !self.job.is_kept(state) || overtaken || rank.get() >= world_size {
            return;
        }
        self.volatile()
            .saves
            .insert((state, world_size), rank.get(), worker.clone(), file);
        if is_planted(Mutation::PartAcknowledgedEarly) {
            self.tell(worker, Order::PartAcknowledged { state });
        }
    }

    /// A part could not be written. A failed save never stops training.
    pub fn part_failed(&mut self, worker: &WorkerId, state: StateId, rank: Rank, cause: &str) {
        if !self.job.history.is_eligible(state) || self.job.checkpoints.contains_key(&state) {
            return;
        }
        let reason = format!(
            "worker {worker} could not write part {rank} of the checkpoint of {state}: {cause}"
        );
        self.save_failed(state, reason);
    }

    fn save_failed(&mut self, state: StateId, reason: String) {
        if self.volatile.saves.failed.contains_key(&state) {
            return;
        }
        self.volatile().saves.fail(state, reason.clone());
        self.announce("checkpoint_failed", state, reason, []);
    }

    /// The shell has written a manifest, or could not.
    pub fn manifest_done(&mut self, state: StateId, result: Result<String, String>) {
        let written = self
            .volatile
            .saves
            .open
            .iter()
            .find(|((of, _), save)| *of == state && save.writing);
        let Some((key, save)) = written.map(|(key, save)| (*key, save.clone())) else {
            return;
        };
        match result {
            Ok(uri) if self.may_commit(state) => {
                let tokens_seen = self
                    .volatile
                    .ledger
                    .totals_at(&self.job, state)
                    .totals
                    .tokens;
                let total_bytes = save.parts.values().map(|(_, file)| file.bytes).sum();
                self.record(RecordKind::CheckpointCommitted {
                    job: self.id,
                    state,
                    uri,
                    tokens_seen,
                    total_bytes,
                });
                // A resume from this checkpoint needs the totals up to it.
                self.mark_at(state);
                self.forget_saves(state);
                for (worker, _) in save.parts.values() {
                    if self.is_connected(worker) {
                        self.tell(worker, Order::PartAcknowledged { state });
                    }
                }
            }
            Ok(uri) => {
                self.forget_saves(state);
                self.volatile().saves.deleting.insert(state);
                self.command(Command::DeleteCheckpoint {
                    job: self.id,
                    state,
                    uri,
                });
                if !self.job.state.is_over() {
                    self.save_failed(
                        state,
                        format!("the checkpoint of {state} was overtaken: the state was discarded"),
                    );
                }
            }
            Err(cause) => self.manifest_failed(key, &cause),
        }
    }

    fn may_commit(&self, state: StateId) -> bool {
        let kept = self.job.is_kept(state) || is_planted(Mutation::LateManifest);
        kept && !self.job.state.is_over()
    }

    fn manifest_failed(&mut self, key: SaveKey, cause: &str) {
        let (state, _) = key;
        let at = self.now.monotonic + MANIFEST_RETRY;
        let attempts = self.options.manifest_attempts;
        let is_last = state.step >= self.job.total_steps();
        let Some(save) = self.volatile().saves.open.get_mut(&key) else {
            return;
        };
        save.writing = false;
        save.failures += 1;
        save.retry_at = Some(at);
        let failures = save.failures;
        let reason = format!("the manifest of {state} could not be written: {cause}");
        if is_last {
            // The workers wait for the last checkpoint: it is tried until it is there.
            if failures == attempts {
                let reason = format!("{reason}; it is tried until it can be");
                self.announce("storage_unreachable", state, reason, []);
            }
        } else if failures >= attempts {
            self.volatile().saves.open.remove(&key);
            self.save_failed(state, reason);
        }
    }

    fn forget_saves(&mut self, state: StateId) {
        let saves = &mut self.volatile().saves;
        saves.open.retain(|(of, _), _| *of != state);
        saves.failed.remove(&state);
    }

    /// The shell has removed a checkpoint.
    pub fn checkpoint_deleted(&mut self, state: StateId) {
        self.volatile().saves.deleting.remove(&state);
        if self.job.checkpoints.contains_key(&state) {
            self.record(RecordKind::CheckpointDeleted {
                job: self.id,
                state,
            });
        }
    }

    /// Orders the manifests of complete saves, and the removal of what is not kept.
    pub fn tend_checkpoints(&mut self) {
        for (key, save) in self.volatile.saves.open.clone() {
            let (state, world_size) = key;
            let taken = self
                .volatile
                .saves
                .open
                .iter()
                .any(|((of, _), save)| *of == state && save.writing);
            let complete = save.parts.len() == world_size as usize
                || is_planted(Mutation::ManifestOfSomeParts);
            if !complete || taken || save.retry_at.is_some_and(|at| !self.has_come(at)) {
                continue;
            }
            let parts: Vec<FileEntry> = save.parts.into_values().map(|(_, file)| file).collect();
            let tokens_seen = self
                .volatile
                .ledger
                .totals_at(&self.job, state)
                .totals
                .tokens;
            if let Some(save) = self.volatile().saves.open.get_mut(&key) {
                save.writing = true;
            }
            self.command(Command::WriteManifest {
                job: self.id,
                state,
                parts,
                tokens_seen,
            });
        }
        self.delete_old();
    }

    /// Forgets saves of states that are off the line, so that nothing waits for them.
    pub fn drop_discarded_saves(&mut self) {
        let stale = |state: &StateId, writing: bool| !writing && !self.job.is_kept(*state);
        if self
            .volatile
            .saves
            .open
            .iter()
            .any(|((state, _), save)| stale(state, save.writing))
        {
            let job = self.job.clone();
            self.volatile()
                .saves
                .open
                .retain(|(state, _), save| save.writing || job.is_kept(*state));
        }
    }

    fn delete_old(&mut self) {
        let in_use = match &self.job.resume {
            Some(resume) if self.job.phase == Phase::Active && !self.volatile.round.ready => {
                matches!(resume.source, ResumeSource::Checkpoint { .. }).then_some(resume.state)
            }
            _ => None,
        };
        let committed: Vec<Committed> = self
            .job
            .checkpoints
            .iter()
            .map(|(state, checkpoint)| Committed {
                state: *state,
                condemned: checkpoint.condemned,
            })
            .collect();
        let keep_last = self.job.submission.spec.checkpoint.keep_last;
        for state in deletable(&committed, &self.job.history, keep_last, in_use) {
            let Some(uri) = self
                .job
                .checkpoints
                .get(&state)
                .map(|checkpoint| checkpoint.uri.clone())
            else {
                continue;
            };
            if !self.volatile.saves.deleting.contains(&state) {
                self.volatile().saves.deleting.insert(state);
                self.command(Command::DeleteCheckpoint {
                    job: self.id,
                    state,
                    uri,
                });
            }
        }
    }

    /// Remembers that the generation which ends now was in the middle of a save.
    pub fn note_cut_off_save(&mut self) {
        let newest = self.newest_step();
        let saved = self
            .job
            .newest_checkpoint()
            .map_or(Step(0), |(state, _)| state.step);
        let every = self.job.submission.spec.checkpoint.every_steps;
        let due = newest
            .get()
            .checked_div(every)
            .map_or(0, |times| times * every);
        let cut_off =
            due > saved.get() || self.volatile.saves.open.values().any(|save| !save.writing);
        if cut_off && !self.volatile.saves.cut_off {
            self.volatile().saves.cut_off = true;
        }
    }

    /// Journals how far the line has come, as far as members have reported.
    pub fn mark_progress(&mut self) {
        if let Some(state) = self.volatile.ledger.newest_state() {
            self.mark_at(state);
        }
    }

    /// Journals what the job was trained on up to a state of its line.
    pub fn mark_at(&mut self, state: StateId) {
        if self.job.marks.contains_key(&state.step) {
            return;
        }
        let sum = self.volatile.ledger.totals_at(&self.job, state);
        if sum.unreported > 0 {
            let reason = format!(
                "{} steps up to step {} were never reported: their tokens follow from the global batch, their evidence is missing",
                sum.unreported, state.step
            );
            self.announce(
                EVIDENCE_GAP,
                state,
                reason,
                [(GAP_STEPS, sum.unreported.into())],
            );
        }
        let now = self.now.monotonic;
        self.volatile().ledger.marked_at = Some(now);
        let totals = sum.totals;
        self.record(RecordKind::Watermark {
            job: self.id,
            state,
            tokens_seen: totals.tokens,
            evidence: totals.evidence,
            samples: totals.samples,
        });
    }
}
