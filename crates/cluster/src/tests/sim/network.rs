use std::collections::{BTreeMap, BTreeSet};

use muster_types::{NodeName, WorkerId};

use super::{
    control::Down,
    world::{Action, World, say},
};
use crate::Event;

/// Who has a stream to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Agent(NodeName),
    Worker(WorkerId),
}

/// Streams to the coordinator, and what keeps messages from getting through.
#[derive(Debug, Default)]
pub struct Network {
    pub sessions: BTreeMap<u64, Session>,
    opened: u64,
    blocks: u64,
    /// By peer: which directions are blocked.
    pub blocked: BTreeMap<Peer, Block>,
    /// Nodes that other nodes' workers do not reach.
    pub peers_blocked: BTreeSet<NodeName>,
}

/// One stream. Messages keep their order within it.
#[derive(Debug)]
pub struct Session {
    pub peer: Peer,
    /// Whether either end takes what arrives.
    client_open: bool,
    server_open: bool,
    /// When the last message arrives, by direction.
    up_at: u64,
    down_at: u64,
    /// What was sent last before the stream broke still arrives, up to these times.
    up_until: u64,
    down_until: u64,
    /// Waits for the link.
    held_up: Vec<Event>,
    held_down: Vec<Down>,
}

/// A link that lets nothing through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub number: u64,
    pub up: bool,
    pub down: bool,
}

impl World {
    fn hop(&mut self) -> u64 {
        if self.chaos && self.rng.percent(self.plan.slow_hops) {
            self.rng.between(100, 2500)
        } else {
            self.rng.between(1, 8)
        }
    }

    fn block_of(&self, peer: &Peer) -> Block {
        self.network.blocked.get(peer).copied().unwrap_or_default()
    }

    /// A process that lost its stream tries again after `pause`.
    pub fn connect_after(&mut self, peer: Peer, pause: u64) {
        let attempt = match &peer {
            Peer::Agent(node) => self.agents.get_mut(node).map(|agent| &mut agent.attempt),
            Peer::Worker(worker) => self.workers.get_mut(worker).map(|it| &mut it.attempt),
        };
        if let Some(attempt) = attempt {
            *attempt += 1;
            let attempt = *attempt;
            self.after(pause, Action::Connect { peer, attempt });
        }
    }

    pub fn connect(&mut self, peer: &Peer, attempt: u64) {
        let wanted = match peer {
            Peer::Agent(node) => self.agents.get(node).is_some_and(|agent| {
                agent.up && agent.session.is_none() && agent.attempt == attempt
            }),
            Peer::Worker(worker) => self
                .workers
                .get(worker)
                .is_some_and(|it| it.session.is_none() && it.attempt == attempt),
        };
        if !wanted {
            return;
        }
        let block = self.block_of(peer);
        if !self.coordinator.up || block.up || block.down {
            let pause = self.rng.between(100, 1000);
            return self.connect_after(peer.clone(), pause);
        }
        self.network.opened += 1;
        let session = self.network.opened;
        let first = match peer {
            Peer::Agent(node) => self.hello(node, session),
            Peer::Worker(worker) => self.attach(worker, session),
        };
        self.network.sessions.insert(
            session,
            Session {
                peer: peer.clone(),
                client_open: true,
                server_open: true,
                up_at: 0,
                down_at: 0,
                up_until: u64::MAX,
                down_until: u64::MAX,
                held_up: Vec::new(),
                held_down: Vec::new(),
            },
        );
        self.send_up(session, first);
    }

    pub fn send_up(&mut self, session: u64, event: Event) {
        let hop = self.hop();
        let at = self.now + hop;
        if let Some(session_) = self.network.sessions.get_mut(&session)
            && session_.client_open
        {
            session_.up_at = session_.up_at.max(at);
            let at = session_.up_at;
            self.at(at, Action::Up { session, event });
        }
    }

    pub fn send_down(&mut self, session: u64, down: Down) {
        let hop = self.hop();
        let at = self.now + hop;
        if let Some(session_) = self.network.sessions.get_mut(&session)
            && session_.server_open
        {
            session_.down_at = session_.down_at.max(at);
            let at = session_.down_at;
            self.at(at, Action::Down { session, down });
        }
    }

    pub fn arrives_up(&mut self, session: u64, event: Event) {
        let Some(it) = self.network.sessions.get(&session) else {
            return;
        };
        let block = self.block_of(&it.peer);
        let now = self.now;
        let Some(it) = self.network.sessions.get_mut(&session) else {
            return;
        };
        if !it.server_open || now > it.up_until {
            return;
        }
        if block.up || !it.held_up.is_empty() {
            it.held_up.push(event);
            return;
        }
        let peer = it.peer.clone();
        self.peer_says(session, &peer, event);
    }

    pub fn arrives_down(&mut self, session: u64, down: Down) {
        let Some(it) = self.network.sessions.get(&session) else {
            return;
        };
        let block = self.block_of(&it.peer);
        let now = self.now;
        let Some(it) = self.network.sessions.get_mut(&session) else {
            return;
        };
        if !it.client_open || now > it.down_until {
            return;
        }
        if block.down || !it.held_down.is_empty() {
            it.held_down.push(down);
            return;
        }
        match it.peer.clone() {
            Peer::Agent(node) => self.agent_obeys(&node, session, down),
            Peer::Worker(worker) => self.worker_obeys(&worker, session, down),
        }
    }

    /// The stream breaks in the middle: what was sent last may be lost, and each end notices when it does.
    pub fn break_session(&mut self, session: u64) {
        let (up, down) = (self.rng.below(12), self.rng.below(12));
        let (client, server) = (self.rng.between(12, 400), self.rng.between(12, 3000));
        let now = self.now;
        if let Some(it) = self.network.sessions.get_mut(&session) {
            it.up_until = it.up_until.min(now + up);
            it.down_until = it.down_until.min(now + down);
            self.after(client, Action::ClientNotices { session });
            self.after(server, Action::ServerNotices { session });
        }
    }

    /// The process at the far end is gone; what it said last may still arrive.
    pub fn client_dies(&mut self, session: u64) {
        let up = self.rng.below(20);
        let server = self.rng.between(20, 600);
        let now = self.now;
        if let Some(it) = self.network.sessions.get_mut(&session) {
            it.client_open = false;
            it.up_until = it.up_until.min(now + up);
            self.after(server, Action::ServerNotices { session });
        }
    }

    /// The coordinator ends a stream, or dies; what it said last arrives in order, or in part.
    pub fn server_ends(&mut self, session: u64, down: u64) {
        let client = self.rng.between(1, 200);
        let now = self.now;
        if let Some(it) = self.network.sessions.get_mut(&session) {
            it.server_open = false;
            it.down_until = it.down_until.min(now.saturating_add(down));
            let at = it.down_at.max(now) + client;
            self.at(at, Action::ClientNotices { session });
        }
    }

    pub fn all_sessions_die(&mut self) {
        let sessions: Vec<u64> = self.network.sessions.keys().copied().collect();
        for session in sessions {
            let down = self.rng.below(12);
            self.server_ends(session, down);
        }
    }

    pub fn client_notices(&mut self, session: u64) {
        let Some(it) = self.network.sessions.get_mut(&session) else {
            return;
        };
        if !std::mem::take(&mut it.client_open) {
            return;
        }
        it.held_up.clear();
        let peer = it.peer.clone();
        self.drop_if_closed(session);
        self.tell_other_end(&peer, Action::ServerNotices { session });
        let pause = self.rng.between(50, 300);
        let has = match &peer {
            Peer::Agent(node) => self.agents.get_mut(node).map(|agent| &mut agent.session),
            Peer::Worker(worker) => self.workers.get_mut(worker).map(|it| &mut it.session),
        };
        if let Some(has) = has
            && *has == Some(session)
        {
            *has = None;
            match &peer {
                Peer::Agent(node) => {
                    if let Some(agent) = self.agents.get_mut(node) {
                        agent.opened = false;
                    }
                }
                Peer::Worker(worker) => {
                    if let Some(it) = self.workers.get_mut(worker) {
                        it.opened = false;
                    }
                }
            }
            self.connect_after(peer, pause);
        }
    }

    pub fn server_notices(&mut self, session: u64) {
        let Some(it) = self.network.sessions.get_mut(&session) else {
            return;
        };
        if !std::mem::take(&mut it.server_open) {
            return;
        }
        it.held_down.clear();
        let peer = it.peer.clone();
        self.drop_if_closed(session);
        self.tell_other_end(&peer, Action::ClientNotices { session });
        self.peer_gone(session, &peer);
    }

    /// Whoever closes a stream says so, if it gets through.
    fn tell_other_end(&mut self, peer: &Peer, notices: Action) {
        if self.block_of(peer) == Block::default() {
            let delay = self.rng.between(20, 400);
            self.after(delay, notices);
        }
    }

    fn drop_if_closed(&mut self, session: u64) {
        let closed = |it: &Session| !it.client_open && !it.server_open;
        if self.network.sessions.get(&session).is_some_and(closed) {
            self.network.sessions.remove(&session);
        }
    }

    /// From now on a link lets nothing through; what is sent waits, until an end of the stream gives it up.
    pub fn block(&mut self, peer: Peer, up: bool, down: bool) {
        self.network.blocks += 1;
        let number = self.network.blocks;
        say!(self, "link of {peer:?} blocked, up {up}, down {down}");
        let sessions: Vec<u64> = self
            .network
            .sessions
            .iter()
            .filter(|(_, it)| it.peer == peer)
            .map(|(session, _)| *session)
            .collect();
        self.network
            .blocked
            .insert(peer, Block { number, up, down });
        for session in sessions {
            for _ in 0..2 {
                let patience = self.rng.between(1500, 9000);
                self.after(
                    patience,
                    Action::KeepAlive {
                        session,
                        block: number,
                    },
                );
            }
        }
    }

    pub fn keep_alive(&mut self, session: u64, block: u64) {
        let Some(it) = self.network.sessions.get(&session) else {
            return;
        };
        if self.block_of(&it.peer).number != block {
            return;
        }
        // Each end has its own clock.
        let first = if self.rng.percent(50) {
            Action::ClientNotices { session }
        } else {
            Action::ServerNotices { session }
        };
        self.after(0, first);
    }

    pub fn unblock(&mut self, peer: &Peer) {
        if self.network.blocked.remove(peer).is_none() {
            return;
        }
        say!(self, "link of {peer:?} free");
        let sessions: Vec<u64> = self
            .network
            .sessions
            .iter()
            .filter(|(_, it)| it.peer == *peer)
            .map(|(session, _)| *session)
            .collect();
        for session in sessions {
            let Some(it) = self.network.sessions.get_mut(&session) else {
                continue;
            };
            let (up, down) = (
                std::mem::take(&mut it.held_up),
                std::mem::take(&mut it.held_down),
            );
            for event in up {
                self.arrives_up(session, event);
            }
            for down in down {
                self.act(Action::Down { session, down });
            }
            // One end may have given the stream up while the other could not hear of it.
            let Some(it) = self.network.sessions.get(&session) else {
                continue;
            };
            if !it.client_open {
                self.after(50, Action::ServerNotices { session });
            } else if !it.server_open {
                self.after(50, Action::ClientNotices { session });
            }
        }
    }
}
