use muster_types::WorkerId;

use crate::{
    Command, JobState, Order, RecordKind,
    job::Phase,
    job_turn::{JobTurn, is_finishing},
    mutation::{Mutation, is_planted},
    stance::stance,
    volatile::{Strikes, Volatile},
};

impl JobTurn<'_> {
    /// A client asked for a stop.
    pub fn request_stop(&mut self, grace_seconds: u32) {
        if self.job.state.is_over() || self.job.stop.is_some() {
            return;
        }
        let grace_seconds = if grace_seconds == 0 {
            self.job.submission.spec.workers.grace_seconds
        } else {
            grace_seconds
        };
        self.record(RecordKind::StopRequested {
            job: self.id,
            grace_seconds,
        });
        // A preemption may have begun to drain the job, with a grace of its own.
        if self.volatile.draining_since.is_some() {
            self.volatile().draining_since = None;
        }
    }

    /// A client asked for the job's end, now: its workers are killed, and a save that is not on record is given up. It can be
    /// taken up again.
    pub fn cancel(&mut self, reason: &str) {
        if self.job.state.is_over() {
            return;
        }
        let words = match reason {
            "" => "cancelled on request".to_owned(),
            reason => format!("cancelled on request: {reason}"),
        };
        let standing = self.standing();
        self.announce("cancel_requested", standing, words.clone(), []);
        for worker in self.job.serving() {
            self.put_out(&worker, words.clone());
        }
        // Where the last checkpoint is on record, the job is finished; all that went on was its workers' leaving.
        if !self.job.is_done() {
            let kept = self.kept_words();
            self.end(JobState::Stopped, format!("{words}; {kept}"));
        }
    }

    /// A client asked to take the job up again. Its history is kept, and generations go on counting.
    pub fn take_up(&mut self) {
        if !matches!(self.job.state, JobState::Stopped | JobState::Failed) {
            return;
        }
        let reason = format!(
            "taken up again after it was {}: {}",
            self.job.state.as_str(),
            self.job.reason
        );
        self.record(RecordKind::JobState {
            job: self.id,
            state: JobState::Pending,
            reason,
        });
        self.begin_anew(Strikes {
            furthest: self.newest_step(),
            ..Strikes::default()
        });
    }

    /// Forgets what is known of the workers that the job had, and what is counted against it but for `strikes`.
    pub fn begin_anew(&mut self, strikes: Strikes) {
        let strikes = Strikes {
            generation: self.job.generation,
            ordinal: self.job.placed.len() as u32,
            ..strikes
        };
        let old = std::mem::take(self.volatile());
        *self.volatile() = Volatile {
            ledger: old.ledger,
            saves: old.saves,
            strikes,
            fingerprint: old.fingerprint,
            workers: old.workers,
            ..Volatile::default()
        };
    }

    /// Ends the job where nothing is left to be done, or to be waited for.
    pub fn end_if_over(&mut self) {
        if let Some(reason) = self.hopeless() {
            return self.give_up(reason);
        }
        let empty = self.job.workers.values().all(|it| it.expelled);
        let total = self.job.total_steps();
        if self.job.is_done() {
            if empty {
                self.end(JobState::Finished, format!("all {total} steps are done"));
            }
        } else if self.volatile.saves.settling() {
            // The workers may be gone; what they wrote still becomes a checkpoint.
        } else if self.job.stop.is_some() {
            if empty {
                let kept = self.kept_words();
                self.end(JobState::Stopped, format!("stopped on request; {kept}"));
            }
        } else if self.job.preemption.is_some() {
            if empty {
                self.requeue();
            }
        } else if empty && self.is_finishing() && self.all_members_left() {
            let cause = self.volatile.saves.failed.values().next_back();
            let cause = cause
                .map_or("the workers left without writing it", String::as_str)
                .to_owned();
            self.end(
                JobState::Failed,
                format!(
                    "all {total} steps are done, but there is no checkpoint of the last: {cause}"
                ),
            );
        }
    }

    /// What a job without workers can go on from, in words.
    pub fn kept_words(&self) -> String {
        match self.job.newest_checkpoint() {
            Some((state, _)) => format!("the newest checkpoint is of step {}", state.step),
            None => "there is no checkpoint".into(),
        }
    }

    fn all_members_left(&self) -> bool {
        self.job
            .members
            .iter()
            .all(|member| self.volatile.left.contains_key(member))
    }

    /// Gives the job up.
    pub fn fail(&mut self, reason: String) {
        self.end(JobState::Failed, reason);
    }

    fn end(&mut self, state: JobState, reason: String) {
        if self.job.phase != Phase::Idle {
            self.mark_progress();
            self.command(Command::CloseStore {
                job: self.id,
                generation: self.job.generation,
            });
        }
        for worker in self.job.serving() {
            self.put_out(&worker, format!("the job is {}", state.as_str()));
        }
        self.record(RecordKind::JobState {
            job: self.id,
            state,
            reason,
        });
    }

    /// Puts a worker out of the job and ends its process.
    pub fn put_out(&mut self, worker: &WorkerId, reason: String) {
        let Some(node) = self
            .job
            .workers
            .get(worker)
            .map(|placement| placement.node.clone())
        else {
            return;
        };
        self.record(RecordKind::WorkerExpelled {
            job: self.id,
            worker: worker.clone(),
            reason: reason.clone(),
        });
        if self.is_connected(worker) {
            self.tell(
                worker,
                Order::Expelled {
                    reason: reason.clone(),
                },
            );
        }
        if is_planted(Mutation::SlotEmptyEarly) {
            self.record(RecordKind::WorkerGone {
                job: self.id,
                worker: worker.clone(),
                reason: reason.clone(),
                exit: None,
            });
        }
        self.command(Command::KillWorker {
            node,
            worker: worker.clone(),
            reason,
        });
    }

    /// Has the workers leave where the job is stopped or done, within a bound.
    pub fn drain(&mut self) {
        let (done, asked) = (self.job.is_done(), self.job.leave_grace());
        let finishing = self.is_finishing();
        if !done && asked.is_none() && !finishing {
            return;
        }
        let training = self.job.phase == Phase::Active && !self.is_broken();
        if !done && asked.is_none() && !training {
            return;
        }
        let reason = self.leave_reason();
        let saves_first = !training && !done && self.can_form_to_save();
        for worker in self.present() {
            let member = self.job.phase == Phase::Active && self.job.rank_of(&worker).is_some();
            if member && training {
                // At the end members leave by themselves, when their last part is on record.
                if asked.is_some() && !done && !self.told_to_leave(&worker) {
                    self.tell_to_leave(&worker, LeaveHow::SaveFirst, reason.clone());
                }
            } else if saves_first && self.job.takes_part(&worker) {
                // It leaves once the next generation has formed.
            } else if self
                .volatile
                .workers
                .get(&worker)
                .is_some_and(|view| view.attached_at.is_none())
            {
                self.put_out(
                    &worker,
                    "its slot is given back and it has not attached yet".into(),
                );
            } else if self.is_connected(&worker) && !self.told_to_leave(&worker) {
                self.tell_to_leave(&worker, LeaveHow::AtOnce, reason.clone());
            }
        }
        if done || asked.is_some() {
            let now = self.now.monotonic;
            let since = *self.volatile().draining_since.get_or_insert(now);
            let grace_seconds = asked.unwrap_or(self.job.submission.spec.workers.grace_seconds);
            if self.ran_out(since, std::time::Duration::from_secs(grace_seconds.into())) {
                for worker in self.job.serving() {
                    self.put_out(
                        &worker,
                        format!("it did not leave within {grace_seconds} s"),
                    );
                }
            }
        }
    }

    /// Whether survivors of a lost generation could form another one, only to save what they hold.
    fn can_form_to_save(&self) -> bool {
        match &self.job.phase {
            Phase::Idle => false,
            Phase::Active => !self.present_members().is_empty(),
            Phase::Forming { candidates } => {
                !candidates.is_empty()
                    && (!self.all_fenced() || self.newest_held(candidates).is_some())
            }
        }
    }

    pub fn told_to_leave(&self, worker: &WorkerId) -> bool {
        let told = self
            .volatile
            .workers
            .get(worker)
            .and_then(|view| view.told_leave);
        told == Some(self.job.generation)
    }

    /// Why the job's workers leave, in words.
    fn leave_reason(&self) -> String {
        if self.job.stop.is_some() {
            "the job is to stop".to_owned()
        } else if let Some(preemption) = &self.job.preemption {
            preemption.reason.clone()
        } else {
            "all steps are done".to_owned()
        }
    }

    pub fn tell_to_leave(&mut self, worker: &WorkerId, how: LeaveHow, reason: String) {
        let generation = self.job.generation;
        self.view(worker).told_leave = Some(generation);
        self.tell(
            worker,
            Order::Leave {
                save: how == LeaveHow::SaveFirst,
                reason,
            },
        );
    }

    /// Records the job's state where it has changed.
    pub fn show_state(&mut self) {
        if self.job.state.is_over() {
            return;
        }
        let (state, reason) = stance(&self.job, &self.volatile, self.options);
        if state != self.job.state {
            if state == JobState::Draining && is_finishing(&self.job, &self.volatile) {
                self.mark_progress();
            }
            self.record(RecordKind::JobState {
                job: self.id,
                state,
                reason,
            });
        }
    }
}

/// How a worker leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveHow {
    SaveFirst,
    AtOnce,
}
