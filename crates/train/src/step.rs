use muster_c10d::{Group, Reducer};
use muster_model::{Pass, counter};
use muster_spec::Dtype;
use muster_types::Step;
use tch::{Kind, Tensor, no_grad};

use crate::{
    Batch, CanonicalSum, SlotLoss, StepError, Trainer, Verdict, batch::Content, learning_rate,
};

/// Sets dropout apart from the other uses of a run's seed.
const DROPOUT: u64 = 0x6472_6f70;

/// Kept from a division by zero, as PyTorch's `clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

/// Where a slot stands among those that its rank trains in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOrder {
    /// Others of the rank follow.
    More,
    /// It is the rank's last: its backward pass completes the gradients, and so reduces them.
    Last,
}

/// How gradients are summed over the ranks of a generation.
#[derive(Clone, Copy)]
pub struct Reduction<'a> {
    /// The generation's group.
    pub group: &'a Group,
    /// Its reducer, made by [`Trainer::reducer`].
    pub reducer: &'a Reducer,
}

/// What an applied step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// L2 norm of the mean gradient, before clipping.
    pub gradient_norm: f64,
    /// The learning rate it was made with.
    pub learning_rate: f64,
}

impl Trainer {
    /// Makes gradients zero, in place where they exist.
    ///
    /// # Errors
    /// libtorch's.
    pub fn begin_step(&mut self) -> Result<(), StepError> {
        self.summed_norm = None;
        Ok(muster_ops::zero_(&self.defined_gradients()?)?)
    }

    /// Adds one slot's gradient, summed over its tokens. `step` is 0-based; `slot` is the micro-batch's index in the
    /// global batch, whichever rank trains it. With more than one rank, `reduction` is given for every slot; the last
    /// one's backward pass sums the rank's gradients with the others' while it still runs.
    ///
    /// # Errors
    /// After any, [`drop_step`](Self::drop_step).
    pub fn forward_backward(
        &mut self,
        batch: &Batch,
        step: Step,
        slot: u32,
        order: SlotOrder,
        reduction: Option<Reduction<'_>>,
    ) -> Result<SlotLoss, StepError> {
        self.summed_norm = None;
        let dropout_seed =
            counter::key(&[DROPOUT, self.spec().train.seed, step.get(), u64::from(slot)]);
        if let Some(Reduction { reducer, .. }) = reduction {
            reducer.prepare_forward()?;
        }
        let loss = self.loss_sum(batch, Pass::Train { dropout_seed })?;
        let reducing = reduction.filter(|_| order == SlotOrder::Last);
        if let Some(Reduction { reducer, .. }) = reducing {
            reducer.prepare_backward(&[&loss])?;
        }
        loss.f_backward().map_err(|source| match reducing {
            Some(Reduction { group, .. }) => {
                StepError::Collective(group.explain("backward", &source.to_string()))
            }
            None => StepError::torch("backward")(source),
        })?;
        measure(&loss, batch)
    }

    /// Adds the gradient of one slot, which is all that the parameters hold, to a canonical sum.
    ///
    /// # Errors
    /// After any, [`drop_step`](Self::drop_step).
    pub fn add_to(&self, sum: &mut CanonicalSum, step: Step, slot: u32) -> Result<(), StepError> {
        sum.add(slot, &self.all_gradients(step)?)
    }

    /// Puts the sum over all ranks' slots in place of the gradient.
    ///
    /// # Errors
    /// After any, [`drop_step`](Self::drop_step).
    pub fn take_sum(
        &mut self,
        sum: &mut CanonicalSum,
        step: Step,
        group: Option<&Group>,
    ) -> Result<(), StepError> {
        self.summed_norm = None;
        sum.finish(group, &self.all_gradients(step)?)
    }

    /// L2 norm of the gradient as summed over the global batch's tokens. All ranks that have reduced get the same value.
    /// Not finite if any element is not; then the step must not be applied.
    ///
    /// # Errors
    /// libtorch's; on a GPU also those of the step's earlier kernels.
    pub fn gradient_norm(&mut self) -> Result<f64, StepError> {
        if let Some(norm) = self.summed_norm {
            return Ok(norm);
        }
        let norm = muster_ops::global_norm(&self.defined_gradients()?)?
            .f_double_value(&[])
            .map_err(StepError::torch("gradient norm"))?;
        self.summed_norm = Some(norm);
        Ok(norm)
    }

    /// Makes the update: the gradient becomes a mean over `total_tokens`, the tokens of the global batch, is clipped to
    /// the configured norm, and AdamW is run at the schedule's rate for `step` (0-based). `loss`, the mean over the global
    /// batch, is what later steps are judged by.
    ///
    /// # Errors
    /// After [`StepError::StateInvalid`] the state must be healed; after any other it is as before the step.
    pub fn apply(&mut self, step: Step, total_tokens: u64, loss: f64) -> Result<Update, StepError> {
        if total_tokens == 0 {
            return Err(StepError::NoTokens { step });
        }
        let norm = self.gradient_norm()?;
        if !norm.is_finite() {
            return Err(StepError::NotFinite { step, norm });
        }
        let gradients = self.all_gradients(step)?;
        let parameters = self.parameters();
        let gradient_norm = norm / total_tokens as f64;
        let clip = match self.spec().optimizer.clip_norm {
            0.0 => 1.0,
            limit => (limit / (gradient_norm + CLIP_EPSILON)).min(1.0),
        };
        // One pass over the gradients for both factors.
        muster_ops::scale_(&gradients, clip / total_tokens as f64)?;
        let spec = self.spec();
        let rate = learning_rate(
            &spec.schedule,
            spec.optimizer.learning_rate,
            spec.train.steps,
            step,
        );
        self.summed_norm = None;
        let invalid = |cause: String| StepError::StateInvalid { step, cause };
        self.optimizer
            .update(&parameters, &gradients, rate)
            .map_err(|error| invalid(error.to_string()))?;
        self.guard
            .note(loss, gradient_norm)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Update {
            gradient_norm,
            learning_rate: rate,
        })
    }

    /// Judges the step in flight by those before it; `loss` is the mean over the global batch, absent where it is not
    /// finite, and `total_tokens` the tokens of the global batch. Where all ranks have reduced, all come to the same verdict.
    ///
    /// # Errors
    /// libtorch's.
    pub fn judge(&mut self, loss: Option<f64>, total_tokens: u64) -> Result<Verdict, StepError> {
        let norm = self.gradient_norm()? / total_tokens as f64;
        let threshold = self.spec().guard.threshold;
        self.guard
            .judge(loss, norm, threshold)
            .map_err(StepError::torch("guard"))
    }

    /// Forgets the step in flight: gradients become undefined, so that a new reducer can be made. The state is untouched, or
    /// was written to by a heal.
    ///
    /// # Errors
    /// libtorch's.
    pub fn drop_step(&mut self) -> Result<(), StepError> {
        self.summed_norm = None;
        self.guard.forget();
        Ok(muster_ops::clear_grads(&self.parameters())?)
    }

    /// A reducer over the group for this trainer's parameters; drops any step in flight.
    ///
    /// # Errors
    /// [`StepError::Collective`], or libtorch's.
    pub fn reducer(&mut self, group: &Group) -> Result<Reducer, StepError> {
        self.drop_step()?;
        Ok(Reducer::new(group, &self.parameters(), Default::default())?)
    }

    /// The loss of held-out sequences, without dropout or gradients.
    ///
    /// # Errors
    /// libtorch's.
    pub fn evaluate_slot(&self, batch: &Batch) -> Result<SlotLoss, StepError> {
        no_grad(|| measure(&self.loss_sum(batch, Pass::Evaluate)?, batch))
    }

    /// Cross-entropy summed over the batch's tokens, in the run's precision.
    fn loss_sum(&self, batch: &Batch, pass: Pass) -> Result<Tensor, StepError> {
        let forward = || match batch.content() {
            Content::Next { inputs, targets } => self.model().loss_sum(inputs, targets, pass),
            Content::Hidden {
                inputs,
                places,
                targets,
            } => self.model().loss_sum_at(inputs, places, targets, pass),
        };
        match self.spec().train.dtype {
            Dtype::Fp32 => forward(),
            Dtype::Bf16 => muster_ops::autocast(self.device(), Kind::BFloat16, forward)?,
        }
        .map_err(StepError::torch("forward"))
    }

    /// Every parameter's gradient.
    fn all_gradients(&self, step: Step) -> Result<Vec<Tensor>, StepError> {
        let gradients = self.defined_gradients()?;
        match gradients.len() == self.model().parameters().tensors().len() {
            true => Ok(gradients),
            false => Err(StepError::NoGradients { step }),
        }
    }

    /// The gradients that exist, in the order of their parameters.
    fn defined_gradients(&self) -> Result<Vec<Tensor>, StepError> {
        let mut gradients = Vec::with_capacity(self.model().parameters().tensors().len());
        for parameter in self.model().parameters().tensors() {
            let gradient = parameter
                .tensor
                .f_grad()
                .map_err(StepError::torch("reading gradients"))?;
            if gradient.defined() {
                gradients.push(gradient);
            }
        }
        Ok(gradients)
    }
}

/// Reads a loss, which on a GPU waits for the pass that made it.
fn measure(loss: &Tensor, batch: &Batch) -> Result<SlotLoss, StepError> {
    let nats = loss
        .f_double_value(&[])
        .map_err(StepError::torch("reading the loss"))?;
    Ok(SlotLoss::of(nats, batch.target_tokens()))
}
