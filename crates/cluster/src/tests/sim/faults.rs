use muster_types::{NodeName, WorkerId};

use super::{
    coordinator::Death,
    network::Peer,
    plan::Fault,
    violation::must,
    world::{Action, World, say},
};
use crate::{DrainStage, Event, JobState};

/// Longer than all bounds that a worker can overrun one after the other.
const UNTIL_EMPTY_MS: u64 = 1_800_000;

/// What ends a fault.
#[derive(Clone, Debug)]
pub enum Recovery {
    Unblock(Peer),
    UnblockPeers(NodeName),
    Thaw(WorkerId),
    Unhang(WorkerId),
    StorageUp,
    StorageFast,
}

impl World {
    pub fn pause_to_fault(&mut self) -> u64 {
        self.rng
            .between(self.plan.fault_every / 4, self.plan.fault_every * 2)
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let workers: Vec<_> = self.workers.keys().cloned().collect();
        self.rng.pick(&workers).cloned()
    }

    fn any_node(&mut self) -> NodeName {
        let nodes: Vec<_> = self.agents.keys().cloned().collect();
        self.rng.pick(&nodes).cloned().expect("a world has nodes")
    }

    fn any_peer(&mut self) -> Peer {
        match self.any_worker().filter(|_| true) {
            Some(worker) if self.rng.percent(75) => Peer::Worker(worker),
            _ => Peer::Agent(self.any_node()),
        }
    }

    /// Something goes wrong.
    pub fn fault(&mut self) {
        if !self.chaos {
            return;
        }
        let total = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let faults = self.plan.faults.clone();
        let chosen = faults.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        if let Some((fault, _)) = chosen {
            self.inflict(*fault);
        }
        let pause = self.pause_to_fault();
        self.after(pause, Action::Fault);
    }

    fn inflict(&mut self, fault: Fault) {
        say!(self, "fault {fault:?}");
        let a_while = *self
            .rng
            .pick(&[100, 900, 4000, 12_000, 40_000])
            .unwrap_or(&900);
        match fault {
            Fault::KillWorker => {
                if let Some(worker) = self.any_worker() {
                    self.kill(&worker);
                }
            }
            Fault::KillAll => {
                for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
                    self.kill(&worker);
                }
            }
            Fault::LoseNode => {
                let node = self.any_node();
                self.coverage.count("nodes lost");
                self.lose_node(&node);
                self.after(a_while + 500, Action::StartAgent { node });
            }
            Fault::RestartAgent => {
                let node = self.any_node();
                self.stop_agent(&node);
                self.after(a_while, Action::StartAgent { node });
            }
            Fault::AgentLeaves => {
                let node = self.any_node();
                let grace_seconds = *self.rng.pick(&[1, 5, 25, 300]).unwrap_or(&25);
                self.agent_leaves(&node, grace_seconds);
                if self.rng.percent(30) {
                    // As where a whole allocation ends.
                    for node in self.agents.keys().cloned().collect::<Vec<_>>() {
                        self.agent_leaves(&node, grace_seconds);
                    }
                }
            }
            Fault::CrashCoordinator => {
                self.coverage.count("coordinator crashes asked for");
                let count = self.rng.below(6) as usize;
                let death = match self.rng.below(5) {
                    0 => Death::BeforeWrite,
                    1 => Death::BeforeSync,
                    2 => Death::AfterSync,
                    3 => Death::AfterCommands(count),
                    _ => return self.crash_coordinator(),
                };
                self.coordinator.dies = Some(death);
            }
            Fault::BreakStream => {
                let peer = self.any_peer();
                if let Peer::Agent(node) = &peer
                    && self.rng.percent(40)
                {
                    // Troubles come together: a death is told of on a stream that breaks.
                    let here = self.workers_on(node);
                    if let Some(worker) = self.rng.pick(&here).cloned() {
                        self.kill(&worker);
                    }
                }
                let sessions = self
                    .network
                    .sessions
                    .iter()
                    .filter(|(_, it)| it.peer == peer);
                let sessions: Vec<u64> = sessions.map(|(session, _)| *session).collect();
                for session in sessions {
                    self.coverage.count("streams broken");
                    self.break_session(session);
                }
            }
            Fault::BlockLink => {
                let peer = self.any_peer();
                let (up, down) = *self
                    .rng
                    .pick(&[(true, true), (true, false), (false, true)])
                    .unwrap_or(&(true, true));
                self.coverage.count("links blocked");
                if self.rng.percent(20) {
                    // The whole node is cut off from the coordinator.
                    let node = self.any_node();
                    let mut peers = vec![Peer::Agent(node.clone())];
                    peers.extend(self.workers_on(&node).into_iter().map(Peer::Worker));
                    for peer in peers {
                        self.block(peer.clone(), up, down);
                        self.after(a_while, Action::Recover(Recovery::Unblock(peer)));
                    }
                    if self.rng.percent(50) {
                        self.network.peers_blocked.insert(node.clone());
                        self.after(a_while, Action::Recover(Recovery::UnblockPeers(node)));
                    }
                } else {
                    self.block(peer.clone(), up, down);
                    self.after(a_while, Action::Recover(Recovery::Unblock(peer)));
                }
            }
            Fault::BlockPeers => {
                let node = self.any_node();
                self.coverage.count("nodes cut off from their peers");
                self.network.peers_blocked.insert(node.clone());
                self.after(a_while, Action::Recover(Recovery::UnblockPeers(node)));
            }
            Fault::Freeze => {
                let Some(worker) = self.any_worker() else {
                    return;
                };
                self.coverage.count("processes stopped");
                if let Some(it) = self.workers.get_mut(&worker) {
                    it.frozen = true;
                    // Keep-alive finds out.
                    if let Some(session) = it.session {
                        let patience = self.rng.between(2000, 8000);
                        self.after(patience, Action::ServerNotices { session });
                    }
                }
                if self.rng.percent(85) {
                    self.after(a_while, Action::Recover(Recovery::Thaw(worker)));
                }
            }
            Fault::Hang => {
                let Some(worker) = self.any_worker() else {
                    return;
                };
                self.coverage.count("training threads that hang");
                if let Some(it) = self.workers.get_mut(&worker) {
                    it.hung = true;
                }
                if self.rng.percent(70) {
                    self.after(a_while, Action::Recover(Recovery::Unhang(worker)));
                }
            }
            Fault::FailOnce => {
                let class = *self
                    .rng
                    .pick(&["memory", "data", "other"])
                    .unwrap_or(&"data");
                if let Some(worker) = self.any_worker()
                    && let Some(it) = self.workers.get_mut(&worker)
                {
                    it.ill = Some(class);
                }
            }
            Fault::StorageDown => {
                self.coverage.count("storage out of reach");
                self.storage.down = true;
                self.after(a_while, Action::Recover(Recovery::StorageUp));
            }
            Fault::StorageSlow => {
                self.storage.slow = true;
                self.after(a_while, Action::Recover(Recovery::StorageFast));
            }
            Fault::CorruptCheckpoint => {
                let whole = self
                    .storage
                    .directories
                    .iter()
                    .filter(|(_, it)| it.manifest.is_some());
                let whole: Vec<_> = whole.map(|(key, _)| *key).collect();
                // Most often the newest: the others are hardly ever read.
                let chosen = match self.rng.percent(70) {
                    true => whole.iter().max_by_key(|(_, state)| state.step).copied(),
                    false => self.rng.pick(&whole).copied(),
                };
                if let Some(directory) =
                    chosen.and_then(|key| self.storage.directories.get_mut(&key))
                {
                    self.coverage.count("checkpoints corrupted");
                    directory.corrupt = true;
                }
            }
            Fault::JumpWallClock => {
                self.coordinator.wall = self.rng.next() as i64 / 4;
            }
            Fault::Ask => self.ask(),
        }
    }

    /// The one that brings the others to where it stands may die while it does.
    pub fn may_die_while_it_sends(&mut self, worker: &WorkerId) {
        if self.chaos && self.rng.percent(self.plan.source_dies) {
            let delay = self.rng.between(1, 900);
            self.after(
                delay,
                Action::Dies {
                    worker: worker.clone(),
                },
            );
        }
    }

    /// Someone wants something of the coordinator.
    fn ask(&mut self) {
        if !self.coordinator.up {
            return;
        }
        let jobs = self.coordinator.cluster.jobs();
        let Some(job) = self.rng.pick(&jobs).copied() else {
            return;
        };
        let (node, reason) = (self.any_node(), "at random".to_owned());
        let grace_seconds = self.rng.below(30) as u32;
        let event = match self.rng.below(8) {
            0 => Event::StopRequested { job, grace_seconds },
            1 => Event::CancelRequested { job, reason },
            2 => Event::CordonRequested { node, reason },
            3 => Event::UncordonRequested { node },
            4 | 5 => Event::DrainRequested { node, reason },
            _ => Event::ResumeRequested { job },
        };
        self.take(event);
    }

    pub fn recover(&mut self, recovery: Recovery) {
        match recovery {
            Recovery::Unblock(peer) => self.unblock(&peer),
            Recovery::UnblockPeers(node) => {
                self.network.peers_blocked.remove(&node);
                self.retry_collectives();
            }
            Recovery::Thaw(worker) => {
                if let Some(it) = self.workers.get_mut(&worker) {
                    it.frozen = false;
                    self.catch_up(&worker);
                }
            }
            Recovery::Unhang(worker) => {
                if let Some(it) = self.workers.get_mut(&worker) {
                    it.hung = false;
                    self.catch_up(&worker);
                    self.wake(&worker);
                }
            }
            Recovery::StorageUp => self.storage.down = false,
            Recovery::StorageFast => self.storage.slow = false,
        }
    }

    /// What has come while nothing ran is looked at now, in order.
    fn catch_up(&mut self, worker: &WorkerId) {
        say!(self, "{worker} goes on");
        let missed = self
            .workers
            .get_mut(worker)
            .map(|it| std::mem::take(&mut it.missed));
        for action in missed.unwrap_or_default() {
            self.act(action);
        }
    }

    /// From now on nothing goes wrong any more. What hangs for good goes on hanging.
    pub fn calm(&mut self) {
        self.chaos = false;
        say!(self, "nothing goes wrong any more");
        for peer in self.network.blocked.keys().cloned().collect::<Vec<_>>() {
            self.unblock(&peer);
        }
        self.network.peers_blocked.clear();
        self.storage.down = false;
        self.storage.slow = false;
        self.coordinator.dies = None;
        for worker in self.workers.values_mut() {
            worker.ill = None;
        }
        for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
            if self.rng.percent(70) {
                self.recover(Recovery::Thaw(worker.clone()));
                self.recover(Recovery::Unhang(worker));
            }
        }
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.start_agent(&node);
        }
        if !self.coordinator.up {
            self.start_coordinator();
        }
        self.retry_collectives();
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            if self.coordinator.cluster.is_to_be_empty(&node) {
                self.after(UNTIL_EMPTY_MS, Action::UseAgain { node });
            } else {
                self.take(Event::UncordonRequested { node });
            }
        }
    }

    /// A node that was drained when things calmed down is empty by now, whatever its jobs could or could not do elsewhere.
    pub fn use_again(&mut self, node: NodeName) {
        self.coverage.count("nodes drained");
        let stage = self.coordinator.cluster.drain_stage(&node);
        must!(
            stage != Some(DrainStage::Draining),
            Convergence,
            "node {node} is drained, and never empty"
        );
        self.take(Event::UncordonRequested { node });
    }

    /// Takes up again what was stopped or has failed. Returns whether all is done that can be.
    pub fn take_up(&mut self) -> bool {
        let mut done = self.coordinator.acknowledged.len() == self.plan.jobs.len();
        let jobs = self.coordinator.acknowledged.iter();
        // Behind a job that waits for someone to look at its storage, others wait for its slots.
        let one_waits = jobs
            .clone()
            .any(|job| self.says_that_it_waits(*job) && self.must_wait(*job));
        for job in self.coordinator.acknowledged.clone() {
            let Some(state) = self.state_of(job) else {
                continue;
            };
            match state {
                JobState::Finished => {}
                JobState::Stopped | JobState::Failed => {
                    done = false;
                    self.coverage.count("jobs taken up again");
                    self.take(Event::ResumeRequested { job });
                }
                _ => done &= one_waits,
            }
        }
        done
    }

    fn says_that_it_waits(&self, job: muster_types::JobId) -> bool {
        let now = self.coordinator_now();
        let status = self.coordinator.cluster.status(job, now);
        status.is_some_and(|status| {
            status
                .state_reason
                .contains("never starts again from step 0")
        })
    }
}
