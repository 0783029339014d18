use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use muster_checkpoint::{FileEntry, TensorEntry};
use muster_types::{Digest, Generation, JobId, NodeName, Rank, StateId, Step, WorkerId};

use crate::{
    Activity, Event, Form, Order, Part, ProbeAnswer, ResumeSource, StepMetrics, WorkerMessage,
};

/// Tokens of a step: they differ, so that a step counted twice or never shows.
pub fn tokens_of(step: u64) -> u64 {
    100 + step % 7
}

/// Evidence of a step.
pub fn evidence_of(step: u64) -> u64 {
    (step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A worker as the generation protocol has it: a fence, a state with a name, and what is said again on each new stream.
#[derive(Debug)]
pub struct FakeWorker {
    pub id: WorkerId,
    pub job: JobId,
    pub node: NodeName,
    pub slot: u32,
    pub connected: bool,
    /// The coordinator has taken its attach on this stream: what it was told before went to the old one, and is lost.
    pub heard: bool,
    /// Neither answers nor works; its process is there.
    pub frozen: bool,
    /// What it says to be at when it is asked, and for how long, in ms; and how long is usual.
    pub at: Option<(Activity, u64, u64)>,
    pub warm: bool,
    pub fingerprint: String,
    /// Peers that it does not reach.
    pub cut_off_from: BTreeSet<WorkerId>,
    /// Answers when it is asked whom it reaches.
    pub tells_reach: bool,
    /// What a slot of the batch takes it.
    pub slot_ms: f64,
    pub generation: Generation,
    pub superseded: Generation,
    pub form: Option<Form>,
    pub ready: bool,
    pub failed: bool,
    pub at_boundary: bool,
    pub holdings: Option<StateId>,
    /// Control has agreed on this step; it is committed unless the fence comes first.
    pub pending: Option<Step>,
    pub reconfigure: bool,
    pub save_now: bool,
    pub leave: Option<bool>,
    /// Waits for its last part to be on record, then leaves.
    pub leaving: bool,
    pub left: bool,
    pub acknowledged: BTreeSet<StateId>,
    recent: Vec<StepMetrics>,
    standing: Vec<WorkerMessage>,
    unacknowledged: BTreeMap<(StateId, u32), Part>,
    pub out: VecDeque<Event>,
}

impl FakeWorker {
    pub fn start(id: WorkerId, job: JobId, node: NodeName, slot: u32) -> Self {
        Self {
            id,
            job,
            node,
            slot,
            connected: false,
            heard: false,
            frozen: false,
            at: None,
            warm: false,
            fingerprint: "fake".into(),
            cut_off_from: BTreeSet::new(),
            tells_reach: true,
            slot_ms: 40.0,
            generation: Generation(0),
            superseded: Generation(0),
            form: None,
            ready: false,
            failed: false,
            at_boundary: false,
            holdings: None,
            pending: None,
            reconfigure: false,
            save_now: false,
            leave: None,
            leaving: false,
            left: false,
            acknowledged: BTreeSet::new(),
            recent: Vec::new(),
            standing: Vec::new(),
            unacknowledged: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    fn event(&self, message: WorkerMessage) -> Event {
        Event::Worker {
            job: self.job,
            worker: self.id.clone(),
            generation: self.generation,
            message,
        }
    }

    pub fn say(&mut self, message: WorkerMessage) {
        if self.connected {
            let event = self.event(message);
            self.out.push_back(event);
        }
    }

    /// A new stream: attach, and everything that may not have been heard.
    pub fn connect(&mut self) {
        self.connected = true;
        self.heard = false;
        let (holdings, warm) = (self.holdings, self.warm);
        self.say(WorkerMessage::Attach {
            pid: 1,
            collective_address: format!("{}:{}", self.node, self.id),
            holdings,
            warm,
            numerics_fingerprint: self.fingerprint.clone(),
            reach_address: format!("{}:1", self.id),
        });
        if !self.recent.is_empty() {
            self.say(WorkerMessage::Report {
                steps: self.recent.clone(),
            });
        }
        for message in self.standing.clone() {
            self.say(message);
        }
        for part in self.unacknowledged.values().cloned().collect::<Vec<_>>() {
            self.say(WorkerMessage::PartWritten(part));
        }
    }

    pub fn rank(&self) -> Option<u32> {
        self.form.as_ref().map(|form| form.rank.get())
    }

    pub fn world_size(&self) -> u32 {
        self.form
            .as_ref()
            .map_or(0, |form| form.members.len() as u32)
    }

    pub fn is_fenced(&self) -> bool {
        self.superseded >= self.generation
    }

    /// Does as it is told. Returns whether the process ends.
    pub fn obey(&mut self, generation: Generation, order: Order) -> bool {
        match order {
            Order::Welcome { .. } => {
                if !self.warm {
                    self.warm = true;
                    self.say(WorkerMessage::Warm {
                        numerics_fingerprint: self.fingerprint.clone(),
                        reach_address: format!("{}:1", self.id),
                    });
                }
            }
            Order::Supersede { superseded, .. } => {
                self.superseded = self.superseded.max(superseded);
                self.pending = None;
                let holdings = self.holdings;
                self.say(WorkerMessage::Fenced {
                    superseded,
                    holdings,
                });
            }
            Order::Form(form) => {
                if generation > self.generation {
                    self.join(generation, *form);
                }
            }
            Order::Reconfigure { .. } if generation == self.generation => self.reconfigure = true,
            Order::SaveNow if generation == self.generation => self.save_now = true,
            Order::Leave { save, .. } => {
                self.leave = Some(save);
                // Whoever is to save first does so in the next generation.
                let waits_there = self.at_boundary && !save;
                if self.form.is_none() || self.is_fenced() || self.failed || waits_there {
                    self.say(WorkerMessage::Left {
                        reason: "told to".into(),
                        step: Step(0),
                    });
                    self.left = true;
                }
            }
            Order::Reach { .. } if !self.tells_reach => {}
            Order::Reach { number, peers } => {
                let peers = peers.into_iter().map(|(peer, _)| peer);
                let unreachable = peers.filter(|peer| self.cut_off_from.contains(peer));
                let reached = WorkerMessage::Reached {
                    number,
                    unreachable: unreachable.collect(),
                };
                self.say(reached);
            }
            Order::Probe { number } => {
                let (activity, quiet, usual) = self.at.unwrap_or(match self.form {
                    None => (Activity::Idle, 0, 0),
                    Some(_) if self.ready => (Activity::Reducing, 0, 0),
                    Some(_) => (Activity::Building, 0, 0),
                });
                self.say(WorkerMessage::ProbeAnswer(ProbeAnswer {
                    number,
                    activity,
                    quiet: Duration::from_millis(quiet),
                    usual: Duration::from_millis(usual),
                }));
            }
            Order::Expelled { .. } => return true,
            Order::PartAcknowledged { state } => {
                self.unacknowledged.retain(|(of, _), _| *of != state);
                self.acknowledged.insert(state);
            }
            Order::Reconfigure { .. } | Order::SaveNow => {}
        }
        false
    }

    fn join(&mut self, generation: Generation, form: Form) {
        self.superseded = self.superseded.max(Generation(generation.get() - 1));
        self.generation = generation;
        self.ready = false;
        self.failed = false;
        self.at_boundary = false;
        self.pending = None;
        self.reconfigure = false;
        self.save_now = false;
        self.leaving = false;
        self.recent.clear();
        self.standing.clear();
        self.form = Some(form);
    }

    /// The group is built: whoever does not hold the resume state is brought to it.
    pub fn heal(&mut self) {
        let form = self.form.clone().unwrap();
        let sends = matches!(&form.resume.source, ResumeSource::Live { ranks } if ranks.contains(&form.rank));
        if sends {
            assert_eq!(
                self.holdings,
                Some(form.resume.state),
                "{} is named as a source of what it does not hold",
                self.id
            );
        }
        let from = match &form.resume.source {
            _ if self.holdings == Some(form.resume.state) => "none",
            ResumeSource::Initialise => "init",
            ResumeSource::Live { .. } => "live",
            ResumeSource::Checkpoint { .. } => "checkpoint",
        };
        self.holdings = Some(form.resume.state);
        self.ready = true;
        let message = WorkerMessage::Ready {
            state_hash: 1,
            heal_ms: 3,
            healed_bytes: 10,
            healed_from: from.into(),
        };
        self.standing.push(message.clone());
        self.say(message);
    }

    /// A peer is gone, or the group was aborted.
    pub fn fail(&mut self, class: &str) {
        self.failed = true;
        self.pending = None;
        let step = self.holdings.map_or(Step(0), |state| state.step);
        let message = WorkerMessage::Failed {
            cause: "connection closed by peer".into(),
            class: class.into(),
            phase: "training".into(),
            step,
        };
        self.standing.push(message.clone());
        self.say(message);
    }

    /// Commits the step that was agreed on, under the fence.
    pub fn commit(&mut self) -> Option<StateId> {
        let step = self.pending.take()?;
        if self.is_fenced() {
            return None;
        }
        let state = StateId::new(self.generation, step);
        self.holdings = Some(state);
        let metrics = StepMetrics {
            step,
            loss: 3.0,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens: tokens_of(step.get()),
            step_ms: 100.0,
            evidence: evidence_of(step.get()),
            samples: 8,
            slot_ms: self.slot_ms,
        };
        self.recent.push(metrics);
        self.say(WorkerMessage::Report {
            steps: vec![metrics],
        });
        Some(state)
    }

    /// Writes this rank's part of the checkpoint of what it holds.
    pub fn save(&mut self) {
        let (Some(state), Some(rank)) = (self.holdings, self.rank()) else {
            return;
        };
        let part = Part {
            state,
            rank: Rank(rank),
            world_size: self.world_size(),
            file: file(rank, self.world_size()),
        };
        self.unacknowledged
            .insert((state, self.world_size()), part.clone());
        self.say(WorkerMessage::PartWritten(part));
    }

    pub fn leave_at_boundary(&mut self, state: StateId) {
        self.at_boundary = true;
        let message = WorkerMessage::AtBoundary { state };
        self.standing.push(message.clone());
        self.say(message);
    }

    /// Leaves in good order. The process ends.
    pub fn go(&mut self) {
        let step = self.holdings.map_or(Step(0), |state| state.step);
        self.say(WorkerMessage::Left {
            reason: "done".into(),
            step,
        });
        self.left = true;
    }
}

pub fn file(rank: u32, world_size: u32) -> FileEntry {
    FileEntry {
        file: format!("part-{rank:05}-of-{world_size:05}.safetensors"),
        bytes: 100,
        digest: Digest::new([rank as u8; 32]),
        tensors: vec![TensorEntry {
            name: format!("model.{rank}"),
            dtype: "F32".into(),
            shape: vec![1],
            digest: Digest::new([rank as u8; 32]),
        }],
    }
}
