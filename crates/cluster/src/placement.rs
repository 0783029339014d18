use std::collections::BTreeSet;

use muster_spec::DeviceKind;
use muster_types::{JobId, NodeName, WorkerId};

use crate::{
    Cluster, RecordKind, SlotOffer,
    cluster::JobEntry,
    job_turn::{JobTurn, is_finishing},
    nodes::SlotClass,
    turn::Turn,
};

/// What a job would take of the cluster's free slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub class: SlotClass,
    /// Fewer are of no use: the gang that a job without workers starts with.
    pub least: usize,
    /// No more than this.
    pub most: usize,
}

impl Cluster {
    /// The slots of a class that no process is known to be on, in order of node and index.
    pub(crate) fn free_slots(&self, class: SlotClass) -> Vec<(NodeName, SlotOffer)> {
        let mut taken: BTreeSet<(&NodeName, u32)> = BTreeSet::new();
        for placement in self
            .jobs
            .values()
            .flat_map(|entry| entry.job.workers.values())
        {
            taken.insert((&placement.node, placement.slot));
        }
        for (name, node) in &self.nodes.0 {
            taken.extend(node.strangers.values().map(|slot| (name, *slot)));
        }
        self.nodes
            .offered(class)
            .filter(|(node, slot)| !taken.contains(&(*node, slot.index)))
            .map(|(node, slot)| (node.clone(), slot.clone()))
            .collect()
    }

    /// What a job wants; `None` where it wants nothing.
    pub(crate) fn demand(&self, entry: &JobEntry) -> Option<Demand> {
        let JobEntry { job, volatile } = entry;
        if job.state.is_over() || job.stop.is_some() || job.is_done() || volatile.saves.settling() {
            return None;
        }
        let lost = |member: &WorkerId| !job.serves(member) && !volatile.left.contains_key(member);
        if is_finishing(job, volatile) && !job.members.iter().any(lost) {
            return None;
        }
        let serving = job.serving();
        let class = match serving.first().and_then(|worker| job.workers.get(worker)) {
            // All workers of a job are of one kind: they must reach each other by one backend.
            Some(placement) => SlotClass::of(&placement.device),
            None => self.class_for(job.submission.spec.workers.device),
        };
        let least = if serving.is_empty() {
            job.required()
        } else {
            1
        };
        let most = job.capacity().saturating_sub(serving.len());
        (most > 0).then_some(Demand { class, least, most })
    }

    fn class_for(&self, device: DeviceKind) -> SlotClass {
        match device {
            DeviceKind::Cpu => SlotClass::Cpu,
            DeviceKind::Cuda => SlotClass::Cuda,
            DeviceKind::Auto if self.nodes.offers(SlotClass::Cuda) => SlotClass::Cuda,
            DeviceKind::Auto => SlotClass::Cpu,
        }
    }
}

impl Turn {
    /// Deals free slots to jobs in the order of submission. A job that waits for its gang holds up those behind it.
    pub fn place(&mut self) {
        for id in self.cluster.in_order() {
            let Some(entry) = self.cluster.jobs.get(&id) else {
                continue;
            };
            let Some(demand) = self.cluster.demand(entry) else {
                continue;
            };
            if self.is_paused(id) {
                continue;
            }
            let free = self.cluster.free_slots(demand.class);
            if free.len() < demand.least {
                let is_gang = self
                    .cluster
                    .jobs
                    .get(&id)
                    .is_some_and(|entry| entry.job.serving().is_empty());
                if is_gang {
                    return;
                }
                continue;
            }
            let slots: Vec<_> = free.into_iter().take(demand.most).collect();
            self.with(id, |turn| {
                for (node, slot) in slots {
                    turn.place_worker(node, slot);
                }
            });
        }
    }

    /// Whether a job pauses after a failure; it is looked at again when the pause is over.
    fn is_paused(&mut self, id: JobId) -> bool {
        let retry_at = self
            .cluster
            .jobs
            .get(&id)
            .and_then(|entry| entry.volatile.strikes.retry_at);
        let Some(at) = retry_at.filter(|at| *at > self.now.monotonic) else {
            return false;
        };
        if let Some(entry) = self.cluster.jobs.get_mut(&id)
            && entry.volatile.wake.is_none_or(|wake| wake > at)
        {
            std::sync::Arc::make_mut(&mut entry.volatile).wake = Some(at);
            self.touched.insert(id);
        }
        true
    }
}

impl JobTurn<'_> {
    fn place_worker(&mut self, node: NodeName, slot: SlotOffer) {
        let first = self.job.serving().is_empty();
        let worker = self.new_worker_id();
        let reason = match self.volatile.strikes.causes.last() {
            Some(cause) => format!("replaces: {cause}"),
            None if first || self.job.generation.get() == 0 => "the job starts".to_owned(),
            None => "the job grows".to_owned(),
        };
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
