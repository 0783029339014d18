use std::collections::BTreeMap;

use muster_types::{Generation, JobId, NodeName, StateId, WorkerId};

use super::{
    agents::Agent,
    collectives::Group,
    control::Down,
    coordinator::Coordinator,
    coverage::Coverage,
    faults::Recovery,
    network::{Network, Peer},
    oracle::Oracle,
    plan::Plan,
    rng::Rng,
    sabotage::Sabotage,
    saver::Written,
    storage::Storage,
    trace::Trace,
    training::Thread,
    worker::Worker,
};
use crate::Event;

/// Everything that there is.
pub struct World {
    pub plan: Plan,
    pub sabotage: Option<Sabotage>,
    pub rng: Rng,
    /// The time, in ms.
    pub now: u64,
    queue: BTreeMap<(u64, u64), Action>,
    scheduled: u64,
    pub events: u64,
    /// Things go wrong.
    pub chaos: bool,
    pub coordinator: Coordinator,
    pub network: Network,
    pub agents: BTreeMap<NodeName, Agent>,
    pub workers: BTreeMap<WorkerId, Worker>,
    pub groups: BTreeMap<(JobId, Generation), Group>,
    pub storage: Storage,
    pub oracle: Oracle,
    pub trace: Trace,
    pub coverage: Coverage,
}

/// What comes at its time.
#[derive(Clone, Debug)]
pub enum Action {
    /// A message arrives at the coordinator.
    Up {
        session: u64,
        event: Event,
    },
    /// A message arrives at an agent or a worker.
    Down {
        session: u64,
        down: Down,
    },
    /// A process tries to open a stream.
    Connect {
        peer: Peer,
        attempt: u64,
    },
    /// One end of a stream notices that it is broken.
    ClientNotices {
        session: u64,
    },
    ServerNotices {
        session: u64,
    },
    /// Keep-alive looks whether the link is still blocked.
    KeepAlive {
        session: u64,
        block: u64,
    },
    /// The actor is not busy any more.
    Decide {
        epoch: u64,
    },
    /// A message comes once more.
    Again {
        event: Event,
    },
    /// The coordinator's alarm.
    Tick {
        epoch: u64,
        alarm: u64,
    },
    /// What the coordinator's own tasks do.
    WriteManifest {
        epoch: u64,
        job: JobId,
        state: StateId,
        parts: Vec<muster_checkpoint::FileEntry>,
    },
    Delete {
        epoch: u64,
        job: JobId,
        state: StateId,
        tries: u32,
    },
    Shell {
        epoch: u64,
        event: Event,
    },
    /// The disk has what was written to it.
    Sync {
        epoch: u64,
    },
    StartCoordinator,
    StartAgent {
        node: NodeName,
    },
    /// An agent that is about to end does.
    AgentEnds {
        node: NodeName,
        number: u64,
    },
    UseAgain {
        node: NodeName,
    },
    /// A training thread comes to something.
    Thread {
        worker: WorkerId,
        token: u64,
        thread: Thread,
    },
    /// A control thread sends the reports that it has gathered.
    Flush {
        worker: WorkerId,
    },
    /// A saver is done with a part.
    Saved {
        worker: WorkerId,
        written: Written,
    },
    /// A process is started, or the coordinator hears of its end.
    Started {
        node: NodeName,
        worker: WorkerId,
    },
    Ended {
        node: NodeName,
        worker: WorkerId,
    },
    /// A collective is tried again, or given up.
    PeerTimeout {
        job: JobId,
        generation: Generation,
        op: u64,
    },
    Dies {
        worker: WorkerId,
    },
    Submit {
        number: usize,
    },
    Fault,
    Recover(Recovery),
}

impl World {
    pub fn new(plan: Plan, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0xD1CE);
        let coordinator = Coordinator::new(&plan.options, rng.next());
        let mut world = Self {
            sabotage,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            events: 0,
            chaos: true,
            coordinator,
            network: Network::default(),
            agents: BTreeMap::new(),
            workers: BTreeMap::new(),
            groups: BTreeMap::new(),
            storage: Storage::default(),
            oracle: Oracle::default(),
            trace: Trace::default(),
            coverage: Coverage::default(),
            plan,
        };
        for (index, slots) in world.plan.nodes.clone().into_iter().enumerate() {
            let node = NodeName::from(format!("n{index}").as_str());
            world.agents.insert(node.clone(), Agent::new(slots));
            world.after(5 + index as u64, Action::StartAgent { node });
        }
        for number in 0..world.plan.jobs.len() {
            world.after(10 + world.plan.jobs[number].at, Action::Submit { number });
        }
        world.after(0, Action::StartCoordinator);
        let first = world.pause_to_fault();
        world.after(first, Action::Fault);
        world
    }

    pub fn is_sabotaged(&self, how: Sabotage) -> bool {
        self.sabotage == Some(how)
    }

    pub fn after(&mut self, delay_ms: u64, action: Action) {
        self.at(self.now + delay_ms, action);
    }

    pub fn at(&mut self, at_ms: u64, action: Action) {
        self.scheduled += 1;
        self.queue
            .insert((at_ms.max(self.now), self.scheduled), action);
    }

    /// Goes on to the next thing that happens, up to `until`. Returns whether there was one.
    pub fn turn(&mut self, until: u64) -> bool {
        let Some(entry) = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= until)
        else {
            self.now = self.now.max(until);
            return false;
        };
        let (at, action) = (entry.key().0, entry.remove());
        self.now = at;
        self.events += 1;
        self.act(action);
        true
    }

    pub fn act(&mut self, action: Action) {
        // What is for a stopped process waits until it goes on.
        if let Some(worker) = self.stopped(&action) {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.missed.push(action);
            }
            return;
        }
        match action {
            Action::Up { session, event } => self.arrives_up(session, event),
            Action::Down { session, down } => self.arrives_down(session, down),
            Action::Connect { peer, attempt } => self.connect(&peer, attempt),
            Action::ClientNotices { session } => self.client_notices(session),
            Action::ServerNotices { session } => self.server_notices(session),
            Action::KeepAlive { session, block } => self.keep_alive(session, block),
            Action::Decide { epoch } => self.decide(epoch),
            Action::Again { event } => self.again(event),
            Action::Tick { epoch, alarm } => self.tick(epoch, alarm),
            Action::WriteManifest {
                epoch,
                job,
                state,
                parts,
            } => {
                self.write_manifest(epoch, job, state, &parts);
            }
            Action::Delete {
                epoch,
                job,
                state,
                tries,
            } => {
                self.delete_checkpoint(epoch, job, state, tries);
            }
            Action::Shell { epoch, event } => self.shell_says(epoch, event),
            Action::Sync { epoch } => self.sync(epoch),
            Action::StartCoordinator => self.start_coordinator(),
            Action::StartAgent { node } => self.start_agent(&node),
            Action::AgentEnds { node, number } => self.agent_ends(&node, number),
            Action::UseAgain { node } => self.use_again(node),
            Action::Thread {
                worker,
                token,
                thread,
            } => self.thread(&worker, token, thread),
            Action::Flush { worker } => self.flush(&worker),
            Action::Saved { worker, written } => self.saved(&worker, written),
            Action::Started { node, worker } => self.started(&node, &worker),
            Action::Ended { node, worker } => self.ended(&node, &worker),
            Action::PeerTimeout {
                job,
                generation,
                op,
            } => self.peer_timeout(job, generation, op),
            Action::Dies { worker } => {
                self.coverage.count("sources that died while they sent");
                self.kill(&worker);
            }
            Action::Submit { number } => self.submit(number),
            Action::Fault => self.fault(),
            Action::Recover(recovery) => self.recover(recovery),
        }
    }

    fn stopped(&self, action: &Action) -> Option<WorkerId> {
        let id = match action {
            Action::Thread { worker, .. } => {
                let stopped = self.workers.get(worker)?;
                return (stopped.frozen || stopped.hung).then(|| worker.clone());
            }
            Action::Flush { worker } | Action::Saved { worker, .. } => worker.clone(),
            Action::Connect {
                peer: Peer::Worker(worker),
                ..
            } => worker.clone(),
            Action::Down { session, .. } | Action::ClientNotices { session } => {
                match &self.network.sessions.get(session)?.peer {
                    Peer::Worker(worker) => worker.clone(),
                    Peer::Agent(_) => return None,
                }
            }
            _ => return None,
        };
        self.workers.get(&id)?.frozen.then_some(id)
    }
}

/// Writes a line of the trace.
macro_rules! say {
    ($world:expr, $($words:tt)+) => {
        $world.trace.line($world.now, format_args!($($words)+))
    };
}
pub(crate) use say;
