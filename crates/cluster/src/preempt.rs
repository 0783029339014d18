use muster_types::JobId;

use crate::{Command, RecordKind, job::Phase, job_turn::JobTurn};

impl JobTurn<'_> {
    /// Another job gets this one's slots, or their nodes are drained: the workers save and leave, and the job waits for its turn.
    pub fn preempt(&mut self, by: Option<JobId>, reason: String) {
        if self.job.state.is_over() || self.job.is_to_leave() {
            return;
        }
        self.record(RecordKind::JobPreempted {
            job: self.id,
            by,
            grace_seconds: self.job.submission.spec.queue.preempt_grace_seconds,
            reason,
        });
    }

    /// The workers of a preempted job are out. It goes on from its newest checkpoint when there is room for it.
    pub fn requeue(&mut self) {
        if self.job.phase != Phase::Idle {
            self.mark_progress();
            self.command(Command::CloseStore {
                job: self.id,
                generation: self.job.generation,
            });
        }
        let reason = format!("waits for slots again; {}", self.kept_words());
        self.record(RecordKind::JobRequeued {
            job: self.id,
            reason,
        });
        let strikes = self.volatile.strikes.clone();
        self.begin_anew(strikes);
    }
}
