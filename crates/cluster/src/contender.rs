use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use muster_spec::DeviceKind;
use muster_types::{JobId, Monotonic, NodeName, WorkerId};

use crate::{
    Cluster, ClusterOptions, SlotOffer,
    cluster::JobEntry,
    job::{Job, Phase, Placement},
    job_turn::is_finishing,
    nodes::SlotClass,
};

/// A slot by its node.
pub(crate) type Place = (NodeName, SlotOffer);

/// A job that is not over, and what it holds.
#[derive(Debug)]
pub(crate) struct Contender<'a> {
    pub id: JobId,
    pub priority: i32,
    pub sequence: u64,
    pub user: &'a str,
    pub class: SlotClass,
    /// The workers without which it does not train.
    pub gang: usize,
    pub capacity: usize,
    /// How many warm standbys it may have now, beside its capacity.
    pub spares: usize,
    /// It has a generation: it is about to train, or has trained since it was placed.
    pub has_begun: bool,
    /// How many workers it goes on with, beside those on nodes that are drained.
    pub kept: usize,
    /// Those on nodes that are drained.
    pub moving: Vec<&'a WorkerId>,
    /// Those of them whose slots others could use, in the order in which they would be given back.
    pub usable: Vec<&'a WorkerId>,
    /// How many of those are recalled.
    pub recalled: usize,
    /// It gives all that it has back, or wants no more.
    pub leaving: bool,
    /// Its last checkpoint is being completed: what it wants depends on that.
    pub settling: bool,
    /// It pauses after a failure.
    pub paused: bool,
}

impl Contender<'_> {
    /// How many workers it could give back and train on, beyond those that are recalled.
    pub fn lent(&self) -> usize {
        if self.leaving {
            return 0;
        }
        let above = self.kept.saturating_sub(self.gang);
        above.min(self.usable.len()).saturating_sub(self.recalled)
    }

    /// How many of those are its spares.
    pub fn spare(&self) -> usize {
        if self.leaving {
            return 0;
        }
        let above = self.kept.saturating_sub(self.capacity);
        above.min(self.usable.len()).saturating_sub(self.recalled)
    }

    /// How many slots of a class it holds and does not give back by itself.
    pub fn usable_in(&self, class: SlotClass) -> usize {
        if self.class == class && !self.leaving {
            self.usable.len()
        } else {
            0
        }
    }

    /// How many slots it holds that others could use, beyond those that are recalled.
    pub fn held(&self) -> usize {
        if self.leaving {
            0
        } else {
            self.usable.len() - self.recalled
        }
    }
}

/// The slots of a class that new workers may be placed on.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// All of them.
    pub offered: usize,
    pub free: VecDeque<Place>,
    /// Slots whose workers are on their way out.
    pub coming: usize,
    /// The first gang that waits for jobs which it may not displace.
    pub blocked_by: Option<JobId>,
}

impl Pool {
    /// Takes a free slot on the node that has the fewest of these workers.
    pub fn take_apart_from(&mut self, workers: &BTreeMap<NodeName, usize>) -> Option<Place> {
        let there = |place: &Place| workers.get(&place.0).copied().unwrap_or(0);
        let at = (0..self.free.len()).min_by_key(|at| there(&self.free[*at]))?;
        self.free.remove(at)
    }

    /// Sets slots aside: free ones first, then those that are coming.
    pub fn set_aside(&mut self, mut count: usize) {
        while count > 0 && self.free.pop_front().is_some() {
            count -= 1;
        }
        self.coming = self.coming.saturating_sub(count);
    }
}

impl Cluster {
    /// The jobs that are not over, in the order in which they are served, and the slots there are for them.
    pub(crate) fn stock(&self, now: Monotonic) -> (Vec<Contender<'_>>, BTreeMap<SlotClass, Pool>) {
        let mut holders: BTreeMap<&NodeName, BTreeMap<u32, Holder<'_>>> = BTreeMap::new();
        for entry in self.jobs.values() {
            let leaves = leaves(entry);
            for (worker, placement) in &entry.job.workers {
                let stays = !leaves && stays(entry, worker, placement);
                let node = holders.entry(&placement.node).or_default();
                node.insert(placement.slot, Holder { worker, stays });
            }
        }
        let mut pools = BTreeMap::from([
            (SlotClass::Cpu, Pool::default()),
            (SlotClass::Cuda, Pool::default()),
        ]);
        let mut usable: BTreeSet<&WorkerId> = BTreeSet::new();
        for (class, pool) in &mut pools {
            for (node, slot) in self.nodes.offered(*class) {
                if self.is_closed(node, slot.index) {
                    continue;
                }
                pool.offered += 1;
                let stranger =
                    self.nodes.known.get(node).is_some_and(|node| {
                        node.strangers.values().any(|taken| *taken == slot.index)
                    });
                match holders.get(node).and_then(|held| held.get(&slot.index)) {
                    _ if stranger => {}
                    None => pool.free.push_back((node.clone(), slot.clone())),
                    Some(holder) if holder.stays => {
                        usable.insert(holder.worker);
                    }
                    Some(_) => pool.coming += 1,
                }
            }
        }
        for pool in pools.values_mut() {
            // Where workers failed lately, others go last.
            let free = pool.free.make_contiguous();
            free.sort_by_key(|(node, slot)| self.faults_at(node, slot.index));
        }
        let mut contenders: Vec<_> = self
            .jobs
            .values()
            .filter(|entry| !entry.job.state.is_over())
            .map(|entry| self.contender(entry, &usable, now))
            .collect();
        contenders.sort_by_key(|contender| (Reverse(contender.priority), contender.sequence));
        (contenders, pools)
    }

    fn contender<'a>(
        &self,
        entry: &'a JobEntry,
        usable: &BTreeSet<&'a WorkerId>,
        now: Monotonic,
    ) -> Contender<'a> {
        let JobEntry { job, volatile } = entry;
        let queue = &job.submission.spec.queue;
        let (moving, mut kept): (Vec<_>, Vec<_>) = job
            .workers
            .iter()
            .filter(|(worker, placement)| stays(entry, worker, placement))
            .partition(|(_, placement)| self.is_draining(&placement.node));
        // Whoever is in no generation costs nothing; then the youngest.
        kept.sort_by_key(|(_, placement)| (placement.takes_part, Reverse(placement.ordinal)));
        let class = self.class_of(job);
        Contender {
            id: job.submission.job,
            priority: queue.priority,
            sequence: job.sequence,
            user: &queue.user,
            class,
            gang: job.gang(),
            capacity: job.capacity(),
            spares: spares_wanted(entry, &self.options, now),
            has_begun: job.phase != Phase::Idle,
            kept: kept.len(),
            moving: moving.into_iter().map(|(worker, _)| worker).collect(),
            usable: kept
                .into_iter()
                .map(|(worker, _)| worker)
                .filter(|worker| usable.contains(worker))
                .collect(),
            recalled: 0,
            leaving: leaves(entry),
            settling: volatile.saves.settling(),
            paused: volatile.strikes.retry_at.is_some_and(|at| at > now),
        }
    }

    /// What kind of slots a job runs on.
    pub(crate) fn class_of(&self, job: &Job) -> SlotClass {
        match job.workers.values().find(|placement| !placement.expelled) {
            // All workers of a job are of one kind: they must reach each other by one backend.
            Some(placement) => SlotClass::of(&placement.device),
            None => self.class_for(job.submission.spec.workers.device),
        }
    }

    fn class_for(&self, device: DeviceKind) -> SlotClass {
        match device {
            DeviceKind::Cpu => SlotClass::Cpu,
            DeviceKind::Cuda => SlotClass::Cuda,
            // A cordon does not last: it makes no job run on CPUs that was to run on GPUs.
            DeviceKind::Auto if self.nodes.offers(SlotClass::Cuda) => SlotClass::Cuda,
            DeviceKind::Auto => SlotClass::Cpu,
        }
    }
}

/// How many spares a job may have now. While it starts or recovers, another process that starts would be in its way.
fn spares_wanted(entry: &JobEntry, options: &ClusterOptions, now: Monotonic) -> usize {
    let JobEntry { job, volatile } = entry;
    let failures = &volatile.spare_failures;
    let given_up = failures.count >= options.max_failures && failures.generation == job.generation;
    let trains = job.phase == Phase::Active && volatile.round.ready && !is_finishing(job, volatile);
    match failures.retry_at.is_none_or(|at| at <= now) && trains && !given_up {
        true => job.submission.spec.workers.spares as usize,
        false => 0,
    }
}

/// Who is on a slot.
struct Holder<'a> {
    worker: &'a WorkerId,
    /// It stays there, as far as its job is concerned.
    stays: bool,
}

/// Whether a job that does not leave goes on with a worker.
fn stays(entry: &JobEntry, worker: &WorkerId, placement: &Placement) -> bool {
    !placement.expelled && !placement.released && !entry.volatile.left.contains_key(worker)
}

/// Whether a job gives all that it has back: it is over, or its workers save and leave.
pub(crate) fn leaves(entry: &JobEntry) -> bool {
    let JobEntry { job, volatile } = entry;
    let lost = |member: &&WorkerId| !volatile.left.contains_key(*member);
    job.state.is_over()
        || job.is_to_leave()
        || job.is_done()
        || (is_finishing(job, volatile) && !job.lost().iter().any(lost))
}
