//! Nodes that are to be empty: someone wants them so, or their agents are about to end. What runs there moves or saves.

use std::{collections::BTreeSet, sync::Arc};

use muster_types::{JobId, NodeName, WorkerId};

use crate::{
    Cluster,
    cordons::Cordon,
    nodes::Leaving,
    queue::Planner,
    reshape::{Recall, When},
    turn::Turn,
    waiting::{Wait, counted},
};

/// The event of a node that is to be empty, and the one of a node that is.
pub(crate) const NODE_DRAINING: &str = "node_draining";
const NODE_DRAINED: &str = "node_drained";

/// How far a node is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStage {
    /// Workers are still there.
    Draining,
    /// It is empty.
    Drained,
}

impl DrainStage {
    /// The word for it, as every interface shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

impl Turn {
    /// Someone wants a node to be empty, until it is uncordoned.
    pub fn drain(&mut self, node: NodeName, reason: String) {
        let known = self.cluster.cordons.get(&node);
        let reason = match (reason.as_str(), known) {
            // Why it was cordoned is why it is drained.
            ("", Some(cordon)) => cordon.reason.clone(),
            _ => reason,
        };
        let cordon = Cordon {
            drain: true,
            ..Cordon::told(reason)
        };
        self.cordon(node, None, cordon);
    }

    /// A node's agent is about to end. It does not wait for longer than the grace.
    pub fn agent_leaving(&mut self, name: &NodeName, grace_seconds: u32) {
        let now = self.now.monotonic;
        let known = self.cluster.nodes.known.get(name);
        if known.is_none_or(|node| !node.connected || node.leaving.is_some()) {
            return;
        }
        if let Some(node) = Arc::make_mut(&mut self.cluster.nodes).known.get_mut(name) {
            node.leaving = Some(Leaving::from(now, grace_seconds));
        }
        self.nodes_touched = true;
        let words = format!(
            "the agent of node {name} is about to end; it waits up to {grace_seconds} s for its workers to leave in good order"
        );
        self.tell_jobs(NODE_DRAINING, name, &words);
    }

    /// Whose patience is over has its workers leave whether others are ready to replace them or not.
    pub fn lose_patience(&mut self) {
        let now = self.now.monotonic;
        let is_over = |leaving: &Leaving| leaving.patient_until.is_some_and(|until| until <= now);
        let mut leaving = self
            .cluster
            .nodes
            .known
            .values()
            .filter_map(|it| it.leaving);
        if !leaving.any(|leaving| is_over(&leaving)) {
            return;
        }
        let nodes = Arc::make_mut(&mut self.cluster.nodes).known.values_mut();
        for leaving in nodes.filter_map(|node| node.leaving.as_mut()) {
            if is_over(leaving) {
                leaving.patient_until = None;
            }
        }
        self.nodes_touched = true;
    }

    /// Says which nodes are empty now, beside those that were.
    pub fn tell_drained(&mut self, before: &BTreeSet<NodeName>) {
        for node in self.cluster.drained().difference(before) {
            let words = format!("node {node} is empty: no worker is left there");
            self.tell_jobs(NODE_DRAINED, node, &words);
        }
    }
}

impl Planner<'_> {
    /// Has a job's workers leave the nodes that are drained: for others elsewhere, or with a checkpoint if it cannot have as
    /// many as it needs.
    pub fn vacate(&mut self, index: usize) {
        let contender = &self.contenders[index];
        let Some(first) = contender.moving.first() else {
            return;
        };
        if contender.leaving {
            return;
        }
        let (cluster, id) = (self.cluster, contender.id);
        let places: Vec<(WorkerId, &NodeName)> = contender
            .moving
            .iter()
            .filter_map(|worker| Some(((*worker).clone(), cluster.node_of(id, worker)?)))
            .collect();
        let leaving = |node: &NodeName| cluster.nodes.known.get(node).and_then(|it| it.leaving);
        let ends = places.iter().any(|(_, node)| leaving(node).is_some());
        let is_late = |node: &NodeName| leaving(node).is_some_and(|it| it.patient_until.is_none());
        let hurries = places.iter().any(|(_, node)| is_late(node));
        let missing = contender.gang.saturating_sub(contender.kept);
        let coming = self.plan.waits.get(&id).map(|waiting| waiting.why) == Some(Wait::Coming);
        // Nodes that are on their way may be waited for; but not by whoever has a bound itself.
        let may_come = coming || (self.in_flux && !ends);
        let why = cluster
            .node_of(id, first)
            .map_or_else(String::new, |node| cluster.why_drained(node));
        let stranded = if contender.settling {
            None
        } else if hurries && self.cluster.ready_elsewhere(id) < contender.gang {
            Some(format!("{why}, and not enough others are ready in time"))
        } else if missing > 0 && !hurries && !may_come {
            let slots = counted(missing, &format!("{} slot", contender.class.as_str()));
            Some(format!("{why}, and it cannot have {slots} elsewhere"))
        } else {
            None
        };
        if let Some(reason) = stranded {
            self.contenders[index].leaving = true;
            self.plan.placements.retain(|(job, ..)| *job != id);
            return self.plan.preemptions.push((id, None, reason));
        }
        let when = if hurries {
            When::AtOnce
        } else {
            When::Replaced
        };
        let recalls = places.into_iter().map(|(worker, node)| {
            let reason = cluster.why_drained(node);
            (worker, Recall { reason, when })
        });
        self.plan.recalls.entry(id).or_default().extend(recalls);
    }
}

impl Cluster {
    /// Whether someone wants a node to be empty.
    pub(crate) fn is_to_be_empty(&self, node: &NodeName) -> bool {
        self.cordons.get(node).is_some_and(|cordon| cordon.drain)
    }

    /// Whether a node is to be empty, because someone wants it or its agent is about to end.
    pub(crate) fn is_draining(&self, node: &NodeName) -> bool {
        let known = self.nodes.known.get(node);
        self.is_to_be_empty(node) || known.is_some_and(|node| node.leaving.is_some())
    }

    /// How far a node is emptied; `None` where it is not.
    pub(crate) fn drain_stage(&self, node: &NodeName) -> Option<DrainStage> {
        let strangers = self.nodes.known.get(node).map(|it| it.strangers.len());
        let stage = match self.workers_at(node) + strangers.unwrap_or(0) {
            0 => DrainStage::Drained,
            _ => DrainStage::Draining,
        };
        self.is_draining(node).then_some(stage)
    }

    /// The nodes that are empty as they are to be.
    pub(crate) fn drained(&self) -> BTreeSet<NodeName> {
        let ordered = self.cordons.iter().filter(|(_, cordon)| cordon.drain);
        let known = self.nodes.known.iter();
        let leaving = known.filter(|(_, node)| node.leaving.is_some());
        let names = ordered.map(|(name, _)| name);
        let names = names.chain(leaving.map(|(name, _)| name));
        let is_empty = |name: &&NodeName| self.drain_stage(name) == Some(DrainStage::Drained);
        names.filter(is_empty).cloned().collect()
    }

    /// How many slots of a node are not known to be empty of workers that jobs have placed there.
    pub(crate) fn workers_at(&self, node: &NodeName) -> usize {
        let workers = self.jobs.values().flat_map(|it| it.job.workers.values());
        workers.filter(|placement| placement.node == *node).count()
    }

    /// How many workers of a job could train on without the nodes that are drained.
    fn ready_elsewhere(&self, job: JobId) -> usize {
        let Some(entry) = self.jobs.get(&job) else {
            return 0;
        };
        let is_warm = |worker: &WorkerId| {
            let view = entry.volatile.workers.get(worker);
            view.is_some_and(|view| view.warm && view.connected)
        };
        let stays = |worker: &WorkerId| {
            entry.job.keeps(worker) && !entry.volatile.left.contains_key(worker)
        };
        let workers = entry.job.workers.iter().filter(|(worker, placement)| {
            stays(worker) && is_warm(worker) && !self.is_draining(&placement.node)
        });
        workers.count()
    }

    /// Why a node is to be empty, in words.
    fn why_drained(&self, node: &NodeName) -> String {
        match self.cordons.get(node).filter(|cordon| cordon.drain) {
            Some(cordon) if cordon.reason.is_empty() => format!("node {node} is drained"),
            Some(cordon) => format!("node {node} is drained: {}", cordon.reason),
            None => format!("the agent of node {node} is about to end"),
        }
    }
}
