//! One generation, as one of its members lives through it.

use std::{sync::Arc, time::Instant};

use muster_c10d::{Abort, Group, GroupOptions, Op, Reducer, StoreBackend};
use muster_ops::Interrupt;
use muster_plan::{positions, slot_positions};
use muster_proto::v1::{self, Activity, worker_message::Kind};
use muster_spec::{self as spec, OnSpike, RunSpec};
use muster_store::Location;
use muster_train::{
    CanonicalSum, Origin, Reduction, Scores, SlotOrder, Snapshot, Trainer, Verdict,
};
use muster_types::{Generation, Rank, StateId, Step};
use tch::{Device, Tensor};
use tokio::runtime::Handle;
use tracing::{debug, info};

use crate::{
    agreement::{Agreement, LENGTH, Requests},
    control::to_proto,
    error::GenerationError,
    feed::Feed,
    heal::{Source, gather, heal, majority},
    membership::Membership,
    pulse::PassEnd,
    saver::{Save, Saver},
    shared::Shared,
};

/// How often the last checkpoint of a run is tried.
const FINAL_SAVE_TRIES: u32 = 5;

/// How a generation ended for this rank.
#[derive(Debug, PartialEq, Eq)]
pub enum Departure {
    /// All left together at this step, to change the membership.
    Boundary(StateId),
    /// All left the job together at this step.
    Job(StateId),
    /// Every step of the run is committed.
    Complete(StateId),
    /// The step after this state looks wrong to all of them, and was not applied.
    Tripped(StateId),
}

/// What became of a step.
enum Stepped {
    /// It is committed; the ranks ask for this.
    Committed(Requests),
    /// It looks wrong, and was not applied.
    Held,
}

/// What a rank works with in every generation.
pub struct Workbench<'a> {
    /// The resolved run spec.
    pub spec: &'a RunSpec,
    /// Model, optimizer and their state.
    pub trainer: &'a mut Trainer,
    /// The samples.
    pub feed: &'a Feed,
    /// The fence, and the way to the coordinator.
    pub shared: &'a Arc<Shared>,
    /// Writes checkpoint parts.
    pub saver: &'a Saver,
    /// Below it lie this job's checkpoints.
    pub checkpoints: &'a Location,
    /// For what is asynchronous.
    pub runtime: &'a Handle,
}

/// A formed generation with its collectives.
pub struct Member<'a> {
    bench: Workbench<'a>,
    membership: Membership,
    group: Option<&'a Group>,
    reducer: Option<Reducer>,
    /// Where gradients are summed along one tree instead.
    canonical: Option<CanonicalSum>,
}

impl<'a> Member<'a> {
    /// Heals this rank to the state that the generation starts from and says `Ready`.
    /// `group` is absent where the generation has one member. It is not dropped here: that would end the peers' collectives.
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn join(
        bench: Workbench<'a>,
        membership: Membership,
        group: Option<&'a Group>,
    ) -> Result<Self, GenerationError> {
        let shared = bench.shared.clone();
        let Membership {
            generation,
            rank,
            resume,
            ..
        } = membership;
        let here = bench.feed.dataset_digest();
        if let Some(other) = membership
            .segments
            .iter()
            .find(|segment| segment.dataset_digest != here)
        {
            return Err(GenerationError::OtherDataset {
                here,
                wanted: other.dataset_digest,
            });
        }
        // Nobody waits for a pass once its generation is over.
        let watched = Arc::clone(&shared);
        let is_over = move |gate| {
            watched.pulse.at_gate(gate);
            watched.fence.is_over(generation)
        };
        bench.trainer.interrupt_when(Interrupt::when(is_over));
        shared.say(generation, phase("healing", resume.step));
        let healed = heal(bench.trainer, &shared, group, &membership, bench.runtime)?;
        info!(%generation, %rank, state = %resume, from = healed.from, ms = healed.elapsed_ms, "ready");
        bench.trainer.drop_step()?;
        let (reducer, canonical) = match (bench.spec.train.reduction, group) {
            (spec::Reduction::Fast, None) => (None, None),
            (spec::Reduction::Fast, Some(group)) => (Some(bench.trainer.reducer(group)?), None),
            (spec::Reduction::Canonical, _) => {
                let (dealt, rank) = (&membership.dealt, rank.get() as usize);
                let sum = CanonicalSum::new(&bench.trainer.parameters(), dealt, rank);
                (None, Some(sum))
            }
        };
        shared.say(
            generation,
            Kind::Ready(v1::Ready {
                state_hash: healed.state_hash,
                heal_ms: healed.elapsed_ms,
                healed_bytes: healed.bytes,
                healed_from: healed.from.into(),
            }),
        );
        Ok(Self {
            bench,
            membership,
            group,
            reducer,
            canonical,
        })
    }

    /// Trains until the ranks leave together.
    ///
    /// # Errors
    /// See [`GenerationError`]; the step in flight is dropped, and what was committed before it stays.
    pub fn train(mut self) -> Result<Departure, GenerationError> {
        let generation = self.membership.generation;
        let total = Step(self.bench.spec.train.steps);
        let mut state = self.membership.resume;
        // A save or evaluation that a lost peer cut off is taken again. What decides it is known to all ranks alike.
        let restored = matches!(self.membership.source, Source::Checkpoint(_));
        if state.step > Step(0) && !restored {
            if self.evaluation_is_due(state.step) {
                self.evaluate(state.step)?;
            }
            if self.save_is_due(state.step) {
                self.save(state);
            }
        }
        self.bench
            .shared
            .say(generation, phase("training", state.step));
        while state.step < total {
            let requests = match self.step(state.step)? {
                Stepped::Committed(requests) => requests,
                Stepped::Held => return Ok(Departure::Tripped(state)),
            };
            state = StateId::new(generation, state.step.next());
            self.compare(state)?;
            if self.evaluation_is_due(state.step) {
                self.evaluate(state.step)?;
            }
            if self.save_is_due(state.step) || requests.contains(Requests::SAVE) {
                self.save(state);
            }
            if requests.contains(Requests::LEAVE) {
                return Ok(Departure::Job(state));
            }
            if requests.contains(Requests::RECONFIGURE) && state.step < total {
                return Ok(Departure::Boundary(state));
            }
        }
        Ok(Departure::Complete(state))
    }

    /// Trains and commits the step after `step`.
    fn step(&mut self, step: Step) -> Result<Stepped, GenerationError> {
        let start = Instant::now();
        let Membership {
            generation, slots, ..
        } = self.membership;
        let bench = &mut self.bench;
        let (_, range) = positions(&self.membership.segments, step)?;
        let reduction = match (self.group, &self.reducer) {
            (Some(group), Some(reducer)) => Some(Reduction { group, reducer }),
            _ => None,
        };
        let mut mine = Agreement::default();
        // What was evaluated since the last step is none of this one's.
        bench.shared.pulse.take_own_work();
        bench.trainer.begin_step()?;
        if let Some(sum) = &mut self.canonical {
            sum.begin();
        }
        let last = slots.first + slots.count - 1;
        for slot in slots.first..=last {
            if bench.shared.fence.is_over(generation) {
                return Err(GenerationError::over(generation));
            }
            let pulse = &bench.shared.pulse;
            pulse.enter(Activity::Reading);
            let places = slot_positions(&range, bench.spec.train.micro_batch, slot)?;
            let origin = Origin::Training(places.start);
            let samples = bench.feed.training_slot(places)?;
            let batch = bench.trainer.objective_batch(&samples.ids, origin)?;
            let order = if slot == last {
                SlotOrder::Last
            } else {
                SlotOrder::More
            };
            pulse.enter_pass(match (order, reduction) {
                (SlotOrder::Last, Some(_)) => PassEnd::Reduced,
                _ => PassEnd::Own,
            });
            mine.loss += bench
                .trainer
                .forward_backward(&batch, step, slot, order, reduction)?;
            if let Some(sum) = &mut self.canonical {
                bench.trainer.add_to(sum, step, slot)?;
                // Each slot's gradient is a leaf of its own.
                bench.trainer.begin_step()?;
            }
            mine.evidence = muster_plan::combine(mine.evidence, samples.evidence);
            mine.samples += samples.samples;
        }
        bench.shared.pulse.enter(Activity::Reducing);
        if let Some(sum) = &mut self.canonical {
            bench.trainer.take_sum(sum, step, self.group)?;
            bench.shared.pulse.beat();
        }
        let asked = bench.shared.requests();
        let all = control(self.group, mine.asking(asked))?;
        bench.shared.pulse.enter(Activity::Computing);
        // A save that was asked for meanwhile is for the next step to agree on.
        bench.shared.settle(asked.and(Requests::SAVE));
        // Outside the fence, because on a GPU it waits for the reduction. All ranks see the same norm.
        let verdict = bench.trainer.judge(all.loss.mean(), all.loss.tokens)?;
        let Some(loss) = self.go_on(step, &all, verdict)? else {
            return Ok(Stepped::Held);
        };
        let bench = &mut self.bench;
        let trainer = &mut *bench.trainer;
        let shared = bench.shared;
        let context_length = u64::from(bench.spec.model.context_length);
        shared.fence.commit(generation, step.next(), || {
            let update = trainer.apply(step, all.loss.tokens, loss)?;
            let step_ms = start.elapsed().as_secs_f64() * 1e3;
            let own_work = shared.pulse.take_own_work();
            // A GPU works on while this thread waits for it and for others alike.
            let slot_ms = match trainer.device() {
                Device::Cpu => own_work.as_secs_f64() * 1e3 / f64::from(slots.count),
                _ => 0.0,
            };
            debug!(step = step.next().get(), loss, step_ms, "committed");
            // Said under the fence, so that whoever raises it finds the report of what this rank then states to hold.
            let metrics = v1::StepMetrics {
                step: step.next().get(),
                loss,
                learning_rate: update.learning_rate,
                gradient_norm: update.gradient_norm,
                // Tokens read, whichever of them are predicted.
                tokens: all.samples * context_length,
                step_ms,
                evidence: all.evidence,
                samples: all.samples,
                slot_ms,
            };
            let steps = vec![metrics];
            shared.say(generation, Kind::Report(v1::Report { steps }));
            Ok::<_, muster_train::StepError>(())
        })??;
        Ok(Stepped::Committed(all.requests()))
    }

    /// Whether a step is applied, and with which mean loss; says so where it looks wrong. All ranks decide alike.
    fn go_on(
        &mut self,
        step: Step,
        all: &Agreement,
        verdict: Verdict,
    ) -> Result<Option<f64>, GenerationError> {
        let Membership {
            generation, rank, ..
        } = self.membership;
        let loss = all.loss.mean();
        let (scores, held) = match verdict {
            Verdict::Fine => return Ok(loss),
            Verdict::NotFinite => (Scores::default(), true),
            Verdict::Spike(scores) => {
                let is_accepted = self.membership.accept_spike_after == Some(step);
                let ignores = self.bench.spec.guard.on_spike == OnSpike::Ignore;
                (scores, !is_accepted && !ignores)
            }
        };
        let tripped = v1::Tripped {
            step: step.get(),
            not_finite: verdict == Verdict::NotFinite,
            loss: loss.unwrap_or(f64::NAN),
            gradient_norm: self.bench.trainer.gradient_norm()? / all.loss.tokens as f64,
            loss_score: scores.loss,
            norm_score: scores.gradient_norm,
            held,
        };
        if held || rank == Rank(0) {
            let shared = self.bench.shared;
            shared.say(generation, Kind::Tripped(tripped));
        }
        Ok(loss.filter(|_| !held))
    }

    /// Every so many steps, compares what the ranks hold.
    fn compare(&mut self, state: StateId) -> Result<(), GenerationError> {
        let every = self.bench.spec.guard.compare_every_steps;
        let Some(group) = self.group else {
            return Ok(());
        };
        if every == 0 || !state.step.get().is_multiple_of(every) {
            return Ok(());
        }
        let mine = self.bench.trainer.state_hash()?;
        self.bench.shared.pulse.enter(Activity::Reducing);
        let hashes = gather(group, mine)?;
        if hashes.iter().all(|hash| *hash == mine) {
            return Ok(());
        }
        // Whoever is not of the majority holds no state of the line.
        if majority(&hashes) != Some(mine) {
            self.bench
                .shared
                .fence
                .invalidate(self.membership.generation)?;
        }
        let step = state.step;
        Err(GenerationError::Diverged { step, mine, hashes })
    }

    fn evaluation_is_due(&self, step: Step) -> bool {
        let evaluation = &self.bench.spec.evaluation;
        evaluation.every_steps > 0
            && (step.get().is_multiple_of(evaluation.every_steps)
                || step.get() == self.bench.spec.train.steps)
            && self.bench.feed.held_out_samples(evaluation.sequences) > 0
    }

    /// The mean held-out loss. Its slots are dealt round robin, and its sum is exact whatever the world size.
    fn evaluate(&mut self, step: Step) -> Result<(), GenerationError> {
        let Membership {
            generation,
            rank,
            world_size,
            ..
        } = self.membership;
        let bench = &mut self.bench;
        bench.shared.say(generation, phase("evaluating", step));
        let samples = bench.feed.held_out_samples(bench.spec.evaluation.sequences);
        let rows = u64::from(bench.spec.train.micro_batch);
        let mut mine = Agreement::default();
        for slot in
            (u64::from(rank.get())..samples.div_ceil(rows)).step_by(world_size.get() as usize)
        {
            if bench.shared.fence.is_over(generation) {
                return Err(GenerationError::over(generation));
            }
            bench.shared.pulse.enter(Activity::Reading);
            let ids = bench
                .feed
                .held_out(slot * rows..samples.min((slot + 1) * rows))?;
            bench.shared.pulse.enter_pass(PassEnd::Own);
            let origin = Origin::HeldOut(slot * rows);
            let batch = bench.trainer.objective_batch(&ids, origin)?;
            mine.loss += bench.trainer.evaluate_slot(&batch)?;
        }
        bench.shared.pulse.enter(Activity::Reducing);
        let all = control(self.group, mine)?;
        // A held-out loss that is no number harms nothing: it is shown as what it is.
        let validation_loss = all.loss.mean().unwrap_or(f64::NAN);
        if rank == Rank(0) {
            info!(%step, validation_loss, "evaluated");
            let evaluated = v1::Evaluated {
                step: step.get(),
                validation_loss,
                tokens: all.loss.tokens,
            };
            bench.shared.say(generation, Kind::Evaluated(evaluated));
        }
        bench.shared.say(generation, phase("training", step));
        Ok(())
    }

    fn save_is_due(&self, step: Step) -> bool {
        let every = self.bench.spec.checkpoint.every_steps;
        step.get() == self.bench.spec.train.steps || (every > 0 && step.get().is_multiple_of(every))
    }

    /// Copies this rank's part and hands it to the saver. A copy that fails is reported and costs nothing else.
    fn save(&mut self, state: StateId) {
        let Membership {
            generation,
            rank,
            world_size,
            ..
        } = self.membership;
        self.bench.shared.pulse.enter(Activity::Saving);
        match Snapshot::take(self.bench.trainer, rank, world_size) {
            Ok(snapshot) => {
                let location = self
                    .bench
                    .checkpoints
                    .join(&muster_checkpoint::directory_name(state));
                let directory = location.directory().to_path_buf();
                // The run waits for its last checkpoint; for any other the next one is soon there.
                let tries = if state.step.get() == self.bench.spec.train.steps {
                    FINAL_SAVE_TRIES
                } else {
                    1
                };
                self.bench.saver.save(Save {
                    snapshot,
                    directory,
                    state,
                    rank,
                    world_size,
                    generation,
                    tries,
                });
            }
            Err(error) => {
                let failed = v1::PartFailed {
                    state: Some(to_proto(state)),
                    rank: rank.get(),
                    cause: error.to_string(),
                };
                self.bench.shared.say(generation, Kind::PartFailed(failed));
            }
        }
    }
}

/// A step's last collective: all ranks leave it with the same sums, and so decide alike.
fn control(group: Option<&Group>, mine: Agreement) -> Result<Agreement, GenerationError> {
    let Some(group) = group else { return Ok(mine) };
    let vector = Tensor::f_from_slice(&mine.to_vector())?.f_to_device(group.device())?;
    group.all_reduce(&vector, Op::Sum)?;
    // On a GPU this read waits for the collective; only then can its communicator say whether it went well.
    let mut sums = [0; LENGTH];
    vector
        .f_to_device(Device::Cpu)?
        .f_copy_data(&mut sums, LENGTH)?;
    group.check()?;
    Ok(Agreement::from_vector(sums))
}

/// Says what this rank is doing.
pub fn phase(phase: &str, step: Step) -> Kind {
    Kind::Phase(v1::PhaseChange {
        phase: phase.into(),
        step: step.get(),
    })
}

/// Builds the collectives of a generation; `None` where it has one member. The abort handle is with the control thread
/// from the first moment on, so that an unfinished construction can be ended too.
///
/// # Errors
/// See [`muster_c10d::GroupError`].
pub fn form_group(
    shared: &Shared,
    generation: Generation,
    store: Arc<dyn StoreBackend>,
    options: &GroupOptions,
) -> Result<Option<Group>, GenerationError> {
    if options.world_size == 1 {
        return Ok(None);
    }
    let abort = Abort::new();
    shared.pulse.enter(Activity::Building);
    shared.use_group(Some(abort.clone()));
    // A newer generation may have been formed before the handle was in place.
    if shared.fence.is_over(generation) {
        return Err(GenerationError::over(generation));
    }
    Ok(Some(Group::form(store, options, &abort)?))
}
