use std::collections::BTreeMap;

use muster_types::{JobId, Monotonic, NodeName, WorkerId};

use crate::{
    Cluster,
    contender::{Contender, Place, Pool, leaves},
    job::Placement,
    nodes::SlotClass,
    reshape::Recall,
    waiting::{Wait, Waiting, counted, job_words},
};

/// Who is placed, who gives slots back, and why everyone else waits. It follows from the state alone, so it is made anew
/// each time, and what is under way already counts as done.
///
/// - Jobs are served by priority, then in the order of submission. Each is owed a gang: `workers.min`.
/// - What a job has above its gang is lent: any job whose gang waits gets it back, at a step boundary.
/// - Only where that is not enough, jobs of strictly lower priority are preempted, the lowest and youngest of them.
/// - A gang that waits for jobs which it may not displace holds up the gangs behind it, so that none slips past it for
///   ever. One that the cluster is too small for, or that is over its user's quota, holds up nobody.
/// - A job that has begun gets replacements even so, up to its gang: what died under it is no reason to wait in line.
/// - Workers on a node that is drained count for nothing: their job gets others elsewhere, like any job that lacks some, and
///   goes on with those. One that cannot have as many as it needs is preempted; it saves, and waits like all others.
/// - What is left then is lent, in the same order; and after that, jobs that train get their spares. A spare counts as lent,
///   is given back before anyone shrinks, and recalls nobody.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Slots to fill now.
    pub placements: Vec<(JobId, Vec<Place>, Share)>,
    /// Workers to give back at the next boundary, and why.
    pub recalls: BTreeMap<JobId, BTreeMap<WorkerId, Recall>>,
    /// Who gives way, to whom where it is to another job, and why.
    pub preemptions: Vec<(JobId, Option<JobId>, String)>,
    /// Why the gangs that are not placed are not.
    pub waits: BTreeMap<JobId, Waiting>,
}

/// By what right a job gets a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// It needs it to train at all.
    Gang,
    /// Nobody who waits could use it.
    Lent,
    /// Nobody could train with it, either.
    Spare,
}

/// A plan in the making.
pub(crate) struct Planner<'a> {
    pub cluster: &'a Cluster,
    pub in_flux: bool,
    /// In the order in which they are served.
    pub contenders: Vec<Contender<'a>>,
    pub pools: BTreeMap<SlotClass, Pool>,
    /// Slots that each user's jobs hold or are promised.
    pub used: BTreeMap<&'a str, usize>,
    pub plan: Plan,
}

impl Cluster {
    /// What is to be placed and given back now.
    pub(crate) fn plan(&self, now: Monotonic) -> Plan {
        let (contenders, pools) = self.stock(now);
        let mut used = BTreeMap::new();
        for entry in self.jobs.values() {
            let user = entry.job.submission.spec.queue.user.as_str();
            let places = entry.job.workers.values();
            let stay = places.filter(|placement| !self.is_draining(&placement.node));
            *used.entry(user).or_default() += stay.count();
        }
        let mut planner = Planner {
            cluster: self,
            in_flux: self.nodes.in_flux_until.is_some(),
            contenders,
            pools,
            used,
            plan: Plan::default(),
        };
        for index in 0..planner.contenders.len() {
            planner.serve_gang(index);
        }
        planner.untie();
        for index in 0..planner.contenders.len() {
            planner.vacate(index);
        }
        for index in 0..planner.contenders.len() {
            planner.lend(index);
        }
        for index in 0..planner.contenders.len() {
            planner.lend_for_spares(index);
        }
        planner.plan
    }
}

impl Planner<'_> {
    /// Gives a job what it needs to train, if that can be had.
    fn serve_gang(&mut self, index: usize) {
        let contender = &self.contenders[index];
        let (id, class) = (contender.id, contender.class);
        let is_in_line = !contender.has_begun && contender.kept == 0;
        let need = contender.gang.saturating_sub(contender.kept);
        if contender.leaving || contender.settling || need == 0 {
            return;
        }
        if let Some(wait) = self.over_quota(index, need) {
            return self.wait(index, need, wait);
        }
        let in_flux = self.in_flux;
        let (usable, paused) = (
            self.contenders[index].usable.len(),
            self.contenders[index].paused,
        );
        let pool = self.pools.entry(class).or_default();
        if let Some(missing @ 1..) = need.checked_sub(pool.offered - usable) {
            if in_flux {
                pool.blocked_by.get_or_insert(id);
            }
            return self.wait(index, need, Wait::TooSmall { missing });
        }
        if paused {
            // It soon tries again, and keeps its turn.
            pool.set_aside(need.min(pool.free.len()));
            return self.wait(index, need, Wait::Paused);
        }
        if let Some(blocker) = pool.blocked_by.filter(|_| is_in_line) {
            return self.wait(index, need, Wait::Behind(blocker));
        }
        if need <= pool.free.len() {
            let places = pool.free.drain(..need).collect();
            self.promise(index, need);
            self.contenders[index].kept += need;
            return self.plan.placements.push((id, places, Share::Gang));
        }
        if need <= pool.free.len() + pool.coming {
            pool.set_aside(need);
            self.promise(index, need);
            return self.wait(index, need, Wait::Coming);
        }
        if !in_flux {
            let priority = self.contenders[index].priority;
            if self.claim(index, need, |other| other.priority < priority) {
                self.promise(index, need);
                return self.wait(index, need, Wait::Coming);
            }
        }
        let pool = self.pools.entry(class).or_default();
        pool.blocked_by.get_or_insert(id);
        self.wait(index, need, Wait::Held);
    }

    pub fn wait(&mut self, index: usize, need: usize, why: Wait) {
        let contender = &self.contenders[index];
        let waiting = Waiting {
            need,
            class: contender.class,
            has_some: contender.kept > 0,
            why,
        };
        self.plan.waits.insert(contender.id, waiting);
    }

    pub fn promise(&mut self, index: usize, count: usize) {
        *self.used.entry(self.contenders[index].user).or_default() += count;
    }

    /// How many more slots the job's user may hold; `None` where there is no quota.
    fn headroom(&self, index: usize) -> Option<usize> {
        let user = self.contenders[index].user;
        let quota = self.cluster.options.user_quotas.of(user)? as usize;
        Some(quota.saturating_sub(self.used.get(user).copied().unwrap_or(0)))
    }

    /// Why a job waits for its user's other jobs, if so. It gets back what is lent to those; a quota preempts nobody.
    fn over_quota(&mut self, index: usize, need: usize) -> Option<Wait> {
        let headroom = self.headroom(index)?;
        if need <= headroom {
            return None;
        }
        let Contender { id, user, gang, .. } = self.contenders[index];
        let quota = self.cluster.options.user_quotas.of(user)? as usize;
        let held = self.used.get(user).copied().unwrap_or(0);
        let of_user = |other: &&Contender<'_>| other.user == user && other.id != id;
        let lent: usize = self
            .contenders
            .iter()
            .filter(of_user)
            .map(Contender::lent)
            .sum();
        let leaving = self
            .cluster
            .jobs
            .values()
            .filter(|entry| entry.job.submission.spec.queue.user == user)
            .flat_map(|entry| {
                let gone = leaves(entry);
                let stay = |placement: &Placement| !self.cluster.is_draining(&placement.node);
                let workers = entry.job.workers.iter().filter(move |(_, it)| stay(it));
                workers.filter(move |(worker, _)| {
                    gone || !entry.job.keeps(worker) || entry.volatile.left.contains_key(*worker)
                })
            })
            .count();
        let short = need - headroom;
        if gang <= quota && leaving + lent >= short {
            let why = format!(
                "{} is over the quota of user {user:?} without {}",
                self.words(index),
                counted(short, "slot")
            );
            self.recall(index, short.saturating_sub(leaving), Some(user), &why);
            self.promise(index, need);
        }
        Some(Wait::Quota { quota, held })
    }

    /// Lends a job what is left.
    fn lend(&mut self, index: usize) {
        let headroom = self.headroom(index).unwrap_or(usize::MAX);
        let contender = &mut self.contenders[index];
        let is_idle = contender.leaving || contender.settling || contender.paused;
        if is_idle || contender.recalled > 0 || contender.kept < contender.gang {
            return;
        }
        let (id, class) = (contender.id, contender.class);
        let pool = self.pools.entry(class).or_default();
        let count = contender
            .capacity
            .saturating_sub(contender.kept)
            .min(pool.free.len())
            .min(headroom);
        if count > 0 {
            contender.kept += count;
            let places = pool.free.drain(..count).collect();
            self.plan.placements.push((id, places, Share::Lent));
            self.promise(index, count);
        }
    }

    /// Lends a job what not even growth has a use for, as far as can be on other nodes than its workers are on.
    fn lend_for_spares(&mut self, index: usize) {
        let headroom = self.headroom(index).unwrap_or(usize::MAX);
        let contender = &self.contenders[index];
        let is_idle = contender.leaving || contender.settling || contender.paused;
        if is_idle || contender.recalled > 0 || contender.kept < contender.capacity {
            return;
        }
        let (id, class) = (contender.id, contender.class);
        let wanted = contender.capacity + contender.spares;
        let count = wanted.saturating_sub(contender.kept).min(headroom);
        let mut workers: BTreeMap<NodeName, usize> = BTreeMap::new();
        let job = self.cluster.jobs.get(&id);
        for placement in job.iter().flat_map(|entry| entry.job.workers.values()) {
            *workers.entry(placement.node.clone()).or_default() += 1;
        }
        let pool = self.pools.entry(class).or_default();
        let mut places = Vec::new();
        while places.len() < count
            && let Some(place) = pool.take_apart_from(&workers)
        {
            *workers.entry(place.0.clone()).or_default() += 1;
            places.push(place);
        }
        if !places.is_empty() {
            self.contenders[index].kept += places.len();
            self.promise(index, places.len());
            self.plan.placements.push((id, places, Share::Spare));
        }
    }

    pub fn words(&self, index: usize) -> String {
        let contender = &self.contenders[index];
        job_words(contender.id, contender.priority)
    }
}
