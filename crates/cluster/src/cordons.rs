//! A slot or a node on which workers keep failing by themselves, while they do not elsewhere, gets no more work.

use std::collections::{BTreeMap, BTreeSet};

use muster_types::{JobId, NodeName, Step};

use crate::{
    Cluster, RecordKind,
    cluster::JobEntry,
    draining::NODE_DRAINING,
    faults::{Fault, is_recent},
    job::Phase,
    mutation::{Mutation, is_planted},
    nodes::SlotClass,
    turn::Turn,
    waiting::{Wait, Waiting, counted},
};

/// Why nothing new is placed somewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cordon {
    pub reason: String,
    /// It was concluded from failures, so it gives way to a job that has no other place to go.
    pub judged: bool,
    /// What runs there is to leave.
    pub drain: bool,
}

impl Cordon {
    /// One that a person or the node's own agent wants.
    pub fn told(reason: String) -> Self {
        Self {
            reason,
            judged: false,
            drain: false,
        }
    }
}

/// Failures at a place that nobody else's explain.
#[derive(Default)]
struct Tally<'a> {
    /// Of those at one step of one job, one counts: that may be the step's fault.
    steps: BTreeSet<(JobId, Step)>,
    others: u32,
    slots: BTreeSet<u32>,
    is_new: bool,
    last: Option<&'a Fault>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, job: JobId, fault: &'a Fault) {
        match fault.step {
            Some(step) => drop(self.steps.insert((job, step))),
            None => self.others += 1,
        }
        self.slots.insert(fault.slot);
        self.is_new |= !fault.told;
        if self.last.is_none_or(|last| last.at <= fault.at) {
            self.last = Some(fault);
        }
    }

    fn count(&self) -> u32 {
        self.others + self.steps.len() as u32
    }
}

/// A place that is to be cordoned: a node, or one slot of it.
struct Suspect {
    node: NodeName,
    slot: Option<u32>,
    is_new: bool,
    words: String,
}

impl Suspect {
    fn is_at(&self, node: &NodeName, slot: u32) -> bool {
        *node == self.node && self.slot.is_none_or(|it| it == slot)
    }

    fn name(&self) -> String {
        place_words(&self.node, self.slot)
    }
}

/// A node, or one slot of it, in words.
pub(crate) fn place_words(node: &NodeName, slot: Option<u32>) -> String {
    match slot {
        None => format!("node {node}"),
        Some(slot) => format!("slot {slot} of node {node}"),
    }
}

impl Turn {
    /// Cordons the places on which workers keep failing by themselves, unless a job has no other place to go.
    pub fn judge_places(&mut self) {
        let spotless = |entry: &JobEntry| entry.volatile.faults.is_empty();
        if self.cluster.jobs.values().all(spotless) {
            return;
        }
        self.forgive();
        for suspect in self.suspects() {
            match self.who_needs(&suspect) {
                None => {
                    let cordon = Cordon {
                        reason: suspect.words,
                        judged: true,
                        drain: false,
                    };
                    self.cordon(suspect.node, suspect.slot, cordon);
                }
                // Nodes may be on their way. It is looked at again.
                Some(_) if self.cluster.nodes.in_flux_until.is_some() => {}
                Some(job) => self.tell_of(&suspect, job),
            }
        }
    }

    /// A committed step shows that the places of those who made it are sound.
    fn forgive(&mut self) {
        let mut sound: BTreeSet<(NodeName, u32)> = BTreeSet::new();
        for committed in &self.decision.committed {
            let Some(JobEntry { job, .. }) = self.cluster.jobs.get(&committed.job) else {
                continue;
            };
            if job.phase == Phase::Active && job.generation == committed.state.generation {
                let places = job.members.iter().filter_map(|it| job.workers.get(it));
                sound.extend(places.map(|it| (it.node.clone(), it.slot)));
            }
        }
        if sound.is_empty() {
            return;
        }
        let works = |fault: &Fault| sound.iter().any(|(node, _)| *node == fault.node);
        for (id, entry) in &mut self.cluster.jobs {
            if !entry.volatile.faults.iter().any(works) {
                continue;
            }
            self.touched.insert(*id);
            let faults = &mut std::sync::Arc::make_mut(&mut entry.volatile).faults;
            faults.retain(|fault| !sound.contains(&(fault.node.clone(), fault.slot)));
            for fault in faults {
                fault.node_works |= works(fault);
            }
        }
    }

    fn suspects(&self) -> Vec<Suspect> {
        let (now, options) = (self.now.monotonic, &self.cluster.options);
        let mut nodes: BTreeMap<&NodeName, Tally<'_>> = BTreeMap::new();
        let mut slots: BTreeMap<(&NodeName, u32), Tally<'_>> = BTreeMap::new();
        for (id, entry) in &self.cluster.jobs {
            let recent = entry.volatile.faults.iter();
            let recent: Vec<_> = recent
                .filter(|fault| is_recent(fault, now, options.fault_window))
                .collect();
            for fault in &recent {
                // Where a job fails in other places too, it is the job's fault.
                let other_node = |it: &&&Fault| it.node != fault.node;
                let other_slot = |it: &&&Fault| it.node == fault.node && it.slot != fault.slot;
                if recent.iter().any(|it| other_node(&it)) {
                    continue;
                }
                if !fault.node_works {
                    nodes.entry(&fault.node).or_default().add(*id, fault);
                }
                if !recent.iter().any(|it| other_slot(&it)) {
                    let place = (&fault.node, fault.slot);
                    slots.entry(place).or_default().add(*id, fault);
                }
            }
        }
        let mut suspects = Vec::new();
        let size = |node: &NodeName| {
            self.cluster
                .nodes
                .known
                .get(node)
                .map_or(0, |it| it.slots.len())
        };
        let enough = |tally: &Tally<'_>| tally.count() >= options.max_place_failures;
        for (node, tally) in nodes {
            // One slot that fails says nothing of the others.
            if enough(&tally) && (size(node) == 1 || tally.slots.len() > 1) {
                suspects.push(Suspect::new(node, None, &tally));
            }
        }
        for ((node, slot), tally) in slots {
            let is_known = suspects.iter().any(|suspect| suspect.is_at(node, slot));
            if enough(&tally) && size(node) > 1 && !is_known {
                suspects.push(Suspect::new(node, Some(slot), &tally));
            }
        }
        let is_free = |it: &Suspect| match it.slot {
            None => !self.cluster.cordons.contains_key(&it.node),
            Some(slot) => !self.cluster.is_cordoned(&it.node, slot),
        };
        suspects.retain(is_free);
        suspects
    }

    /// The first job that could not train any more without a place; one that has failed there is not let down, either.
    fn who_needs(&self, suspect: &Suspect) -> Option<JobId> {
        // How many slots there are, be their agents away, and how many of those within reach would be left.
        let slots = |class: SlotClass| {
            let (mut all, mut left) = (0, 0);
            for (name, node) in &self.cluster.nodes.known {
                for slot in &node.slots {
                    let is_cordoned = self.cluster.is_cordoned(name, slot.index);
                    if SlotClass::of(&slot.device) == class && !is_cordoned {
                        all += 1;
                        let stays = node.connected
                            && !self.cluster.is_draining(name)
                            && !suspect.is_at(name, slot.index);
                        left += usize::from(stays);
                    }
                }
            }
            (all, left)
        };
        let needs = |job: &JobId| {
            let Some(entry) = self.cluster.jobs.get(job) else {
                return false;
            };
            let failed_there = |fault: &Fault| suspect.is_at(&fault.node, fault.slot);
            let failed_there = entry.volatile.faults.iter().any(failed_there);
            if entry.job.state.is_over() && !failed_there {
                return false;
            }
            let (gang, class) = (entry.job.gang(), self.cluster.class_of(&entry.job));
            let (all, left) = slots(class);
            left < gang && (failed_there || gang <= all)
        };
        self.cluster.in_order().into_iter().find(needs)
    }

    /// Says once for each failure that a place is suspect, and why it is used nevertheless.
    fn tell_of(&mut self, suspect: &Suspect, job: JobId) {
        if !suspect.is_new {
            return;
        }
        for (id, entry) in &mut self.cluster.jobs {
            self.touched.insert(*id);
            for fault in &mut std::sync::Arc::make_mut(&mut entry.volatile).faults {
                fault.told |= suspect.is_at(&fault.node, fault.slot);
            }
        }
        let reason = format!(
            "{} would be cordoned, but this job has no other place to go: {}",
            suspect.name(),
            suspect.words
        );
        let (node, slot) = (suspect.node.as_str().to_owned(), suspect.slot);
        self.with(job, |turn| {
            let details = [("node", node.into()), ("slot", slot.into())];
            turn.announce("node_suspect", turn.standing(), reason, details);
        });
    }

    /// Gives places back that were cordoned for failures, where a job waits that has no other place to go.
    pub fn lift_cordons(&mut self) {
        let cluster = &self.cluster;
        let judged = cluster
            .cordons
            .values()
            .chain(cluster.slot_cordons.values());
        // Nodes may be on their way. It is looked at again.
        if cluster.nodes.in_flux_until.is_some() || !judged.clone().any(|it| it.judged) {
            return;
        }
        let plan = cluster.plan(self.now.monotonic);
        let lifted = cluster.in_order().into_iter().find_map(|job| {
            let waiting = plan.waits.get(&job)?;
            Some((job, cluster.enough_to_lift(waiting)?))
        });
        let Some((job, nodes)) = lifted else {
            return;
        };
        for node in nodes {
            let why = format!("job {job} has no other place to go");
            self.uncordon(node, &why);
        }
    }

    /// A node says itself that no worker could run on it.
    pub fn node_unfit(&mut self, node: NodeName, reason: &str) {
        if !self.cluster.cordons.contains_key(&node) {
            let words = format!("its agent's check of the machine failed: {reason}");
            self.cordon(node, None, Cordon::told(words));
        }
    }

    /// Has nothing new placed on a node, or on one slot of it.
    pub fn cordon(&mut self, node: NodeName, slot: Option<u32>, cordon: Cordon) {
        let known = match slot {
            None => self.cluster.cordons.get(&node),
            Some(slot) => self.cluster.slot_cordons.get(&(node.clone(), slot)),
        };
        if known == Some(&cordon) {
            return;
        }
        let Cordon {
            reason,
            judged,
            drain,
        } = cordon;
        let place = place_words(&node, slot);
        let (event, what) = match drain {
            true => (NODE_DRAINING, format!("{place} is to be empty")),
            false => ("node_cordoned", format!("nothing new is placed on {place}")),
        };
        let words = match reason.as_str() {
            "" => what,
            reason => format!("{what}: {reason}"),
        };
        let kind = RecordKind::NodeCordoned {
            node: node.clone(),
            slot,
            reason,
            judged,
            drain,
        };
        self.decide_on_node(kind, event, &node, &words);
    }

    /// Has a node used again, with all its slots. What failed there is forgotten.
    pub fn uncordon(&mut self, node: NodeName, why: &str) {
        let mut slots = self.cluster.slot_cordons.keys();
        if !self.cluster.cordons.contains_key(&node) && !slots.any(|(it, _)| *it == node) {
            return;
        }
        for (id, entry) in &mut self.cluster.jobs {
            self.touched.insert(*id);
            let faults = &mut std::sync::Arc::make_mut(&mut entry.volatile).faults;
            faults.retain(|fault| fault.node != node);
        }
        let words = match why {
            "" => format!("node {node} is used again"),
            why => format!("node {node} is used again: {why}"),
        };
        let kind = RecordKind::NodeUncordoned { node: node.clone() };
        self.decide_on_node(kind, "node_uncordoned", &node, &words);
    }
}

impl Suspect {
    fn new(node: &NodeName, slot: Option<u32>, tally: &Tally<'_>) -> Self {
        let workers = counted(tally.count() as usize, "worker");
        let last = tally.last.map_or("", |fault| fault.cause.as_str());
        Self {
            node: node.clone(),
            slot,
            is_new: tally.is_new,
            words: format!(
                "{workers} failed there by themselves, none committed a step in between, and elsewhere they do not fail; the last: {last}"
            ),
        }
    }
}

impl Cluster {
    /// Whether a slot is cordoned, by itself or with its node.
    pub(crate) fn is_cordoned(&self, node: &NodeName, slot: u32) -> bool {
        self.cordons.contains_key(node) || self.slot_cordons.contains_key(&(node.clone(), slot))
    }

    /// Whether nothing new is placed on a slot.
    pub(crate) fn is_closed(&self, node: &NodeName, slot: u32) -> bool {
        self.is_cordoned(node, slot)
            || (self.is_draining(node) && !is_planted(Mutation::LeavingOffered))
    }

    /// The nodes whose cordons would have to be lifted for a job that the cluster is too small for without them.
    fn enough_to_lift(&self, waiting: &Waiting) -> Option<Vec<NodeName>> {
        let Wait::TooSmall { missing } = waiting.why else {
            return None;
        };
        let mut gains: BTreeMap<&NodeName, (usize, usize)> = BTreeMap::new();
        for (node, slot) in self.nodes.offered(waiting.class) {
            if self.is_draining(node) {
                continue;
            }
            let cordons = [
                self.cordons.get(node),
                self.slot_cordons.get(&(node.clone(), slot.index)),
            ];
            let mut cordons = cordons.into_iter().flatten().peekable();
            if cordons.peek().is_some() && cordons.all(|cordon| cordon.judged) {
                let (faults, slots) = gains.entry(node).or_default();
                *faults += self.faults_at(node, slot.index);
                *slots += 1;
            }
        }
        let mut nodes: Vec<_> = gains.into_iter().collect();
        nodes.sort_by_key(|(_, (faults, _))| *faults);
        let mut found = 0;
        let mut lifted = Vec::new();
        for (node, (_, slots)) in nodes {
            if found < missing {
                found += slots;
                lifted.push(node.clone());
            }
        }
        (found >= missing).then_some(lifted)
    }

    /// How many failures speak against a slot.
    pub(crate) fn faults_at(&self, node: &NodeName, slot: u32) -> usize {
        let faults = self.jobs.values().flat_map(|entry| &entry.volatile.faults);
        let is_there = |it: &&Fault| it.node == *node && (it.slot == slot || !it.node_works);
        faults.filter(is_there).count()
    }
}
