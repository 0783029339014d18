//! Warm standbys, and all others that only wait: nothing but a question now and then tells whether they are there.

use muster_types::WorkerId;

use crate::{
    Order,
    job::{Job, Phase},
    job_turn::JobTurn,
    volatile::{Volatile, Watch},
};

impl JobTurn<'_> {
    /// Whether a worker stands by: the newest generation has as many as it may, without this one.
    pub fn is_spare(&self, worker: &WorkerId) -> bool {
        is_spare(&self.job, worker)
    }

    /// Asks those that wait whether they are there, and does without the deaf.
    pub fn watch(&mut self) {
        let leaves = self.job.is_to_leave() || self.is_finishing();
        // Where nothing moves, probes have another purpose, and are counted.
        if self.job.phase != Phase::Active || leaves || self.volatile.round.suspicion.is_some() {
            return;
        }
        let mut waiting = self.waiting();
        waiting.retain(|worker| self.is_warm(worker));
        for worker in &waiting {
            let watch = self.volatile.workers.get(worker).and_then(|it| it.watch);
            if let Some(watch) = watch {
                if !self.ran_out(watch.at, self.options.watch_interval) {
                    continue;
                }
                if self.is_deaf_in_waiting(worker, &watch, &waiting) {
                    let count = watch.unanswered;
                    let reason = format!(
                        "left {count} probes in a row unanswered while it waited to be needed"
                    );
                    self.put_out_for(worker, reason);
                    continue;
                }
            }
            self.call(worker);
        }
    }

    /// Whether a waiting worker is silent, and not the coordinator cut off or stopped: others were heard meanwhile.
    fn is_deaf_in_waiting(&self, worker: &WorkerId, watch: &Watch, waiting: &[WorkerId]) -> bool {
        let moved = self.volatile.round.moved_at > watch.since;
        let answers = |other: &WorkerId| {
            let view = self.volatile.workers.get(other);
            let theirs = view.and_then(|view| view.watch);
            other != worker && theirs.is_some_and(|it| it.unanswered == 0 && it.at >= watch.since)
        };
        let view = self.volatile.workers.get(worker);
        let agent_is_there = view.is_some_and(|view| view.node_lost_at.is_none());
        let enough = match moved || waiting.iter().any(answers) {
            true => self.options.deaf_probes,
            false if agent_is_there => self.options.lone_probes,
            false => return false,
        };
        watch.unanswered >= enough
    }

    /// Asks a worker whether it is there.
    pub fn call(&mut self, worker: &WorkerId) {
        let now = self.now.monotonic;
        let volatile = self.volatile();
        volatile.probes += 1;
        let number = volatile.probes;
        let before = self.view(worker).watch.unwrap_or_default();
        self.view(worker).watch = Some(Watch {
            number,
            at: now,
            unanswered: before.unanswered + 1,
            since: if before.unanswered == 0 {
                now
            } else {
                before.since
            },
        });
        self.ran_out(now, self.options.watch_interval);
        self.tell(worker, Order::Probe { number });
    }

    /// Whether nothing speaks against taking a waiting worker along: it has answered the last probe, or may yet.
    pub fn is_heard(&self, worker: &WorkerId) -> bool {
        let watch = self.volatile.workers.get(worker).and_then(|it| it.watch);
        watch.is_none_or(|watch| match watch.unanswered {
            0 => true,
            1 => self.now.monotonic.since(watch.at) < self.options.newcomer_bound,
            _ => false,
        })
    }

    /// A spare is gone or out: the job goes on as if nothing had been, and another takes its place after a pause.
    pub fn spare_lost(&mut self, worker: &WorkerId, cause: &str) {
        let (now, generation) = (self.now.monotonic, self.job.generation);
        let failures = self.volatile.spare_failures.count + 1;
        let pause = self.options.backoff(failures);
        let kept = &mut self.volatile().spare_failures;
        (kept.count, kept.generation) = (failures, generation);
        kept.retry_at = Some(now + pause);
        let next = if failures >= self.options.max_failures {
            format!("{failures} were lost in a row, so no other is placed in this generation")
        } else {
            "another takes its place".into()
        };
        let reason = format!("a spare is lost, and the job trains on; {next}: {cause}");
        let details = [("worker", worker.as_str().into())];
        self.announce("spare_lost", self.standing(), reason, details);
    }

    /// Says which spares fill up a generation.
    pub fn note_spares_used(&mut self, candidates: &[WorkerId]) {
        if self.job.submission.spec.workers.spares == 0 {
            return;
        }
        for worker in candidates {
            if self.job.rank_of(worker).is_some() {
                continue;
            }
            let placement = self.job.workers.get(worker);
            let node = placement.map_or("", |placement| placement.node.as_str());
            let reason =
                format!("worker {worker} on node {node} stood by, and takes a lost one's place");
            let details = [("worker", worker.as_str().into()), ("node", node.into())];
            self.announce("spare_used", self.standing(), reason, details);
        }
    }
}

/// Whether a worker stands by.
pub(crate) fn is_spare(job: &Job, worker: &WorkerId) -> bool {
    job.phase != Phase::Idle
        && job.strength() >= job.capacity()
        && job.keeps(worker)
        && !job.takes_part(worker)
}

/// How many workers are warm and stand by.
pub(crate) fn spares(job: &Job, volatile: &Volatile) -> usize {
    let warm = |worker: &WorkerId| volatile.workers.get(worker).is_some_and(|view| view.warm);
    let waits = job.workers.iter().filter(|(_, it)| !it.takes_part);
    let is_one = |worker: &WorkerId| is_spare(job, worker) && warm(worker);
    waits.filter(|(worker, _)| is_one(worker)).count()
}
