use muster_arch::ModelConfig;
use muster_ops::{Interrupt, OpsError};
use tch::{TchError, Tensor};

use crate::{Parameters, loss::cross_entropy_sum};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Training: dropout, if any, is drawn from this seed alone.
    Train {
        /// Derived from (seed, step, slot of the batch), so that a step tried again draws the same.
        dropout_seed: u64,
    },
    /// Evaluation and generation: no dropout.
    Evaluate,
}

/// A language model. Errors are libtorch's: shapes that do not fit, memory that ran out.
pub trait Model: Send {
    /// What the model is made of.
    fn config(&self) -> &ModelConfig;

    /// Its parameters, in the order of `muster_arch`'s table.
    fn parameters(&self) -> &Parameters;

    /// Has passes given up at gates within them when this says so. A model that was just made never is.
    fn interrupt_when(&mut self, interrupt: Interrupt);

    /// What passes are given up for.
    fn interrupt(&self) -> &Interrupt;

    /// The residual stream after the last block and norm. `tokens`: \[B, T\] int64, T at most the context length. Returns
    /// \[B, T, C\].
    ///
    /// # Errors
    /// See [`Model`].
    fn features(&self, tokens: &Tensor, pass: Pass) -> Result<Tensor, TchError>;

    /// The output head. `features`: \[…, C\]. Returns logits \[…, V\].
    ///
    /// # Errors
    /// See [`Model`].
    fn head(&self, features: &Tensor) -> Result<Tensor, TchError>;

    /// What a pooler makes of the features \[B, T, C\], \[B, C\]; `None` for a model without one.
    ///
    /// # Errors
    /// See [`Model`].
    fn pooled(&self, _features: &Tensor) -> Result<Option<Tensor>, TchError> {
        Ok(None)
    }

    /// Logits at each place: of the next token, or where the model sees all places, of the token there. `tokens`: \[B, T\] int64. Returns \[B, T, V\].
    ///
    /// # Errors
    /// See [`Model`].
    fn forward(&self, tokens: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        self.head(&self.features(tokens, pass)?)
    }

    /// Cross-entropy in nats, summed over tokens in fp32. `tokens` and `targets`: \[B, T\] int64. Returns a scalar.
    ///
    /// # Errors
    /// See [`Model`].
    fn loss_sum(&self, tokens: &Tensor, targets: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let logits = self.forward(tokens, pass)?;
        gate(self.interrupt(), &logits)?;
        cross_entropy_sum(&logits, targets)
    }

    /// As [`loss_sum`](Self::loss_sum), of some places only; the output head is asked for no others. `places`: \[M\] int64, indices
    /// into the B · T places of the micro-batch, row by row; `targets`: \[M\] int64.
    ///
    /// # Errors
    /// See [`Model`].
    fn loss_sum_at(
        &self,
        tokens: &Tensor,
        places: &Tensor,
        targets: &Tensor,
        pass: Pass,
    ) -> Result<Tensor, TchError> {
        let features = self.features(tokens, pass)?; // [B, T, C]
        let chosen = features.f_flatten(0, 1)?.f_index_select(0, places)?; // [M, C]
        let logits = self.head(&chosen)?; // [M, V]
        gate(self.interrupt(), &logits)?;
        cross_entropy_sum(&logits, targets)
    }
}

/// A place where a pass may be given up: after `x` forward, and before it backward.
pub(crate) fn gate(interrupt: &Interrupt, x: &Tensor) -> Result<(), TchError> {
    as_torch(interrupt.gate(x))
}

/// The same at a model's first activations.
pub(crate) fn first_gate(interrupt: &Interrupt, x: &Tensor) -> Result<(), TchError> {
    as_torch(interrupt.first_gate(x))
}

fn as_torch(shut: Result<(), OpsError>) -> Result<(), TchError> {
    shut.map_err(|error| TchError::Torch(error.to_string()))
}
