use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use muster_spec::DeviceKind;
use muster_types::{JobId, Monotonic, NodeName, WorkerId};

use crate::{
    Cluster, SlotOffer,
    cluster::JobEntry,
    job::Phase,
    job_turn::is_finishing,
    nodes::SlotClass,
    waiting::{Wait, Waiting, counted, job_words},
};

/// A slot by its node.
pub(crate) type Place = (NodeName, SlotOffer);

/// Who is placed, who gives slots back, and why everyone else waits. It follows from the state alone, so it is made anew
/// each time, and what is under way already counts as done.
///
/// - Jobs are served by priority, then in the order of submission. Each is owed a gang: `workers.min`.
/// - What a job has above its gang is lent: any job whose gang waits gets it back, at a step boundary.
/// - Only where that is not enough, jobs of strictly lower priority are preempted, the lowest and youngest of them.
/// - A gang that waits for jobs which it may not displace holds up the gangs behind it, so that none slips past it for
///   ever. One that the cluster is too small for, or that is over its user's quota, holds up nobody.
/// - A job that has begun gets replacements even so, up to its gang: what died under it is no reason to wait in line.
/// - What is left then is lent, in the same order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Slots to fill now.
    pub placements: Vec<(JobId, Vec<Place>, Share)>,
    /// Workers to give back at the next boundary, and why.
    pub recalls: BTreeMap<JobId, BTreeMap<WorkerId, String>>,
    /// Who gives way to whom, and why.
    pub preemptions: Vec<(JobId, JobId, String)>,
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
}

/// A job that is not over, and what it holds.
#[derive(Debug)]
pub(crate) struct Contender<'a> {
    pub id: JobId,
    pub priority: i32,
    sequence: u64,
    user: &'a str,
    pub class: SlotClass,
    /// The workers without which it does not train.
    gang: usize,
    capacity: usize,
    /// It has a generation: it is about to train, or has trained since it was placed.
    has_begun: bool,
    /// How many workers it goes on with.
    pub kept: usize,
    /// Those of them whose slots others could use, in the order in which they would be given back.
    usable: Vec<&'a WorkerId>,
    /// How many of those are recalled.
    recalled: usize,
    /// It gives all that it has back, or wants no more.
    pub leaving: bool,
    /// Its last checkpoint is being completed: what it wants depends on that.
    settling: bool,
    /// It pauses after a failure.
    paused: bool,
}

impl Contender<'_> {
    /// How many workers it could give back and train on, beyond those that are recalled.
    fn lent(&self) -> usize {
        if self.leaving {
            return 0;
        }
        let above = self.kept.saturating_sub(self.gang);
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
    fn held(&self) -> usize {
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
    blocked_by: Option<JobId>,
}

impl Pool {
    /// Sets slots aside: free ones first, then those that are coming.
    fn set_aside(&mut self, mut count: usize) {
        while count > 0 && self.free.pop_front().is_some() {
            count -= 1;
        }
        self.coming = self.coming.saturating_sub(count);
    }
}

/// A plan in the making.
struct Planner<'a> {
    cluster: &'a Cluster,
    in_flux: bool,
    /// In the order in which they are served.
    contenders: Vec<Contender<'a>>,
    pools: BTreeMap<SlotClass, Pool>,
    /// Slots that each user's jobs hold or are promised.
    used: BTreeMap<&'a str, usize>,
    plan: Plan,
}

impl Cluster {
    /// What is to be placed and given back now.
    pub(crate) fn plan(&self, now: Monotonic) -> Plan {
        let (contenders, pools) = self.stock(now);
        let mut used = BTreeMap::new();
        for entry in self.jobs.values() {
            let user = entry.job.submission.spec.queue.user.as_str();
            *used.entry(user).or_default() += entry.job.workers.len();
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
            planner.lend(index);
        }
        planner.plan
    }

    /// The jobs that are not over, in the order in which they are served, and the slots there are for them.
    pub(crate) fn stock(&self, now: Monotonic) -> (Vec<Contender<'_>>, BTreeMap<SlotClass, Pool>) {
        let mut holders = BTreeMap::new();
        for (id, entry) in &self.jobs {
            for (worker, placement) in &entry.job.workers {
                holders.insert((&placement.node, placement.slot), (*id, worker));
            }
        }
        let mut pools = BTreeMap::from([
            (SlotClass::Cpu, Pool::default()),
            (SlotClass::Cuda, Pool::default()),
        ]);
        let mut usable: BTreeSet<&WorkerId> = BTreeSet::new();
        for (class, pool) in &mut pools {
            for (node, slot) in self.nodes.offered(*class) {
                if self.cordons.contains_key(node) {
                    continue;
                }
                pool.offered += 1;
                let stranger =
                    self.nodes.known.get(node).is_some_and(|node| {
                        node.strangers.values().any(|taken| *taken == slot.index)
                    });
                match holders.get(&(node, slot.index)) {
                    _ if stranger => {}
                    None => pool.free.push_back((node.clone(), slot.clone())),
                    Some((job, worker)) if self.goes_on_with(*job, worker) => {
                        usable.insert(worker);
                    }
                    Some(_) => pool.coming += 1,
                }
            }
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

    /// Whether a worker stays where it is, as far as its job is concerned.
    fn goes_on_with(&self, job: JobId, worker: &WorkerId) -> bool {
        self.jobs.get(&job).is_some_and(|entry| {
            !leaves(entry) && entry.job.keeps(worker) && !entry.volatile.left.contains_key(worker)
        })
    }

    fn contender<'a>(
        &self,
        entry: &'a JobEntry,
        usable: &BTreeSet<&'a WorkerId>,
        now: Monotonic,
    ) -> Contender<'a> {
        let JobEntry { job, volatile } = entry;
        let queue = &job.submission.spec.queue;
        let stays = |worker: &WorkerId| job.keeps(worker) && !volatile.left.contains_key(worker);
        let mut kept: Vec<_> = job
            .workers
            .iter()
            .filter(|(worker, _)| stays(worker))
            .collect();
        // Whoever is in no generation costs nothing; then the youngest.
        kept.sort_by_key(|(worker, placement)| {
            (job.takes_part(worker), Reverse(placement.ordinal))
        });
        let class = match job.workers.values().find(|placement| !placement.expelled) {
            // All workers of a job are of one kind: they must reach each other by one backend.
            Some(placement) => SlotClass::of(&placement.device),
            None => self.class_for(job.submission.spec.workers.device),
        };
        Contender {
            id: job.submission.job,
            priority: queue.priority,
            sequence: job.sequence,
            user: &queue.user,
            class,
            gang: job.gang(),
            capacity: job.capacity(),
            has_begun: job.phase != Phase::Idle,
            kept: kept.len(),
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

/// Whether a job gives all that it has back: it is over, or its workers save and leave.
fn leaves(entry: &JobEntry) -> bool {
    let JobEntry { job, volatile } = entry;
    let lost = |member: &WorkerId| !job.serves(member) && !volatile.left.contains_key(member);
    job.state.is_over()
        || job.is_to_leave()
        || job.is_done()
        || (is_finishing(job, volatile) && !job.members.iter().any(lost))
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
        if need > pool.offered - usable {
            if in_flux {
                pool.blocked_by.get_or_insert(id);
            }
            return self.wait(index, need, Wait::TooSmall);
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

    fn wait(&mut self, index: usize, need: usize, why: Wait) {
        let contender = &self.contenders[index];
        let waiting = Waiting {
            need,
            class: contender.class,
            has_some: contender.kept > 0,
            why,
        };
        self.plan.waits.insert(contender.id, waiting);
    }

    fn promise(&mut self, index: usize, count: usize) {
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
                entry.job.workers.keys().filter(move |worker| {
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

    /// Has others give slots back so that a job gets what it needs: what is lent to them, and where that is not enough, all
    /// that those have which it may displace. Returns whether it was enough; if not, nobody gives anything.
    fn claim(
        &mut self,
        index: usize,
        need: usize,
        may_displace: impl Fn(&Contender<'_>) -> bool,
    ) -> bool {
        let class = self.contenders[index].class;
        let pool = self.pools.entry(class).or_default();
        let at_hand = pool.free.len() + pool.coming;
        let mut deficit = need.saturating_sub(at_hand);
        let others: Vec<usize> = (0..self.contenders.len())
            .filter(|other| *other != index && self.contenders[*other].class == class)
            .collect();
        let lent: usize = others
            .iter()
            .map(|other| self.contenders[*other].lent())
            .sum();
        let mut given = 0;
        if lent < deficit {
            // Of those that it may displace, as many are spared as can be, from the first in the queue on.
            let owed = |other: &Contender<'_>| other.held() - other.lent();
            let displaced: Vec<usize> = others
                .iter()
                .copied()
                .filter(|other| may_displace(&self.contenders[*other]))
                .filter(|other| self.contenders[*other].held() > 0)
                .collect();
            let mut total: usize = displaced
                .iter()
                .map(|other| owed(&self.contenders[*other]))
                .sum();
            if lent + total < deficit {
                return false;
            }
            let (id, words) = (self.contenders[index].id, self.words(index));
            let class = class.as_str();
            for other in displaced {
                let spared = owed(&self.contenders[other]);
                if lent + total - spared >= deficit {
                    total -= spared;
                    continue;
                }
                let contender = &mut self.contenders[other];
                given += contender.held();
                contender.leaving = true;
                let slots = counted(need, &format!("{class} slot"));
                let reason = if contender.kept < contender.gang {
                    format!(
                        "gives way to {words}, which needs {slots}: it waits for more workers itself"
                    )
                } else {
                    format!("gives way to {words}, which needs {slots}")
                };
                self.plan.preemptions.push((contender.id, id, reason));
            }
            deficit = deficit.saturating_sub(given);
        }
        let why = format!(
            "{} waits for {}",
            self.words(index),
            counted(need, &format!("{} slot", class.as_str()))
        );
        self.recall(index, deficit, None, &why);
        let pool = self.pools.entry(class).or_default();
        pool.coming += given + deficit;
        pool.set_aside(need);
        true
    }

    /// Has others, or only those of a user, give back what is lent to them: the last in the queue first.
    fn recall(&mut self, index: usize, mut count: usize, user: Option<&str>, why: &str) {
        let class = self.contenders[index].class;
        for (other, contender) in self.contenders.iter_mut().enumerate().rev() {
            let of_user = user.map_or(contender.class == class, |user| contender.user == user);
            if other == index || !of_user {
                continue;
            }
            let giving = contender.lent().min(count);
            count -= giving;
            let recalled = contender
                .usable
                .iter()
                .skip(contender.recalled)
                .take(giving);
            let recalled: Vec<_> = recalled
                .map(|worker| ((*worker).clone(), why.to_owned()))
                .collect();
            contender.recalled += giving;
            if giving > 0 {
                let all = self.plan.recalls.entry(contender.id).or_default();
                all.extend(recalled);
            }
        }
    }

    /// Two jobs that each hold what the other lacks would wait for ever: the first in the queue gets it.
    fn untie(&mut self) {
        if self.in_flux {
            return;
        }
        let is_held = |plan: &Plan, id: &JobId| {
            plan.waits
                .get(id)
                .is_some_and(|waiting| waiting.why == Wait::Held)
        };
        for index in 0..self.contenders.len() {
            let id = self.contenders[index].id;
            if !is_held(&self.plan, &id) {
                continue;
            }
            let behind: BTreeSet<JobId> = self.contenders[index + 1..]
                .iter()
                .map(|contender| contender.id)
                .filter(|other| is_held(&self.plan, other))
                .collect();
            let need = self.plan.waits.get(&id).map_or(0, |waiting| waiting.need);
            let priority = self.contenders[index].priority;
            let may =
                |other: &Contender<'_>| other.priority < priority || behind.contains(&other.id);
            if self.claim(index, need, may) {
                self.promise(index, need);
                return self.wait(index, need, Wait::Coming);
            }
        }
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

    fn words(&self, index: usize) -> String {
        let contender = &self.contenders[index];
        job_words(contender.id, contender.priority)
    }
}
