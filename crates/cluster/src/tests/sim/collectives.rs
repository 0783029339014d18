use std::{collections::BTreeMap, ops::Range};

use muster_types::{Generation, JobId, WorkerId};

use super::{
    content::{self, Content},
    training::{At, BROADCAST, BUILD, HASHES, Thread},
    violation::must,
    worker::{Requests, Worker},
    world::{Action, World, say},
};
use crate::ResumeSource;

/// The collectives of a generation, among those that were told to form it.
#[derive(Debug)]
pub struct Group {
    pub members: Vec<WorkerId>,
    /// The coordinator serves its store.
    store: Store,
    /// A member is gone, or was told to give up: nothing that is not complete completes.
    broken: bool,
    ops: BTreeMap<u64, Op>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Open,
    Closed,
}

/// One collective.
#[derive(Debug, Default)]
struct Op {
    arrived: BTreeMap<WorkerId, Arrived>,
    /// All have come; it completes at each rank in its own time.
    complete: bool,
}

/// What a rank brings to a collective.
#[derive(Clone, Debug)]
struct Arrived {
    content: Content,
    fed: Vec<Range<u64>>,
    requests: Requests,
}

/// How a collective ends for a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Failed,
    Done {
        /// The root's content, in a broadcast.
        content: Content,
        /// Whether all contents are the same.
        agree: bool,
        evidence: u64,
        ranges: Vec<Range<u64>>,
        requests: Requests,
        /// An aborted peer let it complete.
        garbage: bool,
    },
}

/// Why a group breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Died,
    Aborted,
}

impl World {
    pub fn open_store(&mut self, job: JobId, generation: Generation) {
        let open = |group: &mut Group| group.store = Store::Open;
        self.groups
            .entry((job, generation))
            .and_modify(open)
            .or_insert_with(|| Group {
                members: Vec::new(),
                store: Store::Open,
                broken: false,
                ops: BTreeMap::new(),
            });
    }

    pub fn close_store(&mut self, job: JobId, generation: Generation) {
        if let Some(group) = self.groups.get_mut(&(job, generation)) {
            group.store = Store::Closed;
            self.give_up_building(job, generation);
        }
    }

    /// The stores are in the coordinator's memory.
    pub fn stores_are_lost(&mut self) {
        let open: Vec<_> = self
            .groups
            .iter_mut()
            .filter(|(_, group)| group.store == Store::Open)
            .map(|(key, group)| {
                group.store = Store::Closed;
                *key
            })
            .collect();
        for (job, generation) in open {
            self.give_up_building(job, generation);
        }
    }

    fn give_up_building(&mut self, job: JobId, generation: Generation) {
        let group = &self.groups[&(job, generation)];
        let Some(op) = group.ops.get(&BUILD).filter(|op| !op.complete) else {
            return;
        };
        let waiting: Vec<_> = op.arrived.keys().cloned().collect();
        for worker in waiting {
            self.fail_at(&worker, (job, generation), BUILD);
        }
    }

    /// A rank comes to a collective of its generation.
    pub fn enter(&mut self, worker: &WorkerId, op: u64) {
        self.turn_to(worker, At::Collective(op));
        let it = &self.workers[worker];
        let (generation, form) = it.form.clone().expect("a member has a form");
        let key = (it.job, generation);
        let arrived = Arrived {
            content: it.content,
            fed: it.fed.clone(),
            requests: it.requests,
        };
        self.open_store_if_unknown(key);
        let group = self.groups.get_mut(&key).expect("just made");
        if group.members.is_empty() {
            group.members = form
                .members
                .iter()
                .map(|(member, _)| member.clone())
                .collect();
        }
        let (broken, closed) = (group.broken, group.store == Store::Closed);
        group
            .ops
            .entry(op)
            .or_default()
            .arrived
            .insert(worker.clone(), arrived);
        let dead = group.members.iter().any(|member| {
            self.workers
                .get(member)
                .is_none_or(|it| it.generation > generation)
        });
        if broken || dead || (op == BUILD && closed) {
            return self.fail_at(worker, key, op);
        }
        self.complete_if_all_are_there(key, op);
    }

    fn open_store_if_unknown(&mut self, (job, generation): (JobId, Generation)) {
        self.groups
            .entry((job, generation))
            .or_insert_with(|| Group {
                members: Vec::new(),
                store: Store::Closed,
                broken: false,
                ops: BTreeMap::new(),
            });
    }

    /// An error reaches a rank that waits, sooner or later.
    fn fail_at(&mut self, worker: &WorkerId, _: (JobId, Generation), op: u64) {
        let waits = |it: &Worker| it.at == At::Collective(op);
        if self.workers.get(worker).is_some_and(waits) {
            // A ring may not notice: it waits until it is told to give up, or for its own patience.
            let delay = if self.rng.percent(80) {
                self.rng.between(1, 300)
            } else {
                self.rng.between(20_000, 90_000)
            };
            self.thread_after(
                worker,
                delay,
                Thread::Came {
                    op,
                    outcome: Outcome::Failed,
                },
            );
        }
    }

    fn complete_if_all_are_there(&mut self, key: (JobId, Generation), op: u64) {
        let group = &self.groups[&key];
        let there = group.ops.get(&op).is_some_and(|op| {
            !op.complete
                && group
                    .members
                    .iter()
                    .all(|member| op.arrived.contains_key(member))
        });
        if !there {
            return;
        }
        let nodes = group
            .members
            .iter()
            .filter_map(|member| self.workers.get(member));
        let nodes: Vec<_> = nodes.map(|it| it.node.clone()).collect();
        let cut = |node| self.network.peers_blocked.contains(node);
        let cut_off = nodes.iter().any(cut) && nodes.iter().any(|node| *node != nodes[0]);
        if cut_off {
            let (job, generation) = key;
            let patience = self.rng.between(2000, 40_000);
            return self.after(
                patience,
                Action::PeerTimeout {
                    job,
                    generation,
                    op,
                },
            );
        }
        let members = group.members.clone();
        let outcome = self.outcome(key, op);
        if let Some(op) = self
            .groups
            .get_mut(&key)
            .and_then(|group| group.ops.get_mut(&op))
        {
            op.complete = true;
        }
        let torn = op > HASHES
            && members.len() > 1
            && self.chaos
            && self.rng.percent(self.plan.torn_steps);
        let lucky = self.rng.pick(&members).cloned();
        if let (true, Some(group)) = (torn, self.groups.get_mut(&key)) {
            self.coverage.count("steps that one rank alone agreed to");
            group.broken = true;
        }
        for member in members {
            if torn && lucky.as_ref() != Some(&member) {
                self.fail_at(&member, key, op);
                continue;
            }
            let delay = if op == BROADCAST {
                self.rng.between(1, 900)
            } else if self.rng.percent(5) {
                self.rng.between(10, 250)
            } else {
                self.rng.below(4)
            };
            self.thread_after(
                &member,
                delay,
                Thread::Came {
                    op,
                    outcome: outcome.clone(),
                },
            );
        }
        // Only the newest collectives are ever looked at again.
        if let Some(group) = self.groups.get_mut(&key) {
            group.ops.retain(|older, _| older + 2 > op);
        }
    }

    fn outcome(&self, key: (JobId, Generation), op: u64) -> Outcome {
        let arrived = &self.groups[&key].ops[&op].arrived;
        let members = &self.groups[&key].members;
        let form = self.workers[&members[0]].form();
        let root = match (&form.resume.source, op) {
            (ResumeSource::Live { ranks }, BROADCAST) => ranks[0].get() as usize,
            _ => 0,
        };
        let content = arrived[&members[root]].content;
        let mut ranges: Vec<_> = arrived.values().flat_map(|it| it.fed.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        Outcome::Done {
            content,
            agree: arrived.values().all(|it| it.content == content),
            evidence: ranges
                .iter()
                .fold(0, |sum, range| sum.wrapping_add(content::evidence(range))),
            ranges,
            requests: arrived
                .values()
                .fold(Requests::default(), |all, it| all.or(it.requests)),
            garbage: false,
        }
    }

    /// Nodes that did not reach each other do, or patience has an end.
    pub fn peer_timeout(&mut self, job: JobId, generation: Generation, op: u64) {
        let key = (job, generation);
        if self.groups.get(&key).is_some_and(|group| !group.broken) {
            let complete = |group: &Group| group.ops.get(&op).is_none_or(|op| op.complete);
            if complete(&self.groups[&key]) {
                return;
            }
            self.complete_if_all_are_there(key, op);
            if !complete(&self.groups[&key]) {
                say!(
                    self,
                    "the ranks of {job} {generation} do not reach each other"
                );
                self.break_group(key, Break::Died, None);
            }
        }
    }

    pub fn retry_collectives(&mut self) {
        let open: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| !group.broken)
            .flat_map(|(key, group)| {
                let open = group.ops.iter().filter(|(_, op)| !op.complete);
                open.map(|(op, _)| (*key, *op))
            })
            .collect();
        for (key, op) in open {
            self.complete_if_all_are_there(key, op);
        }
    }

    /// A process is gone, and its connections with it.
    pub fn leaves_groups(&mut self, gone: &Worker) {
        let mine: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| !group.broken && group.members.contains(&gone.id))
            .map(|(key, _)| *key)
            .collect();
        for key in mine {
            self.break_group(key, Break::Died, Some(&gone.id));
        }
    }

    /// The control thread ends what its training thread may be waiting in.
    pub fn abort_group(&mut self, worker: &WorkerId) {
        let Some(it) = self.workers.get(worker) else {
            return;
        };
        let Some((generation, _)) = it.form else {
            return;
        };
        let key = (it.job, generation);
        if let At::Collective(op) = it.at {
            self.thread_again(
                worker,
                Thread::Came {
                    op,
                    outcome: Outcome::Failed,
                },
            );
        }
        if self.groups.get(&key).is_some_and(|group| !group.broken) {
            self.break_group(key, Break::Aborted, Some(worker));
        }
    }

    /// Whatever was to come to a rank, this does instead.
    fn thread_again(&mut self, worker: &WorkerId, thread: Thread) {
        if let Some(it) = self.workers.get_mut(worker) {
            it.token += 1;
            self.thread_after(worker, 0, thread);
        }
    }

    fn break_group(&mut self, key: (JobId, Generation), how: Break, by: Option<&WorkerId>) {
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        group.broken = true;
        let members = group.members.clone();
        for member in members.iter().filter(|member| Some(*member) != by) {
            let Some(it) = self.workers.get(member) else {
                continue;
            };
            let At::Collective(op) = it.at else { continue };
            if it
                .form
                .as_ref()
                .is_none_or(|(generation, _)| *generation != key.1)
            {
                continue;
            }
            let complete = self.groups[&key].ops.get(&op).is_some_and(|op| op.complete);
            if complete && self.rng.percent(50) {
                // What it needs has come already.
                continue;
            }
            if how == Break::Aborted && op > HASHES && self.rng.percent(40) {
                self.coverage
                    .count("collectives that completed with garbage");
                let outcome = self.garbage(key, op);
                self.thread_again(member, Thread::Came { op, outcome });
                continue;
            }
            self.coverage.count("collectives that failed");
            if let Some(it) = self.workers.get_mut(member) {
                it.token += 1;
            }
            self.fail_at(member, key, op);
        }
    }

    fn garbage(&self, key: (JobId, Generation), op: u64) -> Outcome {
        let group = &self.groups[&key];
        let arrived = group.ops.get(&op).map(|op| &op.arrived);
        let ranges = arrived
            .iter()
            .flat_map(|it| it.values())
            .flat_map(|it| it.fed.clone());
        let ranges: Vec<_> = ranges.collect();
        Outcome::Done {
            content: 0,
            agree: false,
            evidence: 0,
            ranges,
            requests: Requests::default(),
            garbage: true,
        }
    }

    /// All who are told to form a generation are told the same.
    pub fn check_form(&mut self, worker: &WorkerId, generation: Generation, form: &crate::Form) {
        let job = self.workers[worker].job;
        let slots = self.coordinator_spec(job).batch_slots();
        let dealt: u32 = form.assignment.iter().map(|slots| slots.count).sum();
        must!(
            dealt == slots && form.assignment.len() == form.members.len(),
            ConstantBatch,
            "generation {generation} trains on {dealt} of {slots} slots of the batch"
        );
        let members: Vec<_> = form
            .members
            .iter()
            .map(|(member, _)| member.clone())
            .collect();
        let told = self.oracle.told(job, generation, &members, &form.resume);
        must!(
            told,
            OneHistory,
            "{worker} is told another membership of generation {generation} than its peers"
        );
    }
}
