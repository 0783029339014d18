use muster_types::{JobId, NodeName, WorkerId};

use crate::{
    RecordKind, SlotOffer,
    cluster::JobEntry,
    contender::Place,
    job_turn::JobTurn,
    queue::Share,
    turn::Turn,
    waiting::{counted, job_words},
};

impl Turn {
    /// Carries out what is planned: fills slots, and has others give theirs back.
    pub fn place(&mut self) {
        self.lift_cordons();
        let is_over = |entry: &JobEntry| entry.job.state.is_over();
        if self.cluster.jobs.values().all(is_over) {
            return;
        }
        let mut plan = self.cluster.plan(self.now.monotonic);
        for (job, by, reason) in plan.preemptions {
            if let Some(by) = by {
                self.tell_who_preempts(by, job, &reason);
            }
            self.with(job, |turn| turn.preempt(by, reason));
        }
        // Whoever is to be replaced waits for those that are placed now.
        for (job, places, share) in plan.placements {
            self.with(job, |turn| turn.fill(places, share));
        }
        for job in self.cluster.in_order() {
            let wanted = plan.recalls.remove(&job).unwrap_or_default();
            let is_new = |entry: &JobEntry| entry.volatile.recalled != wanted;
            if self.cluster.jobs.get(&job).is_some_and(is_new) {
                self.with(job, |turn| turn.recall(wanted));
            }
        }
    }

    fn tell_who_preempts(&mut self, by: JobId, job: JobId, reason: &str) {
        let priority = |entry: &JobEntry| entry.job.submission.spec.queue.priority;
        let priority = self.cluster.jobs.get(&job).map_or(0, priority);
        let words = job_words(job, priority);
        self.with(by, |turn| {
            let reason = format!("{words} gives way to this one: {reason}");
            let details = [("job", job.to_string().into())];
            turn.announce("preempts", turn.standing(), reason, details);
        });
    }
}

impl JobTurn<'_> {
    fn fill(&mut self, places: Vec<Place>, share: Share) {
        let reason = self.placement_reason(share);
        let has_trained = self.job.generation.get() > 0;
        if share == Share::Lent && has_trained && self.volatile.strikes.causes.is_empty() {
            let words = format!("grows by {}: {reason}", counted(places.len(), "worker"));
            let details = [("workers", places.len().into())];
            self.announce("grow", self.standing(), words, details);
        }
        for (node, slot) in places {
            self.place_worker(node, slot, reason.clone());
        }
    }

    fn placement_reason(&self, share: Share) -> String {
        let cause = self.volatile.strikes.causes.last();
        match (share, cause) {
            (Share::Spare, _) => "stands by, warm, until a worker is lost".into(),
            _ if self.job.generation.get() == 0 && cause.is_none() => "the job starts".into(),
            (Share::Gang, _) if self.job.requeued.is_some() => {
                "the job's turn has come again".into()
            }
            (_, Some(cause)) => format!("replaces: {cause}"),
            (Share::Gang, None) => format!("the job needs {} to train", self.job.gang()),
            (Share::Lent, None) => "no job that waits could use the slots".into(),
        }
    }

    fn place_worker(&mut self, node: NodeName, slot: SlotOffer, reason: String) {
        let worker = self.new_worker_id();
        let wanted = self.job.submission.spec.workers.threads;
        self.record(RecordKind::WorkerPlaced {
            job: self.id,
            worker: worker.clone(),
            node,
            slot: slot.index,
            device: slot.device,
            threads: if wanted == 0 { slot.threads } else { wanted },
            reason,
        });
        self.start_worker(&worker);
    }

    /// `w-N-TAIL`: the job's N-th worker, and the end of the job's id, so that no two jobs share a name on a node.
    fn new_worker_id(&self) -> WorkerId {
        let id = self.id.to_string();
        let tail = &id[id.len().saturating_sub(8)..];
        WorkerId::new(format!("w-{}-{tail}", self.job.placed.len() + 1))
    }
}
