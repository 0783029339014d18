use std::sync::Arc;

use muster_cluster::{Form, Order, Resume, ResumeSource};
use muster_proto::v1::{self, agent_command, resume_point, worker_command};
use muster_types::{BatchSlots, Generation, JobId, Rank, Segment, StateId, WorkerId};

/// How often workers report committed steps.
const REPORT_INTERVAL_MS: u32 = 250;

/// The command to start a worker.
pub(crate) fn start_worker(
    job: JobId,
    worker: &WorkerId,
    slot: u32,
    device: String,
    threads: u32,
    interface: String,
) -> v1::AgentCommand {
    let start = v1::StartWorker {
        job_id: job.to_string(),
        worker_id: worker.to_string(),
        slot,
        job_dir: job.to_string(),
        threads,
        device,
        interface,
    };
    v1::AgentCommand {
        kind: Some(agent_command::Kind::Start(start)),
    }
}

/// The command to kill a worker.
pub(crate) fn kill_worker(worker: &WorkerId, reason: String) -> v1::AgentCommand {
    let kill = v1::KillWorker {
        worker_id: worker.to_string(),
        reason,
    };
    v1::AgentCommand {
        kind: Some(agent_command::Kind::Kill(kill)),
    }
}

/// Turns orders into what workers get.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// What the members of the last generation were told, and of whom: the same for all but the rank.
    told: Option<(Members, v1::Form)>,
}

type Members = Arc<[(WorkerId, Arc<str>)]>;

impl Orders {
    /// An order, as a worker gets it.
    pub(crate) fn order(
        &mut self,
        job: JobId,
        generation: Generation,
        order: Order,
    ) -> v1::WorkerCommand {
        use worker_command::Kind;
        let kind = match order {
            Order::Welcome {
                spec_json,
                checkpoint_root,
            } => Kind::Welcome(v1::Welcome {
                spec_json,
                checkpoint_root,
                report_interval_ms: REPORT_INTERVAL_MS,
            }),
            Order::Supersede { superseded, reason } => Kind::Supersede(v1::Supersede {
                superseded: superseded.get(),
                reason,
            }),
            Order::Form(one) => Kind::Form(self.form(job, generation, &one)),
            Order::Reconfigure { reason } => Kind::Reconfigure(v1::Reconfigure { reason }),
            Order::SaveNow => Kind::SaveNow(v1::SaveNow {}),
            Order::Leave { save, reason } => Kind::Leave(v1::Leave { save, reason }),
            Order::Expelled { reason } => Kind::Expelled(v1::Expelled { reason }),
            Order::Probe { number } => Kind::Probe(v1::Probe { number }),
            Order::Reach { number, peers } => Kind::Reach(v1::Reach {
                number,
                peers: peers_of(peers),
            }),
            Order::PartAcknowledged { state } => Kind::PartAcknowledged(v1::PartAcknowledged {
                state: Some(state_id(state)),
            }),
        };
        v1::WorkerCommand {
            job_id: job.to_string(),
            generation: generation.get(),
            kind: Some(kind),
        }
    }

    fn form(&mut self, job: JobId, generation: Generation, form: &Form) -> v1::Form {
        let rank = form.rank.get();
        if let Some((members, told)) = &self.told
            && Arc::ptr_eq(members, &form.members)
        {
            return v1::Form {
                rank,
                ..told.clone()
            };
        }
        let told = v1::Form {
            rank,
            world_size: u32::try_from(form.members.len()).unwrap_or(u32::MAX),
            members_digest: members_digest(job, generation, &form.members),
            resume: Some(resume_point(&form.resume)),
            batch_slots: form.assignment.iter().map(|slots| slots.count).sum(),
            accept_spike_after: form.accept_spike_after.map(|step| step.get()),
            segments: form.segments.iter().copied().map(segment).collect(),
        };
        self.told = Some((Arc::clone(&form.members), told.clone()));
        told
    }
}

fn peers_of(peers: Vec<(WorkerId, Arc<str>)>) -> Vec<v1::Peer> {
    let peer = |(worker, address): (WorkerId, Arc<str>)| v1::Peer {
        worker_id: worker.to_string(),
        reach_address: address.to_string(),
    };
    peers.into_iter().map(peer).collect()
}

/// The same for all members exactly if they were told the same of each other.
fn members_digest(job: JobId, generation: Generation, members: &[(WorkerId, Arc<str>)]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{job}\n{generation}\n").as_bytes());
    for (worker, address) in members {
        hasher.update(format!("{worker}\0{address}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn resume_point(resume: &Resume) -> v1::ResumePoint {
    use resume_point::Source;
    let source = match &resume.source {
        ResumeSource::Initialise => Source::Initialise(v1::Initialise {}),
        ResumeSource::Live { ranks } => Source::Live(v1::LiveSources { runs: runs(ranks) }),
        ResumeSource::Checkpoint { uri } => {
            Source::Checkpoint(v1::CheckpointSource { uri: uri.clone() })
        }
    };
    v1::ResumePoint {
        state: Some(state_id(resume.state)),
        source: Some(source),
    }
}

/// Ranks in order, as runs: most often, one run has all but the newcomers.
fn runs(ranks: &[Rank]) -> Vec<v1::RankRun> {
    let mut runs: Vec<v1::RankRun> = Vec::new();
    for rank in ranks.iter().map(|rank| rank.get()) {
        match runs.last_mut() {
            Some(run) if run.first + run.count == rank => run.count += 1,
            _ => runs.push(v1::RankRun {
                first: rank,
                count: 1,
            }),
        }
    }
    runs
}

/// A stretch of the data order.
pub(crate) fn segment(segment: Segment) -> v1::Segment {
    v1::Segment {
        start_step: segment.start_step.get(),
        start_position: segment.start_position.get(),
        global_batch: segment.global_batch,
        dataset_digest: segment.dataset_digest.to_string(),
    }
}

pub(super) fn batch_slots(slots: BatchSlots) -> v1::BatchSlots {
    v1::BatchSlots {
        rank: slots.rank.get(),
        first: slots.first,
        count: slots.count,
    }
}

/// The name of a state.
pub(crate) fn state_id(state: StateId) -> v1::StateId {
    v1::StateId {
        generation: state.generation.get(),
        step: state.step.get(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_types::{Digest, Position, Step};

    use super::*;

    #[test]
    fn a_form_carries_all_that_the_core_decided() {
        let members: Members = Arc::new([
            ("w-0".into(), "10.0.0.1".into()),
            ("w-1".into(), "10.0.0.2".into()),
        ]);
        let mut orders = Orders::default();
        let job: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let state = StateId::new(Generation(3), Step(40));
        let mut one = |rank: u32| {
            let form = Form {
                rank: Rank(rank),
                members: members.clone(),
                resume: Arc::new(Resume {
                    state,
                    source: ResumeSource::Live {
                        ranks: vec![Rank(1)],
                    },
                }),
                assignment: Arc::new([(0, 0, 2), (1, 2, 6)].map(|(rank, first, count)| {
                    let rank = Rank(rank);
                    BatchSlots { rank, first, count }
                })),
                accept_spike_after: None,
                segments: Arc::new([Segment {
                    start_step: Step(10),
                    start_position: Position(80),
                    global_batch: 8,
                    dataset_digest: Digest::new([5; 32]),
                }]),
            };
            let told = orders.order(job, Generation(4), Order::Form(Box::new(form)));
            assert_eq!((told.job_id, told.generation), (job.to_string(), 4));
            match told.kind.unwrap() {
                worker_command::Kind::Form(form) => form,
                other => panic!("{other:?}"),
            }
        };
        let (first, second) = (one(0), one(1));
        assert_eq!((first.rank, second.rank, first.world_size), (0, 1, 2));
        assert_eq!(first.members_digest, second.members_digest);
        let resume = first.resume.unwrap();
        assert_eq!(
            resume.state,
            Some(v1::StateId {
                generation: 3,
                step: 40
            })
        );
        let live = v1::LiveSources {
            runs: vec![v1::RankRun { first: 1, count: 1 }],
        };
        assert_eq!(resume.source, Some(resume_point::Source::Live(live)));
        assert_eq!(first.batch_slots, 8);
        assert_eq!(first.segments[0].dataset_digest, "05".repeat(32));
        assert_ne!(
            members_digest(job, Generation(4), &members),
            members_digest(job, Generation(5), &members)
        );
    }

    #[test]
    fn ranks_are_told_in_runs() {
        let told = |ranks: &[u32]| -> Vec<(u32, u32)> {
            let ranks: Vec<_> = ranks.iter().copied().map(Rank).collect();
            runs(&ranks)
                .iter()
                .map(|run| (run.first, run.count))
                .collect()
        };
        assert_eq!(told(&[0, 1, 2]), [(0, 3)]);
        assert_eq!(told(&[1, 3, 4, 7]), [(1, 1), (3, 2), (7, 1)]);
        assert!(told(&[]).is_empty());
    }
}
