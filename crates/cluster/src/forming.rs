use std::collections::BTreeSet;

use muster_types::{Generation, StateId, WorkerId};

use crate::{
    Command, OpenCause, Order, RecordKind, Resume, ResumeSource,
    job::Phase,
    job_turn::JobTurn,
    mutation::{Mutation, is_planted},
};

impl JobTurn<'_> {
    /// Opens, forms and tends generations, as far as things stand.
    pub fn agree_on_a_generation(&mut self) {
        if self.job.is_done() {
            return;
        }
        match self.job.phase.clone() {
            Phase::Idle => self.gather(OpenCause::Gathered, "workers have come together"),
            Phase::Forming { candidates } => self.tend_forming(&candidates),
            Phase::Active => self.tend_formed(),
        }
    }

    fn tend_formed(&mut self) {
        let Some(reason) = self.breakage() else {
            self.send_forms();
            self.notice_ready();
            return self.reshape();
        };
        if !self.may_try() {
            return;
        }
        let survivors = self.present_members();
        if survivors.is_empty() {
            return self.gather(OpenCause::Lost, &reason);
        }
        // Survivors fence at once, be they too few: nothing may be committed in the old generation any more.
        let candidates = self.with_newcomers(survivors);
        self.note_spares_used(&candidates);
        self.open(candidates, OpenCause::Lost, reason);
    }

    /// Why the formed generation cannot go on, if so.
    fn breakage(&self) -> Option<String> {
        let gone = |member: &&WorkerId| {
            !is_planted(Mutation::LossUnnoticed) && !self.volatile.left.contains_key(*member)
        };
        if let Some(member) = self.job.lost().into_iter().find(gone) {
            let cause = self.volatile.strikes.causes.last().cloned();
            return Some(cause.unwrap_or_else(|| format!("worker {member} was lost")));
        }
        self.volatile
            .round
            .failures
            .iter()
            .next()
            .map(|(worker, cause)| format!("worker {worker}: {cause}"))
    }

    /// Whether the formed generation cannot go on.
    pub fn is_broken(&self) -> bool {
        self.breakage().is_some()
    }

    /// Members that go on together, and warm newcomers behind them, up to the capacity.
    pub fn with_newcomers(&self, mut candidates: Vec<WorkerId>) -> Vec<WorkerId> {
        if !self.job.is_to_leave() {
            let newcomers = self
                .present()
                .into_iter()
                .filter(|worker| self.is_warm(worker));
            let there: BTreeSet<_> = candidates.iter().collect();
            let newcomers: Vec<_> = newcomers
                .filter(|worker| !there.contains(worker) && !self.is_recalled(worker))
                .filter(|worker| self.is_heard(worker))
                .collect();
            let behind = if is_planted(Mutation::NewcomersFirst) {
                0
            } else {
                candidates.len()
            };
            candidates.splice(behind..behind, newcomers);
        }
        candidates.truncate(self.job.capacity());
        candidates
    }

    /// Opens a generation once enough workers are warm: all that are there, or as many as have come within the grace.
    fn gather(&mut self, cause: OpenCause, reason: &str) {
        if self.job.is_to_leave() {
            return;
        }
        let present = self.present();
        let mut warm: Vec<_> = present
            .iter()
            .filter(|worker| self.is_warm(worker))
            .cloned()
            .collect();
        if warm.len() < self.job.required() {
            if self.volatile.gathered_at.is_some() {
                self.volatile().gathered_at = None;
            }
            return;
        }
        let now = self.now.monotonic;
        let since = *self.volatile().gathered_at.get_or_insert(now);
        let complete = warm.len() == present.len() || warm.len() >= self.job.capacity();
        if (complete || self.ran_out(since, self.options.gather_grace)) && self.may_try() {
            // Former members keep their order, newcomers follow.
            warm.sort_by_key(|worker| self.job.rank_of(worker).unwrap_or(usize::MAX));
            warm.truncate(self.job.capacity());
            self.open(warm, cause, reason.into());
        }
    }

    /// Opens the next generation: the one before is over.
    pub fn open(&mut self, candidates: Vec<WorkerId>, cause: OpenCause, reason: String) {
        let superseded = self.job.generation;
        self.mark_progress();
        self.note_cut_off_save();
        self.volatile().gathered_at = None;
        let generation = superseded.next();
        let kind = RecordKind::GenerationOpened {
            job: self.id,
            generation,
            candidates: candidates.clone(),
            cause,
            reason,
        };
        self.record(kind);
        if superseded > Generation(0) {
            // Whoever still builds the old group waits in its store, and must not.
            self.command(Command::CloseStore {
                job: self.id,
                generation: superseded,
            });
        }
        self.keep_books();
        self.volatile().round.asked = candidates.len();
        self.tend_forming(&candidates);
    }

    fn tend_forming(&mut self, candidates: &[WorkerId]) {
        let (fenced, silent): (Vec<_>, Vec<_>) = candidates
            .iter()
            .cloned()
            .partition(|worker| self.has_fenced(worker));
        self.send_supersedes(&silent);
        if candidates.len() < self.job.required() {
            return self.gather(OpenCause::Lost, "there are enough workers again");
        }
        if candidates.len() < self.volatile.round.asked {
            // A victim is often heard before it is known who died: whoever stands by takes that one's place now.
            let filled = self.with_newcomers(candidates.to_vec());
            if filled.len() > candidates.len() && self.may_try() {
                let cause = self.volatile.strikes.causes.last().cloned();
                let reason = cause.unwrap_or_else(|| "a candidate was lost".into());
                self.note_spares_used(&filled);
                return self.open(filled, OpenCause::Lost, reason);
            }
        }
        if is_planted(Mutation::FormBeforeAllFenced)
            && candidates.iter().any(|worker| self.has_fenced(worker))
            && self.may_try()
        {
            return self.form(candidates);
        }
        // A newcomer has nothing to give up. Where it is silent, the others do not wait for it.
        let all = silent.is_empty()
            || (silent.iter().all(|worker| !self.was_member(worker))
                && fenced.len() >= self.job.required()
                && self.ran_out(self.volatile.round.since, self.options.newcomer_bound));
        if all && self.may_try() {
            self.form(&fenced);
        }
    }

    /// Tells each candidate that has not fenced and is within reach, once a stream, that the generation before is over.
    fn send_supersedes(&mut self, silent: &[WorkerId]) {
        let Some(superseded) = self.superseded() else {
            return;
        };
        let reason = format!("generation {} is being agreed on", self.job.generation);
        for worker in silent {
            let Some(view) = self.volatile.workers.get(worker) else {
                continue;
            };
            if !self.was_member(worker) {
                let asked = view
                    .watch
                    .is_some_and(|it| it.number > self.volatile.round.probes_before);
                if self.is_warm(worker) && !asked {
                    self.call(worker);
                }
                continue;
            }
            if view.connected && view.told_supersede != Some(superseded) {
                self.view(worker).told_supersede = Some(superseded);
                self.tell(
                    worker,
                    Order::Supersede {
                        superseded,
                        reason: reason.clone(),
                    },
                );
            }
        }
    }

    /// The generation before the one that is being agreed on.
    pub fn superseded(&self) -> Option<Generation> {
        self.job.generation.get().checked_sub(1).map(Generation)
    }

    /// Whether no candidate can commit in an older generation any more.
    pub fn all_fenced(&self) -> bool {
        let Phase::Forming { candidates } = &self.job.phase else {
            return false;
        };
        candidates.iter().all(|worker| self.has_fenced(worker))
    }

    /// Whether a candidate has given up every generation before this one. One that was never a member has nothing to give
    /// up; but it has to be there: it may have waited for long.
    pub fn has_fenced(&self, worker: &WorkerId) -> bool {
        if !self.was_member(worker) {
            let view = self.volatile.workers.get(worker);
            let answer = view.and_then(|view| view.answer);
            let before = self.volatile.round.probes_before;
            return self.is_warm(worker) && answer.is_some_and(|answer| answer.number > before);
        }
        let fenced = self
            .volatile
            .workers
            .get(worker)
            .and_then(|view| view.fenced);
        fenced.is_some_and(|(fenced, _)| {
            Some(fenced) == self.superseded() || is_planted(Mutation::StaleFence)
        })
    }

    /// Whether a worker has ever been a member: it may have committed.
    fn was_member(&self, worker: &WorkerId) -> bool {
        let placement = self.job.workers.get(worker);
        placement.is_some_and(|placement| placement.was_member)
    }

    /// The state that a fenced candidate holds, where it lies on the line.
    fn held(&self, worker: &WorkerId) -> Option<StateId> {
        let view = self.volatile.workers.get(worker)?;
        // What a former member did not state when it fenced is never eligible.
        let held = if self.was_member(worker) && !is_planted(Mutation::UnstatedState) {
            view.fenced.and_then(|(_, held)| held)
        } else {
            view.holdings
        };
        held.filter(|state| self.job.is_kept(*state) || is_planted(Mutation::DiscardedState))
    }

    /// The newest state of the line that any of these holds.
    pub fn newest_held(&self, workers: &[WorkerId]) -> Option<StateId> {
        workers
            .iter()
            .filter_map(|worker| self.held(worker))
            .max_by_key(|state| (state.step, state.generation))
    }

    /// Where the members go on: the newest state that one of them holds, or that a checkpoint holds.
    fn resume_point(&self, members: &[WorkerId]) -> Option<Resume> {
        let live = self.newest_held(members);
        let stored = self.job.newest_checkpoint();
        if let Some(state) = live
            && stored.is_none_or(|(stored, _)| stored.step <= state.step)
        {
            let ranks = (0u32..)
                .zip(members)
                .filter(|(_, member)| self.held(member) == Some(state));
            let ranks = ranks.map(|(rank, _)| muster_types::Rank(rank)).collect();
            return Some(Resume {
                state,
                source: ResumeSource::Live { ranks },
            });
        }
        if let Some((state, checkpoint)) = stored {
            return Some(Resume {
                state,
                source: ResumeSource::Checkpoint {
                    uri: checkpoint.uri.clone(),
                },
            });
        }
        // With a checkpoint on record, step 0 would silently throw work away.
        let fresh = !self.job.ever_committed || is_planted(Mutation::SeedAgain);
        fresh.then_some(Resume {
            state: StateId::INITIAL,
            source: ResumeSource::Initialise,
        })
    }

    fn form(&mut self, members: &[WorkerId]) {
        let live = self.newest_held(members);
        if live.is_none() && (self.volatile.saves.settling() || self.job.is_to_leave()) {
            // A checkpoint that is all but complete may be the newest state there is; and a job that stops has nothing to
            // save that is not saved.
            return;
        }
        let Some(resume) = self.resume_point(members) else {
            return;
        };
        debug_assert!(
            members.iter().all(|member| self.has_fenced(member))
                || is_planted(Mutation::FormBeforeAllFenced),
            "a generation is formed before all its members have fenced"
        );
        let state = resume.state;
        let generation = self.job.generation;
        self.record(RecordKind::GenerationFormed {
            job: self.id,
            generation,
            members: members.to_vec(),
            resume,
        });
        self.note_numerics(members);
        self.volatile().ledger.truncate(state.step);
        self.mark_at(state);
        self.keep_books();
        self.send_forms();
    }

    /// Bits can be compared only between steps that were computed alike.
    fn note_numerics(&mut self, members: &[WorkerId]) {
        let of = |worker: &WorkerId| {
            let view = self.volatile.workers.get(worker)?;
            (!view.fingerprint.is_empty()).then_some(&*view.fingerprint)
        };
        let fingerprints: BTreeSet<&str> = members.iter().filter_map(of).collect();
        let fingerprints: Vec<String> = fingerprints.into_iter().map(str::to_owned).collect();
        if !fingerprints.is_empty() && fingerprints != self.job.numerics {
            self.record(RecordKind::NumericsSeen {
                job: self.id,
                fingerprints,
                before: self.job.numerics.clone(),
            });
        }
    }

    /// Whether the pause after the last failure is over.
    pub fn may_try(&mut self) -> bool {
        match self.volatile.strikes.retry_at {
            Some(at) => self.has_come(at),
            None => true,
        }
    }
}
