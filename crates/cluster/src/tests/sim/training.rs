use std::ops::Range;

use muster_types::{Generation, StateId, Step, WorkerId};

use super::{
    collectives::Outcome,
    content::{self, Content},
    sabotage::Sabotage,
    saver::Save,
    world::{Action, World},
};
use crate::{Activity, Form, StepMetrics, Trip, WorkerMessage};

/// What the control thread tells the training thread, in order.
#[derive(Clone, Debug)]
pub enum Directive {
    Start,
    Form(Generation, Box<Form>),
    Leave,
    Acknowledged(StateId),
    SaveFailed(StateId),
}

/// What a training thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Waiting,
    Loading,
    Computing,
    Restoring,
    Updating,
    /// One part is being written and another waits: a third would cost memory.
    Saving,
    /// In a collective of its generation, by its number.
    Collective(u64),
    Ended,
}

impl At {
    pub fn activity(self) -> Activity {
        match self {
            Self::Waiting | Self::Ended => Activity::Idle,
            Self::Loading => Activity::Loading,
            Self::Computing | Self::Updating => Activity::Computing,
            Self::Restoring => Activity::Restoring,
            Self::Saving => Activity::Saving,
            Self::Collective(BUILD) => Activity::Building,
            Self::Collective(_) => Activity::Reducing,
        }
    }
}

/// The collectives of a generation, in order: its building, a broadcast where a rank is behind, the comparison of hashes, and
/// then one a step.
pub const BUILD: u64 = 0;
pub const BROADCAST: u64 = 1;
pub const HASHES: u64 = 2;
pub const STEP: u64 = 3;

/// A training thread comes to something.
#[derive(Clone, Debug)]
pub enum Thread {
    Loaded,
    /// The saver has taken the next part.
    HandedOver,
    /// The passes of a step are done.
    Computed,
    Restored,
    /// A collective is over for this rank.
    Came {
        op: u64,
        outcome: Outcome,
    },
    /// The update of a step is done, or would be.
    Updated {
        evidence: u64,
        ranges: Vec<Range<u64>>,
        requests: super::worker::Requests,
        garbage: bool,
    },
}

impl World {
    /// Tells the training thread something; it looks when it waits.
    pub fn direct(&mut self, worker: &WorkerId, directive: Directive) {
        if let Some(it) = self.workers.get_mut(worker) {
            it.inbox.push_back(directive);
            self.wake(worker);
        }
    }

    pub fn turn_to(&mut self, worker: &WorkerId, at: At) {
        let now = self.now;
        if let Some(it) = self.workers.get_mut(worker) {
            let took = now - it.since;
            let usual = it.usual.entry(it.at.activity() as u8).or_default();
            *usual = (*usual).max(took);
            it.at = at;
            it.since = now;
            it.token += 1;
        }
    }

    pub fn thread_after(&mut self, worker: &WorkerId, delay: u64, thread: Thread) {
        if let Some(it) = self.workers.get(worker) {
            let token = it.token;
            self.after(
                delay,
                Action::Thread {
                    worker: worker.clone(),
                    token,
                    thread,
                },
            );
        }
    }

    pub fn wake(&mut self, worker: &WorkerId) {
        loop {
            let Some(it) = self.workers.get_mut(worker) else {
                return;
            };
            if it.at != At::Waiting || it.hung {
                return;
            }
            let Some(directive) = it.inbox.pop_front() else {
                return;
            };
            match directive {
                Directive::Start => {
                    self.turn_to(worker, At::Loading);
                    self.say_phase(worker, "loading", Step(0));
                    let load = self.rng.between(20, 900);
                    self.thread_after(worker, load, Thread::Loaded);
                }
                Directive::Form(generation, form) => {
                    it.form = Some((generation, *form));
                    it.completed = None;
                    self.build(worker, generation);
                }
                Directive::Leave => self.leave(worker),
                Directive::Acknowledged(state) if it.completed == Some(state) => self.leave(worker),
                Directive::SaveFailed(state) if it.completed == Some(state) => {
                    return self.exit(worker, 1);
                }
                Directive::Acknowledged(_) | Directive::SaveFailed(_) => {}
            }
        }
    }

    pub fn say_phase(&mut self, worker: &WorkerId, phase: &str, step: Step) {
        let Some(it) = self.workers.get(worker) else {
            return;
        };
        let generation = it
            .form
            .as_ref()
            .map_or(Generation(0), |(generation, _)| *generation);
        self.says(
            worker,
            generation,
            WorkerMessage::Phase {
                phase: phase.into(),
                step,
            },
        );
    }

    /// Leaves once what was handed to the saver is written.
    fn leave(&mut self, worker: &WorkerId) {
        self.turn_to(worker, At::Ended);
        if let Some(it) = self.workers.get_mut(worker) {
            it.leaves_when_saved = true;
            self.leave_if_saved(worker);
        }
    }

    pub fn leave_if_saved(&mut self, worker: &WorkerId) {
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        if it.leaves_when_saved && !it.saving && it.saves.is_empty() {
            let generation = it
                .form
                .as_ref()
                .map_or(Generation(0), |(generation, _)| *generation);
            let step = it.step();
            self.says(
                worker,
                generation,
                WorkerMessage::Left {
                    reason: "done".into(),
                    step,
                },
            );
            self.exit(worker, 0);
        }
    }

    pub fn thread(&mut self, worker: &WorkerId, token: u64, thread: Thread) {
        let Some(it) = self.workers.get(worker) else {
            return;
        };
        if it.token != token {
            return;
        }
        match thread {
            Thread::Loaded => {
                self.turn_to(worker, At::Waiting);
                let numerics_fingerprint = "simulated".into();
                self.says(
                    worker,
                    Generation(0),
                    WorkerMessage::Warm {
                        numerics_fingerprint,
                        reach_address: format!("{worker}:1"),
                    },
                );
                self.wake(worker);
            }
            Thread::HandedOver => self.go_on(worker),
            Thread::Computed => self.computed(worker),
            Thread::Restored => self.restored(worker),
            Thread::Came { op, outcome } => self.came(worker, op, outcome),
            Thread::Updated {
                evidence,
                ranges,
                requests,
                garbage,
            } => {
                self.updated(worker, evidence, &ranges, requests, garbage);
            }
        }
    }

    /// Back to waiting for orders.
    pub fn rest(&mut self, worker: &WorkerId) {
        self.turn_to(worker, At::Waiting);
        self.wake(worker);
    }

    fn build(&mut self, worker: &WorkerId, generation: Generation) {
        let resume = self.workers[worker].form().resume.state;
        self.say_phase(worker, "building", resume.step);
        if self
            .workers
            .get(worker)
            .is_none_or(|it| it.is_over(generation))
        {
            return self.rest(worker);
        }
        self.enter(worker, BUILD);
    }

    /// A collective has ended for this rank, or cannot.
    pub fn came(&mut self, worker: &WorkerId, op: u64, outcome: Outcome) {
        let it = &self.workers[worker];
        let (generation, _) = *it.form.as_ref().expect("a member has a form");
        if outcome == Outcome::Failed {
            return self.fails(worker, generation, "collective", "a peer is gone");
        }
        match op {
            BUILD => self.heal(worker),
            BROADCAST => {
                if let Outcome::Done { content, .. } = outcome {
                    let it = self.workers.get_mut(worker).expect("it is there");
                    it.content = content;
                    self.compare(worker);
                }
            }
            HASHES => {
                if let Outcome::Done { agree, .. } = outcome {
                    self.compared(worker, agree);
                }
            }
            _ => {
                if let Outcome::Done {
                    evidence,
                    ranges,
                    requests,
                    garbage,
                    ..
                } = outcome
                {
                    self.controlled(worker, evidence, ranges, requests, garbage);
                }
            }
        }
    }

    /// The next step, or the end.
    pub fn go_on(&mut self, worker: &WorkerId) {
        let Some(it) = self.workers.get_mut(worker) else {
            return;
        };
        let generation = it.form.as_ref().expect("a form").0;
        let state = it.holdings.unwrap_or(StateId::INITIAL);
        let total = self.plan_of(worker).train.steps;
        if state.step.get() >= total {
            if let Some(it) = self.workers.get_mut(worker) {
                it.completed = Some(state);
            }
            self.say_phase(worker, "saving", state.step);
            return self.rest(worker);
        }
        let it = &self.workers[worker];
        if it.is_over(generation) {
            return self.rest(worker);
        }
        if it.saves.len() > 1 {
            return self.turn_to(worker, At::Saving);
        }
        self.turn_to(worker, At::Computing);
        let compute = self
            .rng
            .between(self.plan.step_ms / 2, self.plan.step_ms * 3 / 2);
        self.thread_after(worker, compute, Thread::Computed);
    }

    pub fn plan_of(&self, worker: &WorkerId) -> muster_spec::RunSpec {
        self.coordinator_spec(self.workers[worker].job)
    }

    fn computed(&mut self, worker: &WorkerId) {
        let it = &self.workers[worker];
        let (generation, form) = it.form.clone().expect("a form");
        if it.is_over(generation) {
            return self.rest(worker);
        }
        if let Some(class) = it.ill {
            return self.fails(worker, generation, class, "of its own");
        }
        let spec = self.plan_of(worker);
        let it = &self.workers[worker];
        let step = it.step();
        let counted_from = if self.is_sabotaged(Sabotage::PositionFollowsGeneration) {
            Step(step.get() - form.resume.state.step.get())
        } else {
            step
        };
        let range = muster_plan::positions(&form.segments, counted_from).map(|(_, range)| range);
        let range = range.expect("a step without positions");
        let mine = form.assignment[form.rank.get() as usize];
        let count = if self.is_sabotaged(Sabotage::BatchFollowsWorldSize) {
            mine.count.min(2)
        } else {
            mine.count
        };
        let fed = (mine.first..mine.first + count).map(|slot| {
            muster_plan::slot_positions(&range, spec.train.micro_batch, slot)
                .expect("a slot outside the step")
        });
        let fed: Vec<_> = fed.collect();
        let op = STEP + step.get();
        if let Some(it) = self.workers.get_mut(worker) {
            it.fed = fed;
        }
        self.enter(worker, op);
    }

    /// The control all-reduce has come: the update follows, outside the other ranks' sight.
    fn controlled(
        &mut self,
        worker: &WorkerId,
        evidence: u64,
        ranges: Vec<Range<u64>>,
        requests: super::worker::Requests,
        garbage: bool,
    ) {
        let it = self.workers.get_mut(worker).expect("it is there");
        it.requests.save &= !requests.save;
        let (generation, step, accept) = (
            it.form.as_ref().expect("a form").0,
            it.step(),
            it.form().accept_spike_after,
        );
        let start = ranges
            .iter()
            .map(|range| range.start)
            .min()
            .unwrap_or_default();
        let spike = content::is_spike(self.plan.seed, self.plan.spikes, step, start);
        if spike && !garbage && accept != Some(step) {
            self.coverage.count("spikes");
            let trip = Trip {
                step,
                not_finite: false,
                loss: 9.0,
                gradient_norm: 40.0,
                loss_score: 31.0,
                norm_score: 12.0,
                held: true,
            };
            if !self.workers[worker].is_over(generation) {
                self.says(worker, generation, WorkerMessage::Tripped(trip));
            }
            return self.rest(worker);
        }
        self.turn_to(worker, At::Updating);
        let update = if self.rng.percent(10) {
            self.rng.between(20, 400)
        } else {
            self.rng.between(1, 15)
        };
        self.thread_after(
            worker,
            update,
            Thread::Updated {
                evidence,
                ranges,
                requests,
                garbage,
            },
        );
    }

    fn updated(
        &mut self,
        worker: &WorkerId,
        evidence: u64,
        ranges: &[Range<u64>],
        requests: super::worker::Requests,
        garbage: bool,
    ) {
        let fenced = !self.is_sabotaged(Sabotage::NoFence);
        let it = self.workers.get_mut(worker).expect("it is there");
        let generation = it.form.as_ref().expect("a form").0;
        if fenced && it.is_over(generation) {
            return self.rest(worker);
        }
        let before = (it.holdings.unwrap_or(StateId::INITIAL), it.content);
        let state = StateId::new(generation, before.0.step.next());
        it.content = if garbage {
            content::garbage(it.content, state)
        } else {
            content::trained(it.content, state, evidence)
        };
        it.holdings = Some(state);
        let content: Content = it.content;
        if garbage {
            self.coverage.count("commits of garbage");
        } else {
            self.committed(worker, before, (state, content), ranges);
        }
        let metrics = StepMetrics {
            step: state.step,
            loss: 3.0,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens: ranges.iter().map(content::tokens).sum(),
            step_ms: self.plan.step_ms as f64,
            evidence,
            samples: ranges.iter().map(|range| range.end - range.start).sum(),
            slot_ms: 0.0,
        };
        self.says(
            worker,
            generation,
            WorkerMessage::Report {
                steps: vec![metrics],
            },
        );
        if self.save_is_due(worker, state.step) || requests.save {
            self.save(worker, state);
        }
        if requests.leave {
            return self.leave(worker);
        }
        if requests.reconfigure && state.step.get() < self.plan_of(worker).train.steps {
            self.says(worker, generation, WorkerMessage::AtBoundary { state });
            return self.rest(worker);
        }
        self.go_on(worker);
    }

    pub fn save_is_due(&self, worker: &WorkerId, step: Step) -> bool {
        let spec = self.plan_of(worker);
        step.get() == spec.train.steps || step.get().is_multiple_of(spec.checkpoint.every_steps)
    }

    pub fn save(&mut self, worker: &WorkerId, state: StateId) {
        let it = &self.workers[worker];
        let (generation, form) = it.form.clone().expect("a form");
        let is_last = state.step.get() == self.plan_of(worker).train.steps;
        let save = Save {
            state,
            content: self.workers[worker].content,
            rank: form.rank,
            world_size: form.members.len() as u32,
            generation,
            tries: if is_last { 5 } else { 1 },
        };
        self.hand_to_saver(worker, save);
    }

    /// This rank cannot go on in its generation. Whoever is ill itself ends.
    pub fn fails(&mut self, worker: &WorkerId, generation: Generation, class: &str, cause: &str) {
        let it = &self.workers[worker];
        let (over, step) = (it.is_over(generation), it.step());
        if !over {
            let failed = WorkerMessage::Failed {
                cause: cause.into(),
                class: class.into(),
                phase: "training".into(),
                step,
            };
            self.says(worker, generation, failed);
            if class != "collective" {
                return self.exit(worker, 1);
            }
        }
        self.rest(worker);
    }
}
