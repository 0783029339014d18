use std::collections::BTreeMap;

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
    pub fn hello(&mut self, hello: &AgentHello, strangers: BTreeMap<WorkerId, u32>) {
        let node = Node {
            address: hello.advertise.clone(),
            connected: true,
            slots: hello.slots.clone(),
            strangers,
        };
        self.known.insert(hello.node.clone(), node);
    }

    pub fn is_connected(&self, node: &NodeName) -> bool {
        self.known.get(node).is_some_and(|node| node.connected)
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
