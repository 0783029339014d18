use muster_types::{Generation, StateId, Step, WorkerId};

use crate::{
    CommittedStep, Order, RecordKind, StepMetrics, WorkerMessage,
    formed::Damage,
    job::Phase,
    job_turn::JobTurn,
    ledger::MARK_EVERY_STEPS,
    liveness::{Blame, Origin},
    mutation::{Mutation, is_planted},
};

/// Classes of failure that lie with the worker itself: taking it along would bring the failure along.
const OWN_FAULT: [&str; 4] = ["memory", "data", DIVERGENCE, "state"];
/// It lies with what all train, and not with the place.
const DIVERGENCE: &str = "divergence";

impl JobTurn<'_> {
    /// A worker's control thread says something. Each message has an effect at most once, and one of a generation that is
    /// over has none.
    pub fn worker_says(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        message: WorkerMessage,
    ) {
        if self.job.state.is_over() || !self.job.serves(worker) {
            let reason = if self.job.state.is_over() {
                format!("the job is {}", self.job.state.as_str())
            } else {
                "this worker is out of the job".to_owned()
            };
            return self.tell(worker, Order::Expelled { reason });
        }
        if generation > self.job.generation {
            // No coordinator of this journal has opened that generation.
            let reason = format!("speaks of generation {generation}, which was never opened");
            return self.put_out_with(worker, reason, Blame::Job);
        }
        let view = self.view(worker);
        view.generation = view.generation.max(generation);
        let current = self.job.phase == Phase::Active
            && generation == self.job.generation
            && self.job.rank_of(worker).is_some();
        match message {
            WorkerMessage::Attach {
                pid,
                collective_address,
                holdings,
                warm,
                numerics_fingerprint,
                reach_address,
            } => {
                let view = self.view(worker);
                view.pid = Some(pid);
                view.address = collective_address.into();
                view.reach_address = reach_address.into();
                view.holdings = holdings;
                view.step = holdings.map(|state| state.step).or(view.step);
                self.attached(worker);
                if warm {
                    self.warm(worker, numerics_fingerprint);
                }
            }
            WorkerMessage::Warm {
                numerics_fingerprint,
                reach_address,
            } => {
                self.view(worker).reach_address = reach_address.into();
                self.warm(worker, numerics_fingerprint);
            }
            WorkerMessage::Fenced {
                superseded,
                holdings,
            } => self.fenced(worker, superseded, holdings),
            WorkerMessage::Ready {
                state_hash,
                heal_ms,
                healed_bytes,
                healed_from,
            } if current => {
                self.ready(worker, state_hash, heal_ms, healed_bytes, &healed_from);
            }
            WorkerMessage::Report { steps } => {
                for metrics in steps {
                    self.reported(worker, generation, metrics);
                }
            }
            WorkerMessage::Failed {
                cause,
                class,
                phase,
                ..
            } => self.failed(worker, generation, &cause, &class, &phase),
            WorkerMessage::AtBoundary { state } if current => {
                let view = self.view(worker);
                view.at_boundary = Some(generation);
                view.step = Some(state.step);
            }
            WorkerMessage::PartWritten(part) => self.part_written(worker, part),
            WorkerMessage::PartFailed { state, rank, cause } => {
                self.part_failed(worker, state, rank, &cause)
            }
            WorkerMessage::Unreadable {
                state,
                cause,
                corrupt,
                ..
            } if current => {
                let damage = if corrupt {
                    Damage::Corrupt
                } else {
                    Damage::OutOfReach
                };
                self.unreadable(worker, state, cause, damage);
            }
            WorkerMessage::Left { .. } => {
                let now = self.now.monotonic;
                self.volatile().left.entry(worker.clone()).or_insert(now);
            }
            WorkerMessage::Phase { phase, step } => {
                self.phase(worker, generation, phase, step);
            }
            WorkerMessage::Evaluated {
                step,
                validation_loss,
                tokens,
            } => {
                self.evaluated(generation, step, validation_loss, tokens);
            }
            WorkerMessage::ProbeAnswer(answer) => self.probed(worker, answer),
            WorkerMessage::Reached {
                number,
                unreachable,
            } => self.reached(worker, number, unreachable),
            WorkerMessage::Tripped(trip) if current => self.tripped(trip),
            WorkerMessage::Diverged { step, state_hash } if current => {
                self.diverged(worker, step, state_hash);
            }
            WorkerMessage::Ready { .. }
            | WorkerMessage::AtBoundary { .. }
            | WorkerMessage::Tripped(_)
            | WorkerMessage::Diverged { .. }
            | WorkerMessage::Unreadable { .. } => {}
        }
    }

    /// A new stream: whatever matters is told again on it.
    fn attached(&mut self, worker: &WorkerId) {
        let now = self.now.monotonic;
        let view = self.view(worker);
        let first = view.attached_at.is_none();
        view.attached_at.get_or_insert(now);
        view.connected = true;
        view.disconnected_at = None;
        view.told_supersede = None;
        view.told_form = None;
        view.told_leave = None;
        view.watch = None;
        let spec_json = match serde_json::to_string(&self.job.submission.spec) {
            Ok(spec_json) => spec_json,
            Err(error) => {
                return self.fail(format!("the run spec cannot be written as JSON: {error}"));
            }
        };
        let checkpoint_root = self.job.submission.checkpoint_root.clone();
        if first {
            let node = self
                .job
                .workers
                .get(worker)
                .map(|placement| placement.node.to_string())
                .unwrap_or_default();
            let reason = format!("worker {worker} on node {node} attached");
            let details = [("worker", worker.as_str().into()), ("node", node.into())];
            self.announce("worker_attach", self.standing(), reason, details);
        }
        self.tell(
            worker,
            Order::Welcome {
                spec_json,
                checkpoint_root,
            },
        );
    }

    fn warm(&mut self, worker: &WorkerId, numerics_fingerprint: String) {
        let view = self.view(worker);
        view.warm = true;
        view.fingerprint = numerics_fingerprint.as_str().into();
        if !numerics_fingerprint.is_empty() && self.volatile.fingerprint != numerics_fingerprint {
            self.volatile().fingerprint = numerics_fingerprint;
        }
    }

    fn fenced(&mut self, worker: &WorkerId, superseded: Generation, holdings: Option<StateId>) {
        let asked =
            matches!(&self.job.phase, Phase::Forming { candidates } if candidates.contains(worker));
        let already = self
            .view(worker)
            .fenced
            .is_some_and(|(fenced, _)| fenced >= superseded);
        if asked && Some(superseded) == self.superseded() && !already {
            let view = self.view(worker);
            view.fenced = Some((superseded, holdings));
            view.step = holdings.map(|state| state.step);
        }
    }

    fn ready(
        &mut self,
        worker: &WorkerId,
        hash: u64,
        heal_ms: u32,
        healed_bytes: u64,
        healed_from: &str,
    ) {
        let generation = self.job.generation;
        if self
            .view(worker)
            .ready
            .is_some_and(|(ready, _)| ready == generation)
        {
            return;
        }
        let now = self.now.monotonic;
        self.view(worker).ready = Some((generation, hash));
        self.volatile().round.moved(now);
        let resume = self
            .job
            .resume
            .as_ref()
            .map(|resume| resume.state)
            .unwrap_or(StateId::INITIAL);
        self.view(worker).step = Some(resume.step);
        if healed_from.is_empty() || healed_from == "none" {
            return;
        }
        let reason =
            format!("worker {worker} was brought to {resume} from {healed_from} in {heal_ms} ms");
        let details = [
            ("worker", worker.as_str().into()),
            ("rank", self.job.rank_of(worker).into()),
            ("ms", heal_ms.into()),
            ("bytes", healed_bytes.into()),
            ("from", healed_from.into()),
        ];
        self.announce(
            "heal",
            StateId::new(generation, resume.step),
            reason,
            details,
        );
    }

    /// A committed step: it counts if its state lies on the line, and the first report of it does.
    fn reported(&mut self, worker: &WorkerId, generation: Generation, metrics: StepMetrics) {
        let state = StateId::new(generation, metrics.step);
        let was_member = self
            .job
            .workers
            .get(worker)
            .is_some_and(|placement| placement.was_member);
        if !was_member
            || !(self.job.history.is_eligible(state) || is_planted(Mutation::StaleReport))
            || metrics.step > self.job.total_steps()
        {
            return;
        }
        let is_news = self.view(worker).step < Some(metrics.step);
        if is_news && generation == self.job.generation {
            self.note_own_work(worker, metrics);
        }
        let view = self.view(worker);
        view.step = view.step.max(Some(metrics.step));
        let newest_before = self.newest_step();
        if !self.volatile().ledger.insert(generation, metrics) {
            return;
        }
        self.decision.committed.push(CommittedStep {
            job: self.id,
            state,
            metrics,
        });
        if metrics.step <= newest_before {
            return;
        }
        if self.job.phase == Phase::Active && generation == self.job.generation {
            self.progressed(metrics.step);
        }
        let marked = self
            .job
            .marks
            .last_key_value()
            .map_or(Step(0), |(step, _)| *step);
        let now = self.now.monotonic;
        let marked_at = *self.volatile().ledger.marked_at.get_or_insert(now);
        if metrics.step.get() >= marked.get() + MARK_EVERY_STEPS
            || now.since(marked_at) >= self.options.watermark_interval
        {
            self.mark_at(state);
        }
    }

    /// A step of the newest generation: every member of it is alive.
    fn progressed(&mut self, step: Step) {
        let now = self.now.monotonic;
        let resume = self
            .job
            .resume
            .as_ref()
            .map_or(Step(0), |resume| resume.state.step);
        if step == resume.next() {
            let world_size = self.job.members.len();
            let reason = format!(
                "the first step of generation {} is committed",
                self.job.generation
            );
            let at = StateId::new(self.job.generation, step);
            self.announce(
                "first_step",
                at,
                reason,
                [("world_size", world_size.into())],
            );
        }
        if !self.volatile.round.ready {
            self.set_ready();
        }
        let volatile = self.volatile();
        // Between two steps there may have been an evaluation.
        if let Some(before) = volatile.round.committed_at
            && before == volatile.round.moved_at
        {
            volatile.pace.steps.push(now.since(before));
        }
        volatile.round.moved(now);
        volatile.round.committed_at = Some(now);
        if is_planted(Mutation::StrikesStay) {
            return;
        }
        volatile.strikes.count = 0;
        volatile.strikes.retry_at = None;
        if step > volatile.strikes.furthest {
            volatile.strikes.furthest = step;
            volatile.strikes.without_advance = 0;
            volatile.strikes.causes.clear();
            volatile.strikes.deadly = None;
            volatile.strikes.scene = None;
        }
    }

    /// A rank cannot go on. Its peers' deaths are no fault of its own; its own are.
    fn failed(
        &mut self,
        worker: &WorkerId,
        generation: Generation,
        cause: &str,
        class: &str,
        phase: &str,
    ) {
        let newest_formed = self.job.history.newest().map(|(formed, _)| formed);
        if newest_formed != Some(generation) || self.job.rank_of(worker).is_none() {
            return;
        }
        let excused = self.volatile.round.unreadable.contains(worker);
        let own_fault = OWN_FAULT.contains(&class) && !excused;
        let words = format!("failed in {phase} ({class}): {cause}");
        if own_fault {
            let blame = match class {
                DIVERGENCE => Blame::Job,
                _ => Blame::Place,
            };
            return self.put_out_with(worker, words, blame);
        }
        if self.job.phase != Phase::Active
            || excused
            || self.volatile.round.failures.contains_key(worker)
        {
            return;
        }
        self.volatile()
            .round
            .failures
            .insert(worker.clone(), words.clone());
        let origin = Origin::Generation(generation);
        // What a victim says is no evidence where the culprit is known.
        if self.is_news(origin) {
            self.strike(format!("worker {worker} {words}"), origin);
        }
    }

    fn phase(&mut self, worker: &WorkerId, generation: Generation, phase: String, step: Step) {
        let view = self.view(worker);
        let is_news = view.phase_in < generation || *view.phase != phase;
        if view.phase_in > generation || !is_news {
            return;
        }
        let now = self.now.monotonic;
        let evaluated = &*self.view(worker).phase == "evaluating";
        let volatile = self.volatile();
        if evaluated {
            let took = now.since(volatile.round.moved_at);
            volatile.pace.evaluations.push(took);
        }
        volatile.round.moved(now);
        let view = self.view(worker);
        view.phase = phase.into();
        view.phase_in = generation;
        view.step = view.step.max((step > Step(0)).then_some(step));
    }

    fn evaluated(&mut self, generation: Generation, step: Step, validation_loss: f64, tokens: u64) {
        let Some((newest, resume)) = self.job.history.newest() else {
            return;
        };
        // The state that a generation resumed at has an older generation's name.
        let state = if generation == newest && step == resume.step {
            resume
        } else {
            StateId::new(generation, step)
        };
        if !self.job.history.is_eligible(state) || self.job.evaluations.contains_key(&step) {
            return;
        }
        let validation_loss = Some(validation_loss).filter(|loss| loss.is_finite());
        self.record(RecordKind::Evaluated {
            job: self.id,
            state,
            validation_loss,
            tokens,
        });
    }
}
