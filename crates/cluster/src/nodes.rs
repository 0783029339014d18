use std::{collections::BTreeMap, time::Duration};

use muster_types::{Monotonic, NodeName, WorkerId};

use crate::{AgentHello, SlotOffer};

/// The nodes whose agents have said hello. Volatile: they say it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Nodes {
    pub known: BTreeMap<NodeName, Node>,
    /// Something has happened since the coordinator started.
    pub awake: bool,
    /// Until then, nodes that are not here may be on their way.
    pub in_flux_until: Option<Monotonic>,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub address: String,
    pub connected: bool,
    pub slots: Vec<SlotOffer>,
    /// Workers that run there and that no job knows, with their slots.
    pub strangers: BTreeMap<WorkerId, u32>,
    /// Its agent is about to end.
    pub leaving: Option<Leaving>,
}

/// How long a node is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub grace_seconds: u32,
    /// Until then, its workers may wait for those that replace them; `None` once that is over.
    pub patient_until: Option<Monotonic>,
}

impl Leaving {
    /// Half of the grace is left to leave in: to come to a boundary, and to save.
    pub fn from(now: Monotonic, grace_seconds: u32) -> Self {
        let patience = Duration::from_secs(grace_seconds.into()) / 2;
        Self {
            grace_seconds,
            patient_until: Some(now + patience),
        }
    }
}

/// What kind of slots a job runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SlotClass {
    Cpu,
    Cuda,
}

impl SlotClass {
    pub fn of(device: &str) -> Self {
        if device.starts_with("cuda") {
            Self::Cuda
        } else {
            Self::Cpu
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl Nodes {
    /// Takes a hello; `strangers` are those of its running workers that no job knows.
    pub fn hello(
        &mut self,
        now: Monotonic,
        hello: &AgentHello,
        strangers: BTreeMap<WorkerId, u32>,
    ) {
        let leaving = hello.leaving_seconds.map(|grace| Leaving::from(now, grace));
        let node = Node {
            address: hello.advertise.clone(),
            connected: true,
            slots: hello.slots.clone(),
            strangers,
            leaving,
        };
        self.known.insert(hello.node.clone(), node);
    }

    pub fn is_connected(&self, node: &NodeName) -> bool {
        self.known.get(node).is_some_and(|node| node.connected)
    }

    /// When something changes by itself.
    pub fn next_change(&self) -> Option<Monotonic> {
        let leaving = self.known.values().filter_map(|node| node.leaving);
        let patience = leaving.filter_map(|leaving| leaving.patient_until);
        patience.chain(self.in_flux_until).min()
    }

    /// Whether any connected node offers such slots, taken or not.
    pub fn offers(&self, class: SlotClass) -> bool {
        self.offered(class).next().is_some()
    }

    /// The slots of connected nodes, in order of node and index.
    pub fn offered(&self, class: SlotClass) -> impl Iterator<Item = (&NodeName, &SlotOffer)> {
        self.known
            .iter()
            .filter(|(_, node)| node.connected)
            .flat_map(|(name, node)| node.slots.iter().map(move |slot| (name, slot)))
            .filter(move |(_, slot)| SlotClass::of(&slot.device) == class)
    }
}
