use std::{collections::BTreeMap, sync::Arc};

use muster_types::{Rank, WorkerId, WorldSize};

use crate::{
    Form, JobState, Order, RecordKind, ResumeSource,
    job_turn::JobTurn,
    liveness::Origin,
    mutation::{Mutation, is_planted},
    volatile::View,
};

impl JobTurn<'_> {
    /// Sends `Form` to each member that is not in the generation yet: at once, and again to one that attaches without it.
    pub fn send_forms(&mut self) {
        let generation = self.job.generation;
        let is_due = |view: &View| {
            view.connected && view.generation < generation && view.told_form != Some(generation)
        };
        if !self.volatile.workers.values().any(is_due) {
            return;
        }
        let Some(resume) = self.job.resume.clone().map(Arc::new) else {
            return;
        };
        let mut members: Vec<(WorkerId, Arc<str>)> = Vec::with_capacity(self.job.members.len());
        for member in self.job.members.iter() {
            match self.volatile.workers.get(member) {
                Some(view) if !view.address.is_empty() => {
                    members.push((member.clone(), view.address.clone()))
                }
                // After a restart of the coordinator, members say again where their peers reach them.
                _ => return,
            }
        }
        let world = WorldSize(members.len() as u32);
        let assignment = match muster_plan::deal(self.job.submission.spec.batch_slots(), world) {
            Ok(assignment) => Arc::from(assignment),
            Err(error) => {
                return self.fail(format!("the slots of the batch cannot be dealt: {error}"));
            }
        };
        let (members, segments) = (Arc::from(members), Arc::from(self.job.segments.as_slice()));
        for (rank, member) in (0u32..).zip(self.job.members.clone().iter()) {
            if self.volatile.workers.get(member).is_some_and(is_due) {
                self.view(member).told_form = Some(generation);
                let form = Form {
                    rank: Rank(rank),
                    members: Arc::clone(&members),
                    resume: Arc::clone(&resume),
                    assignment: Arc::clone(&assignment),
                    segments: Arc::clone(&segments),
                    accept_spike_after: self.accepted_spike(),
                };
                self.tell(member, Order::Form(Box::new(form)));
            }
        }
    }

    /// Notices that all members are ready.
    pub fn notice_ready(&mut self) {
        let generation = self.job.generation;
        if self.volatile.round.ready {
            return;
        }
        let mut hashes: BTreeMap<u64, Vec<WorkerId>> = BTreeMap::new();
        for member in self.job.members.iter() {
            match self
                .volatile
                .workers
                .get(member)
                .and_then(|view| view.ready)
            {
                Some((ready, hash)) if ready == generation => {
                    hashes.entry(hash).or_default().push(member.clone())
                }
                _ => return,
            }
        }
        if hashes.len() > 1 {
            return self.judge_difference(hashes, "after the heal");
        }
        self.set_ready();
    }

    /// All members of the generation are known to be at work.
    pub fn set_ready(&mut self) {
        let now = self.now.monotonic;
        let volatile = self.volatile();
        volatile.round.ready = true;
        volatile.pace.ready.push(now.since(volatile.round.since));
        volatile.round.moved(now);
        volatile.storage = None;
        for view in volatile.workers.values_mut() {
            view.slow_in = None;
        }
        let unsaved = self.newest_step() < self.job.total_steps() && !self.job.is_to_leave();
        if self.volatile.saves.cut_off && unsaved && !self.volatile.round.save_told {
            // One rank raises the flag; all save at the boundary that follows.
            let mut members = self.job.members.iter();
            if let Some(member) = members.find(|member| self.is_connected(member)).cloned() {
                let volatile = self.volatile();
                volatile.round.save_told = true;
                volatile.saves.cut_off = false;
                self.tell(&member, Order::SaveNow);
            }
        }
    }

    /// Replicas must agree: the minority is put out, and without a majority the job stops and says so.
    pub fn judge_difference(&mut self, hashes: BTreeMap<u64, Vec<WorkerId>>, when: &str) {
        let world = self.job.members.len();
        let majority = hashes
            .values()
            .find(|members| members.len() * 2 > world)
            .cloned();
        let Some(majority) = majority else {
            let sides: Vec<String> = hashes
                .iter()
                .map(|(hash, members)| format!("{hash:016x}: {members:?}"))
                .collect();
            return self.fail(format!(
                "the replicas disagree {when} and none has a majority: {}",
                sides.join("; ")
            ));
        };
        for member in self
            .job
            .members
            .clone()
            .iter()
            .filter(|member| !majority.contains(member))
        {
            let cause = format!("worker {member} holds another state than the majority {when}");
            let scene = self.scene(member);
            self.put_out(member, cause.clone());
            if let Some(scene) = scene {
                self.note_fault(scene, &cause);
            }
            self.strike(cause, Origin::Generation(self.job.generation));
        }
    }

    /// A checkpoint could not be read. A wrong one is never loaded again; one out of reach is tried again.
    pub fn unreadable(
        &mut self,
        worker: &WorkerId,
        state: muster_types::StateId,
        cause: String,
        damage: Damage,
    ) {
        let in_use = self.job.resume.as_ref().is_some_and(|resume| {
            resume.state == state && matches!(resume.source, ResumeSource::Checkpoint { .. })
        });
        if !in_use || self.job.rank_of(worker).is_none() || self.volatile.round.ready {
            return;
        }
        let first = self.volatile.round.unreadable.is_empty();
        let reason = format!("the checkpoint of {state} cannot be read: {cause}");
        let volatile = self.volatile();
        volatile.round.unreadable.insert(worker.clone());
        volatile
            .round
            .failures
            .insert(worker.clone(), reason.clone());
        match damage {
            Damage::Corrupt => {
                // Storage has answered: it is not what the job waits for.
                self.volatile().storage = None;
                if is_planted(Mutation::NothingCondemned) {
                    return;
                }
                if self
                    .job
                    .checkpoints
                    .get(&state)
                    .is_some_and(|checkpoint| !checkpoint.condemned)
                {
                    self.record(RecordKind::CheckpointCondemned {
                        job: self.id,
                        state,
                        reason: cause,
                    });
                }
            }
            Damage::OutOfReach if first => {
                let tries = self
                    .volatile
                    .storage
                    .as_ref()
                    .map_or(0, |(_, tries)| *tries)
                    + 1;
                let at = self.now.monotonic + self.options.backoff(tries + 1);
                let volatile = self.volatile();
                volatile.storage = Some((reason.clone(), tries));
                volatile.strikes.retry_at = Some(at);
                let standing = self.standing();
                self.announce("storage_unreachable", standing, reason, []);
            }
            Damage::OutOfReach => {}
        }
        debug_assert_ne!(self.job.state, JobState::Finished);
    }
}

/// What is wrong with a checkpoint that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Corrupt,
    OutOfReach,
}
