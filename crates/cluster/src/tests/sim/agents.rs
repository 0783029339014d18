use std::collections::BTreeMap;

use muster_types::{JobId, NodeName, WorkerId};

use super::{
    control::Down,
    network::Peer,
    sabotage::Sabotage,
    violation::must,
    worker::Worker,
    world::{Action, World, say},
};
use crate::{AgentHello, Event, Exit, SlotOffer};

/// An agent's process, and what lies on its node's disk.
#[derive(Debug)]
pub struct Agent {
    pub slots: u32,
    pub up: bool,
    /// The node is there: its processes run.
    pub powered: bool,
    pub session: Option<u64>,
    /// The coordinator has taken the hello.
    pub opened: bool,
    pub attempt: u64,
    /// It is about to end: its grace, in seconds.
    leaving: Option<u32>,
    /// The coordinator was told so on this stream.
    leaving_said: bool,
    /// How often it was.
    leaves: u64,
    /// Every worker that was started here, with its end.
    table: BTreeMap<WorkerId, Entry>,
    pids: u32,
}

#[derive(Clone, Debug)]
struct Entry {
    slot: u32,
    pid: u32,
    exit: Option<Exit>,
    told: bool,
}

impl Agent {
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            up: false,
            powered: true,
            session: None,
            opened: false,
            attempt: 0,
            leaving: None,
            leaving_said: false,
            leaves: 0,
            table: BTreeMap::new(),
            pids: 0,
        }
    }
}

impl World {
    pub fn start_agent(&mut self, node: &NodeName) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        agent.powered = true;
        if !std::mem::replace(&mut agent.up, true) {
            say!(self, "agent {node} starts");
            self.coverage.count("agent starts");
            if self.is_sabotaged(Sabotage::AdoptsNothing)
                && let Some(agent) = self.agents.get_mut(node)
            {
                agent.table.clear();
            }
            self.connect_after(Peer::Agent(node.clone()), 20);
        }
    }

    pub fn stop_agent(&mut self, node: &NodeName) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        if std::mem::replace(&mut agent.up, false) {
            say!(self, "agent {node} dies");
            agent.opened = false;
            agent.leaving = None;
            if let Some(session) = agent.session.take() {
                self.client_dies(session);
            }
        }
    }

    /// SIGTERM: it says that it is about to end, and waits for its workers to leave.
    pub fn agent_leaves(&mut self, node: &NodeName, grace_seconds: u32) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        if !agent.up || agent.leaving.is_some() {
            return;
        }
        say!(self, "agent {node} is about to end, in {grace_seconds} s");
        self.coverage.count("agents that left");
        agent.leaving = Some(grace_seconds);
        agent.leaving_said = false;
        agent.leaves += 1;
        let number = agent.leaves;
        self.say_that_it_leaves(node);
        let end = Action::AgentEnds {
            node: node.clone(),
            number,
        };
        self.after(u64::from(grace_seconds) * 1000, end);
        self.ends_if_empty(node);
    }

    fn say_that_it_leaves(&mut self, node: &NodeName) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        let (Some(session), Some(grace_seconds), true) =
            (agent.session, agent.leaving, agent.opened)
        else {
            return;
        };
        if !std::mem::replace(&mut agent.leaving_said, true) {
            let event = Event::AgentLeaving {
                node: node.clone(),
                grace_seconds,
            };
            self.send_up(session, event);
        }
    }

    fn ends_if_empty(&mut self, node: &NodeName) {
        if !self.workers_on(node).is_empty() {
            return;
        }
        if let Some(agent) = self.agents.get(node).filter(|it| it.leaving.is_some()) {
            self.coverage.count("agents that left an empty node");
            let end = Action::AgentEnds {
                node: node.clone(),
                number: agent.leaves,
            };
            self.after(20, end);
        }
    }

    /// An agent that was about to end does: first its workers, then itself. Another one comes in its place.
    pub fn agent_ends(&mut self, node: &NodeName, number: u64) {
        let is_due = |agent: &Agent| agent.leaving.is_some() && agent.leaves == number;
        if !self.agents.get(node).is_some_and(is_due) {
            return;
        }
        let left = self.workers_on(node);
        if left.is_empty() {
            self.stop_agent(node);
            let pause = self.rng.between(300, 20_000);
            let node = node.clone();
            return self.after(pause, Action::StartAgent { node });
        }
        for worker in left {
            let ended = Exit {
                code: None,
                signal: Some(2),
                start_error: String::new(),
                stderr_tail: String::new(),
            };
            self.end(&worker, ended);
        }
        let node = node.clone();
        self.after(100, Action::AgentEnds { node, number });
    }

    /// The machine is gone, with all that runs on it.
    pub fn lose_node(&mut self, node: &NodeName) {
        say!(self, "node {node} is lost");
        self.stop_agent(node);
        if let Some(agent) = self.agents.get_mut(node) {
            agent.powered = false;
        }
        for worker in self.workers_on(node) {
            let unknown = Exit {
                code: None,
                signal: None,
                start_error: String::new(),
                stderr_tail: String::new(),
            };
            self.end(&worker, unknown);
        }
    }

    pub fn workers_on(&self, node: &NodeName) -> Vec<WorkerId> {
        let here = self.workers.values().filter(|it| it.node == *node);
        here.map(|it| it.id.clone()).collect()
    }

    pub fn hello(&mut self, node: &NodeName, session: u64) -> Event {
        let agent = self.agents.get_mut(node).expect("an agent that connects");
        agent.session = Some(session);
        agent.opened = false;
        agent.leaving_said = true;
        let leaving_seconds = agent.leaving;
        agent
            .table
            .values_mut()
            .for_each(|entry| entry.told = false);
        let slots = (0..agent.slots).map(|index| SlotOffer {
            index,
            device: "cpu".into(),
            threads: 2,
        });
        let running = agent.table.iter().filter(|(_, entry)| entry.exit.is_none());
        Event::AgentConnected(AgentHello {
            node: node.clone(),
            advertise: format!("{node}.example"),
            slots: slots.collect(),
            running: running
                .map(|(worker, entry)| (worker.clone(), entry.slot, entry.pid))
                .collect(),
            leaving_seconds,
        })
    }

    pub fn agent_obeys(&mut self, node: &NodeName, session: u64, down: Down) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        if agent.session != Some(session) || !agent.up {
            return;
        }
        match down {
            Down::Opened => {
                agent.opened = true;
                self.tell_exits(node);
                self.say_that_it_leaves(node);
            }
            Down::Start { job, worker, slot } => self.spawn(node, job, &worker, slot),
            Down::Kill { worker } => {
                let killed = self.workers.contains_key(&worker);
                if killed {
                    self.kill(&worker);
                } else {
                    if let Some(entry) = self
                        .agents
                        .get_mut(node)
                        .and_then(|it| it.table.get_mut(&worker))
                    {
                        entry.told = false;
                    }
                    self.tell_exits(node);
                }
            }
            Down::Order { .. } => {}
        }
    }

    fn spawn(&mut self, node: &NodeName, job: JobId, worker: &WorkerId, slot: u32) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        if let Some(entry) = agent.table.get_mut(worker) {
            // An id is started once; a repeated order is answered again.
            entry.told = false;
            return self.tell_exits(node);
        }
        let other = self
            .workers
            .values()
            .find(|it| it.node == *node && it.slot == slot)
            .map(|it| it.id.clone());
        must!(
            other.is_none(),
            OneWorkerASlot,
            "slot {slot} of {node} runs {other:?} and is to run {worker}"
        );
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        agent.pids += 1;
        let pid = agent.pids;
        agent.table.insert(
            worker.clone(),
            Entry {
                slot,
                pid,
                exit: None,
                told: false,
            },
        );
        must!(
            self.oracle.spawned.insert(worker.clone()),
            OneWorkerASlot,
            "{worker} is started a second time"
        );
        say!(self, "{worker} runs on {node}/{slot}");
        self.coverage.count("workers started");
        let token = self.rng.next();
        self.workers.insert(
            worker.clone(),
            Worker::new(worker.clone(), job, node.clone(), slot, pid, token),
        );
        let start = self.rng.between(5, 400);
        self.after(
            1,
            Action::Started {
                node: node.clone(),
                worker: worker.clone(),
            },
        );
        self.connect_after(Peer::Worker(worker.clone()), start);
    }

    pub fn started(&mut self, node: &NodeName, worker: &WorkerId) {
        let Some(agent) = self.agents.get(node) else {
            return;
        };
        let pid = agent.table.get(worker).map(|entry| entry.pid);
        if let (Some(pid), Some(session), true) = (pid, agent.session, agent.opened) {
            self.send_up(
                session,
                Event::WorkerStarted {
                    worker: worker.clone(),
                    pid,
                },
            );
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, worker: &WorkerId) {
        self.coverage.count("workers killed");
        let exit = Exit {
            code: None,
            signal: Some(9),
            start_error: String::new(),
            stderr_tail: String::new(),
        };
        self.end(worker, exit);
    }

    pub fn exit(&mut self, worker: &WorkerId, code: i32) {
        let exit = Exit {
            code: Some(code),
            signal: None,
            start_error: String::new(),
            stderr_tail: String::new(),
        };
        self.end(worker, exit);
    }

    /// A process ends; its peers and its agent notice.
    fn end(&mut self, worker: &WorkerId, exit: Exit) {
        let Some(gone) = self.workers.remove(worker) else {
            return;
        };
        say!(self, "{worker} ends: {:?} {:?}", exit.code, exit.signal);
        if let Some(session) = gone.session {
            self.client_dies(session);
        }
        self.leaves_groups(&gone);
        if let Some(agent) = self.agents.get_mut(&gone.node)
            && let Some(entry) = agent.table.get_mut(worker)
        {
            entry.exit = Some(exit);
        }
        let delay = self.rng.between(1, 50);
        self.after(
            delay,
            Action::Ended {
                node: gone.node,
                worker: worker.clone(),
            },
        );
    }

    pub fn ended(&mut self, node: &NodeName, _worker: &WorkerId) {
        self.tell_exits(node);
        self.ends_if_empty(node);
    }

    fn tell_exits(&mut self, node: &NodeName) {
        let Some(agent) = self.agents.get_mut(node) else {
            return;
        };
        let (Some(session), true) = (agent.session, agent.opened) else {
            return;
        };
        let mut exits = Vec::new();
        for (worker, entry) in &mut agent.table {
            if let (Some(exit), false) = (&entry.exit, entry.told) {
                entry.told = true;
                exits.push(Event::WorkerExited {
                    worker: worker.clone(),
                    exit: exit.clone(),
                });
            }
        }
        for event in exits {
            self.send_up(session, event);
        }
    }
}
