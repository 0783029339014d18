use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster_types::{JobId, Monotonic, Now, StateId, Step, WorkerId};
use serde_json::Value;

use crate::{
    ClusterOptions, Command, Decision, Order, Record, RecordKind,
    job::{Job, Phase},
    volatile::{Round, View, Volatile},
};

/// More passes than any chain of consequences takes.
const MAX_PASSES: usize = 64;

/// One job's part in a decision. The rules are its methods, a file for each concern.
pub(crate) struct JobTurn<'a> {
    pub id: JobId,
    pub job: Arc<Job>,
    pub volatile: Arc<Volatile>,
    pub options: &'a ClusterOptions,
    pub now: Now,
    pub decision: &'a mut Decision,
}

impl JobTurn<'_> {
    /// Follows the rules until nothing more comes of them.
    pub fn settle(&mut self) {
        for pass in 0..MAX_PASSES {
            debug_assert!(pass + 1 < MAX_PASSES, "the rules chase each other");
            if self.job.state.is_over() {
                return;
            }
            let before = self.decision.records.len();
            self.volatile().wake = None;
            if let Some(at) = self.volatile.strikes.retry_at {
                // Placement waits for it, and looks at jobs only when something has changed.
                self.has_come(at);
            }
            if let Some(at) = self.volatile.spare_failures.retry_at {
                self.has_come(at);
            }
            self.keep_books();
            self.end_if_over();
            if self.job.state.is_over() {
                return;
            }
            self.enforce_bounds();
            self.drain();
            self.give_back();
            self.drop_discarded_saves();
            self.agree_on_a_generation();
            self.tend_checkpoints();
            if self.decision.records.len() == before {
                return;
            }
        }
    }

    /// Makes the volatile side match the records: a restart of the coordinator leaves it empty.
    pub fn keep_books(&mut self) {
        let now = self.now.monotonic;
        let formed = self.job.phase == Phase::Active;
        if self.volatile.round.generation != self.job.generation
            || self.volatile.round.formed != formed
        {
            let generation = self.job.generation;
            self.volatile().round = Round {
                generation,
                formed,
                since: now,
                probes_before: self.volatile.probes,
                moved_at: now,
                ..Round::default()
            };
            if formed {
                self.command(Command::OpenStore {
                    job: self.id,
                    generation,
                });
            }
        }
        if self.job.workers.keys().eq(self.volatile.workers.keys()) {
            return;
        }
        let missing: Vec<WorkerId> = self
            .job
            .workers
            .keys()
            .filter(|worker| !self.volatile.workers.contains_key(*worker))
            .cloned()
            .collect();
        let gone: Vec<WorkerId> = self
            .volatile
            .workers
            .keys()
            .filter(|worker| !self.job.workers.contains_key(*worker))
            .cloned()
            .collect();
        let volatile = self.volatile();
        for worker in gone {
            volatile.workers.remove(&worker);
        }
        volatile
            .workers
            .extend(missing.into_iter().map(|worker| (worker, View::new(now))));
    }

    /// The volatile state, to be changed.
    pub fn volatile(&mut self) -> &mut Volatile {
        Arc::make_mut(&mut self.volatile)
    }

    /// What is known of a worker, to be changed.
    pub fn view(&mut self, worker: &WorkerId) -> &mut View {
        let now = self.now.monotonic;
        self.volatile()
            .workers
            .entry(worker.clone())
            .or_insert_with(|| View::new(now))
    }

    /// Decides a change of durable state; it holds from here on.
    pub fn record(&mut self, kind: RecordKind) {
        let record = Record {
            at: self.now.wall,
            generation: self.job.generation,
            step: self.newest_step(),
            kind,
        };
        // What only tells people something changes nothing: no reason to copy a job with thousands of workers.
        if !matches!(record.kind, RecordKind::Noted { .. }) {
            Arc::make_mut(&mut self.job).apply(&record);
        }
        self.decision.records.push(record);
    }

    /// Records something for people.
    pub fn announce<const N: usize>(
        &mut self,
        event: &str,
        at: StateId,
        reason: String,
        details: [(&str, Value); N],
    ) {
        let details: BTreeMap<String, Value> = details
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let StateId { generation, step } = at;
        self.record(RecordKind::Noted {
            job: self.id,
            event: event.into(),
            generation,
            step,
            reason,
            details,
        });
    }

    pub fn command(&mut self, command: Command) {
        self.decision.commands.push(command);
    }

    /// Says something to a worker; one without a stream hears what matters when it attaches.
    pub fn tell(&mut self, worker: &WorkerId, order: Order) {
        let generation = self.job.generation;
        self.command(Command::Tell {
            worker: worker.clone(),
            job: self.id,
            generation,
            order,
        });
    }

    /// Whether a bound that began at `from` has run out; if not, the job is looked at again when it does.
    pub fn ran_out(&mut self, from: Monotonic, bound: Duration) -> bool {
        self.has_come(from + bound)
    }

    /// Whether an instant has come; if not, the job is looked at again when it does.
    pub fn has_come(&mut self, at: Monotonic) -> bool {
        if at <= self.now.monotonic {
            return true;
        }
        if self.volatile.wake.is_none_or(|wake| wake > at) {
            self.volatile().wake = Some(at);
        }
        false
    }

    /// The newest committed step of the line, as far as it is known.
    pub fn newest_step(&self) -> Step {
        newest_step(&self.job, &self.volatile)
    }

    /// Where the job stands, as the name of a state for people.
    pub fn standing(&self) -> StateId {
        StateId::new(self.job.generation, self.newest_step())
    }

    /// Whether all steps are committed, in a generation that stands.
    pub fn is_finishing(&self) -> bool {
        is_finishing(&self.job, &self.volatile)
    }

    /// Members of the formed generation that are neither gone nor out nor left.
    pub fn present_members(&self) -> Vec<WorkerId> {
        let is_out = |member: &WorkerId| {
            self.job.missing.contains(member) || self.volatile.left.contains_key(member)
        };
        let present = self.job.members.iter().filter(|member| !is_out(member));
        present.cloned().collect()
    }

    /// Whether the job goes on with a worker: it is in the job, its slot is not given back, and it has not left.
    pub fn is_present(&self, worker: &WorkerId) -> bool {
        self.job.keeps(worker) && !self.volatile.left.contains_key(worker)
    }

    /// Workers that the job goes on with, oldest first.
    pub fn present(&self) -> Vec<WorkerId> {
        let mut present = self.job.serving();
        if !self.job.keeps_all() || !self.volatile.left.is_empty() {
            present.retain(|worker| self.is_present(worker));
        }
        present
    }

    /// Workers that the job goes on with and the newest generation is without, oldest first.
    pub fn waiting(&self) -> Vec<WorkerId> {
        let waits = |worker: &WorkerId| !self.volatile.left.contains_key(worker);
        let mut waiting: Vec<_> = self
            .job
            .workers
            .iter()
            .filter(|(_, it)| !it.takes_part && !it.expelled && !it.released)
            .filter(|(worker, _)| waits(worker))
            .collect();
        waiting.sort_by_key(|(_, placement)| placement.ordinal);
        let names = waiting.into_iter().map(|(worker, _)| worker.clone());
        names.collect()
    }

    /// Whether a worker may become a candidate: up, warm, and within reach.
    pub fn is_warm(&self, worker: &WorkerId) -> bool {
        self.volatile
            .workers
            .get(worker)
            .is_some_and(|view| view.warm && view.connected)
    }

    pub fn is_connected(&self, worker: &WorkerId) -> bool {
        self.volatile
            .workers
            .get(worker)
            .is_some_and(|view| view.connected)
    }
}

/// The newest committed step of the line, as far as it is known.
pub(crate) fn newest_step(job: &Job, volatile: &Volatile) -> Step {
    let reported = volatile.ledger.newest().map(|metrics| metrics.step);
    let marked = job.marks.last_key_value().map(|(step, _)| *step);
    let resumed = job.resume.as_ref().map(|resume| resume.state.step);
    reported.max(marked).max(resumed).unwrap_or_default()
}

/// Whether all steps are committed, in a generation that stands.
pub(crate) fn is_finishing(job: &Job, volatile: &Volatile) -> bool {
    job.phase == Phase::Active && newest_step(job, volatile) >= job.total_steps()
}
