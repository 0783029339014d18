use std::{sync::Arc, time::Duration};

use muster_types::{Generation, JobId, NodeName, WorkerId};

use super::{
    sabotage::Sabotage,
    training::Directive,
    worker::Requests,
    world::{Action, World, say},
};
use crate::{Event, Order, ProbeAnswer, WorkerMessage};

/// How often a rank that does not report at once sends its steps.
const REPORT_EVERY_MS: u64 = 1000;

/// What comes down a stream.
#[derive(Clone, Debug)]
pub enum Down {
    /// The coordinator has taken the first message.
    Opened,
    Start {
        job: JobId,
        worker: WorkerId,
        slot: u32,
    },
    Kill {
        worker: WorkerId,
    },
    Order {
        generation: Generation,
        order: Order,
    },
}

/// The control thread of a worker.
impl World {
    pub fn attach(&mut self, worker: &WorkerId, session: u64) -> Event {
        let it = self
            .workers
            .get_mut(worker)
            .expect("a worker that connects");
        it.session = Some(session);
        it.opened = false;
        Event::Worker {
            job: it.job,
            worker: worker.clone(),
            generation: it.generation,
            message: WorkerMessage::Attach {
                pid: it.pid,
                collective_address: format!("{}:{worker}", it.node),
                holdings: it.holdings,
                warm: it.warm,
                numerics_fingerprint: "simulated".into(),
                reach_address: format!("{worker}:1"),
            },
        }
    }

    /// Sends to the coordinator if there is a stream.
    fn send(&mut self, worker: &WorkerId, generation: Generation, message: WorkerMessage) -> bool {
        let Some(it) = self.workers.get(worker) else {
            return false;
        };
        let (Some(session), true) = (it.session, it.opened) else {
            return false;
        };
        let job = it.job;
        self.send_up(
            session,
            Event::Worker {
                job,
                worker: worker.clone(),
                generation,
                message,
            },
        );
        true
    }

    /// The training thread or the saver says something.
    pub fn says(&mut self, worker: &WorkerId, generation: Generation, message: WorkerMessage) {
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        match &message {
            WorkerMessage::Report { steps } => {
                it.unsent_steps.extend(steps.iter().copied());
                it.recent_steps.extend(steps.iter().copied());
                let first = it.recent_steps.len() == steps.len();
                if it.rank_zero || first {
                    self.report(worker);
                } else if !std::mem::replace(&mut it.flush_due, true) {
                    self.after(
                        REPORT_EVERY_MS,
                        Action::Flush {
                            worker: worker.clone(),
                        },
                    );
                }
                return;
            }
            WorkerMessage::Warm { .. } => it.warm = true,
            WorkerMessage::Ready { .. }
            | WorkerMessage::Failed { .. }
            | WorkerMessage::AtBoundary { .. }
            | WorkerMessage::Left { .. }
            | WorkerMessage::Tripped(_)
            | WorkerMessage::Unreadable { .. } => {
                it.standing = Some((generation, message.clone()));
            }
            WorkerMessage::PartWritten(part) => it.unacknowledged.push(part.clone()),
            _ => {}
        }
        // A step's report never comes after what it led to.
        self.report(worker);
        let sent = self.send(worker, generation, message.clone());
        if !sent
            && matches!(
                message,
                WorkerMessage::PartFailed { .. } | WorkerMessage::Evaluated { .. }
            )
            && let Some(it) = self.workers.get_mut(worker)
        {
            it.unsent.push((generation, message));
        }
    }

    fn report(&mut self, worker: &WorkerId) {
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        if it.unsent_steps.is_empty() || !it.opened {
            return;
        }
        let (generation, steps) = (it.generation, std::mem::take(&mut it.unsent_steps));
        self.send(worker, generation, WorkerMessage::Report { steps });
    }

    /// The peers on other nodes, where its node or theirs is cut off from other nodes.
    fn unreachable(&self, worker: &WorkerId, peers: &[(WorkerId, Arc<str>)]) -> Vec<WorkerId> {
        let node = |worker: &WorkerId| self.workers.get(worker).map(|it| it.node.clone());
        let is_cut = |node: &Option<NodeName>| {
            let blocked = &self.network.peers_blocked;
            node.as_ref().is_some_and(|node| blocked.contains(node))
        };
        let here = node(worker);
        let peers = peers.iter().map(|(peer, _)| peer);
        let cut_off = peers.filter(|peer| {
            let there = node(peer);
            there != here && (is_cut(&here) || is_cut(&there))
        });
        cut_off.cloned().collect()
    }

    pub fn flush(&mut self, worker: &WorkerId) {
        if let Some(it) = self.workers.get_mut(worker) {
            it.flush_due = false;
            self.report(worker);
        }
    }

    /// What was said before, and may not have been heard.
    fn say_again(&mut self, worker: &WorkerId) {
        let parts_too = !self.is_sabotaged(Sabotage::PartsSaidOnce);
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        it.opened = true;
        it.unsent_steps.clear();
        let generation = it.generation;
        let mut messages = Vec::new();
        if !it.recent_steps.is_empty() {
            let steps = it.recent_steps.clone();
            messages.push((generation, WorkerMessage::Report { steps }));
        }
        messages.extend(it.standing.clone());
        if parts_too {
            let parts = it.unacknowledged.iter().cloned();
            messages.extend(parts.map(|part| (generation, WorkerMessage::PartWritten(part))));
        }
        messages.append(&mut it.unsent);
        for (generation, message) in messages {
            self.send(worker, generation, message);
        }
    }

    pub fn worker_obeys(&mut self, worker: &WorkerId, session: u64, down: Down) {
        let Some(it) = self.workers.get(worker) else {
            return;
        };
        if it.session != Some(session) {
            return;
        }
        match down {
            Down::Opened => self.say_again(worker),
            Down::Order { generation, order } => self.obey(worker, generation, order),
            Down::Start { .. } | Down::Kill { .. } => {}
        }
    }

    fn obey(&mut self, worker: &WorkerId, generation: Generation, order: Order) {
        let now = self.now;
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        match order {
            Order::Welcome { .. } => {
                if !std::mem::replace(&mut it.welcomed, true) {
                    self.direct(worker, Directive::Start);
                }
            }
            Order::Supersede { superseded, .. } => {
                it.superseded = it.superseded.max(superseded);
                let holdings = it.holdings;
                let current = it.generation;
                let named = holdings.map(|state| {
                    let named = muster_types::StateId::new(superseded, state.step);
                    if self.sabotage == Some(Sabotage::StateNamedByStepAlone)
                        && state.step.get() > 0
                    {
                        named
                    } else {
                        state
                    }
                });
                self.report(worker);
                let holdings = named;
                self.send(
                    worker,
                    current,
                    WorkerMessage::Fenced {
                        superseded,
                        holdings,
                    },
                );
                if self.is_sabotaged(Sabotage::AbortBeforeForm) {
                    self.abort_group(worker);
                }
            }
            Order::Form(form) => {
                if generation > it.generation {
                    it.superseded = it.superseded.max(Generation(generation.get() - 1));
                    it.requests = Requests::default();
                    it.generation = generation;
                    it.rank_zero = form.rank.get() == 0;
                    it.unsent_steps.clear();
                    it.recent_steps.clear();
                    it.standing = None;
                    self.check_form(worker, generation, &form);
                    self.abort_group(worker);
                    self.direct(worker, Directive::Form(generation, form));
                }
            }
            Order::Reconfigure { .. } if generation == it.generation => {
                it.requests.reconfigure = true
            }
            Order::SaveNow if generation == it.generation => it.requests.save = true,
            Order::Reconfigure { .. } | Order::SaveNow => {}
            Order::Leave { save, .. } => {
                it.requests.leave = true;
                it.requests.save |= save;
                if !save {
                    self.direct(worker, Directive::Leave);
                }
            }
            Order::Probe { number } => {
                let quiet = now - it.since;
                let activity = it.at.activity();
                let usual = it.usual.get(&(activity as u8)).copied().unwrap_or_default();
                let answer = ProbeAnswer {
                    number,
                    activity,
                    quiet: Duration::from_millis(quiet),
                    usual: Duration::from_millis(usual),
                };
                let current = it.generation;
                self.send(worker, current, WorkerMessage::ProbeAnswer(answer));
            }
            Order::Reach { number, peers } => {
                let current = it.generation;
                let unreachable = self.unreachable(worker, &peers);
                let reached = WorkerMessage::Reached {
                    number,
                    unreachable,
                };
                self.send(worker, current, reached);
            }
            Order::Expelled { reason } => {
                say!(self, "{worker} is expelled: {reason}");
                self.exit(worker, 1);
            }
            Order::PartAcknowledged { state } => {
                // Parts of older states are overtaken by it.
                it.unacknowledged
                    .retain(|part| part.state.step > state.step);
                self.direct(worker, Directive::Acknowledged(state));
            }
        }
    }
}
