use std::{collections::BTreeMap, time::Duration};

use muster_types::{Generation, WorkerId};

use crate::{OpenCause, Order, RecordKind, job_turn::JobTurn, lifecycle::LeaveHow, volatile::View};

/// Why a worker's slot is to be given back, and when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recall {
    pub reason: String,
    pub when: When,
}

/// When a recalled member leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At the next boundary.
    AtOnce,
    /// At the first boundary at which no newcomer is still getting warm.
    Replaced,
}

impl Recall {
    pub fn at_once(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            when: When::AtOnce,
        }
    }
}

impl JobTurn<'_> {
    /// Takes newcomers along and gives recalled slots back: members leave together at a boundary, and the next generation
    /// has those that stay and those that are new.
    pub fn reshape(&mut self) {
        let generation = self.job.generation;
        let present = self.present_members();
        let at_boundary = |view: &View| view.at_boundary == Some(generation);
        let some_left = self.volatile.workers.values().any(at_boundary)
            && present
                .iter()
                .any(|member| self.left_at_boundary(member, generation));
        // Of those that have left at a boundary, a job that is to leave makes one more generation, in which they save.
        let leaves = self.job.is_to_leave() && !some_left;
        if leaves || self.is_finishing() || present.is_empty() {
            return;
        }
        let left_together = present
            .iter()
            .all(|member| self.left_at_boundary(member, generation));
        let asked = self.volatile.round.reconfigure_at;
        let late = match asked {
            Some(asked) => self.ran_out(asked, self.options.boundary_bound),
            None => false,
        };
        if left_together || late {
            return self.regroup(present);
        }
        if !self.volatile.round.ready || asked.is_some() {
            return;
        }
        let Some(reason) = self.cause_to_regroup(&present) else {
            return;
        };
        // One rank raises the flag in the next control all-reduce.
        let within_reach = |member: &&WorkerId| self.is_connected(member);
        if let Some(member) = present.iter().find(within_reach) {
            let now = self.now.monotonic;
            self.volatile().round.reconfigure_at = Some(now);
            self.tell(member, Order::Reconfigure { reason });
        }
    }

    /// Why members are to leave at the next boundary, if so.
    fn cause_to_regroup(&self, present: &[WorkerId]) -> Option<String> {
        let giving = self.giving(present);
        if let Some((_, reason)) = giving.first_key_value() {
            return Some(reason.clone());
        }
        let newcomer = self.newcomers().into_iter().next()?;
        (present.len() < self.job.capacity()).then(|| format!("worker {newcomer} is warm"))
    }

    /// Those that the next generation may have beside its members.
    fn newcomers(&self) -> Vec<WorkerId> {
        let is_new = |worker: &WorkerId| {
            self.is_warm(worker) && self.is_heard(worker) && !self.is_recalled(worker)
        };
        self.waiting().into_iter().filter(is_new).collect()
    }

    /// Opens the next generation at a boundary.
    fn regroup(&mut self, present: Vec<WorkerId>) {
        let generation = self.job.generation;
        let giving = self.giving(&present);
        for (worker, reason) in &giving {
            if self.left_at_boundary(worker, generation) {
                self.release(worker, reason.clone());
            } else {
                // Told to leave in the middle of a step, it could take others along.
                self.put_out(worker, reason.clone());
            }
        }
        let stay: Vec<_> = present
            .into_iter()
            .filter(|worker| !giving.contains_key(worker))
            .collect();
        let before = stay.len();
        let candidates = self.with_newcomers(stay);
        let (cause, reason) = match (giving.len(), candidates.len() - before) {
            (0, 0) => (
                OpenCause::Grown,
                "all members left at a boundary".to_owned(),
            ),
            (0, more) => (OpenCause::Grown, format!("{more} more at a step boundary")),
            (less, 0) => (
                OpenCause::Shrunk,
                format!("{less} fewer at a step boundary"),
            ),
            (less, more) => (
                OpenCause::Shrunk,
                format!("{less} fewer and {more} more at a step boundary"),
            ),
        };
        self.open(candidates, cause, reason);
    }

    /// The recalled ones among these, as many as the job can do without, and why.
    fn giving(&self, present: &[WorkerId]) -> BTreeMap<WorkerId, String> {
        if self.job.is_to_leave() {
            return BTreeMap::new();
        }
        let enough = present.len() + self.newcomers().len();
        let spare = enough.saturating_sub(self.job.gang());
        let awaited = self.awaits_a_newcomer(present);
        let recalled = self.volatile.recalled.iter();
        recalled
            .filter(|(worker, _)| self.job.rank_of(worker).is_some() && self.is_present(worker))
            .filter(|(_, recall)| recall.when == When::AtOnce || !awaited)
            .take(spare)
            .map(|(worker, recall)| (worker.clone(), recall.reason.clone()))
            .collect()
    }

    /// Whether one that could be in the next generation beside these is not warm yet.
    fn awaits_a_newcomer(&self, present: &[WorkerId]) -> bool {
        let is_awaited = |worker: &WorkerId| {
            !present.contains(worker) && !self.is_recalled(worker) && !self.is_warm(worker)
        };
        self.present().iter().any(is_awaited)
    }

    fn left_at_boundary(&self, member: &WorkerId, generation: Generation) -> bool {
        let view = self.volatile.workers.get(member);
        view.is_some_and(|view| view.at_boundary == Some(generation))
    }

    /// Whether a worker's slot is wanted elsewhere.
    pub fn is_recalled(&self, worker: &WorkerId) -> bool {
        self.volatile.recalled.contains_key(worker)
    }

    /// Takes note of the workers whose slots are wanted elsewhere.
    pub fn recall(&mut self, workers: BTreeMap<WorkerId, Recall>) {
        let mut fresh: BTreeMap<&str, usize> = BTreeMap::new();
        for (worker, recall) in &workers {
            if !self.is_recalled(worker) {
                *fresh.entry(&recall.reason).or_default() += 1;
            }
        }
        let holds = self.present().len();
        for (reason, count) in fresh {
            let reason = format!("gives back {count} of {holds} slots: {reason}");
            let details = [("slots", count.into()), ("of", holds.into())];
            self.announce("shrink", self.standing(), reason, details);
        }
        self.volatile().recalled = workers;
    }

    /// Releases recalled workers that no generation has, and sees those off whose slot is given back.
    pub fn give_back(&mut self) {
        if !self.job.is_to_leave() {
            for (worker, recall) in self.volatile.recalled.clone() {
                if self.is_present(&worker) && !self.job.takes_part(&worker) {
                    self.release(&worker, recall.reason);
                }
            }
        }
        if self.job.keeps_all() {
            return;
        }
        for worker in self.job.serving() {
            if !self.job.keeps(&worker) {
                self.dismiss(&worker);
            }
        }
    }

    fn release(&mut self, worker: &WorkerId, reason: String) {
        let attached = self
            .volatile
            .workers
            .get(worker)
            .is_some_and(|view| view.attached_at.is_some());
        if !attached {
            // There is nobody yet who could leave.
            return self.put_out(worker, reason);
        }
        self.record(RecordKind::WorkerReleased {
            job: self.id,
            worker: worker.clone(),
            reason,
        });
    }

    /// Has a worker leave whose slot is given back, within a bound.
    fn dismiss(&mut self, worker: &WorkerId) {
        if self.is_connected(worker)
            && !self.told_to_leave(worker)
            && !self.volatile.left.contains_key(worker)
        {
            let reason = "its slot is given back".to_owned();
            self.tell_to_leave(worker, LeaveHow::AtOnce, reason);
        }
        let now = self.now.monotonic;
        let since = *self.view(worker).released_at.get_or_insert(now);
        let grace_seconds = self.job.submission.spec.queue.preempt_grace_seconds;
        if self.ran_out(since, Duration::from_secs(grace_seconds.into())) {
            let reason =
                format!("its slot is given back, and it did not leave within {grace_seconds} s");
            self.put_out(worker, reason);
        }
    }
}
