use muster_model::{BuildError, Model, NamedTensor};
use muster_ops::{Interrupt, OpsError};
use muster_spec::RunSpec;
use muster_types::Seed;
use tch::{Device, TchError, Tensor};

use crate::{
    Batch, BatchError, Masking, Origin, guard::Guard, optimizer::Optimizer, state_hash::state_hash,
};

/// Why a trainer could not be made or put back to its initial state.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// libtorch refused.
    #[error("libtorch could not make the training state: {0}")]
    Torch(#[from] TchError),
    /// A fused operator refused.
    #[error(transparent)]
    Ops(#[from] OpsError),
}

/// One rank's replica of the training state (parameters, moments, count of updates) and what changes it.
pub struct Trainer {
    spec: RunSpec,
    device: Device,
    model: Box<dyn Model>,
    pub(crate) optimizer: Optimizer,
    pub(crate) guard: Guard,
    /// How tokens are hidden, where the model learns to name them.
    masking: Option<Masking>,
    /// The norm of the gradients as they are, once asked for.
    pub(crate) summed_norm: Option<f64>,
}

impl Trainer {
    /// The initial state that the spec's seed names, on `device`. `spec.model.vocab_size` is known by now.
    ///
    /// # Errors
    /// See [`TrainError`].
    pub fn new(spec: &RunSpec, device: Device) -> Result<Self, TrainError> {
        let model = muster_model::build(&spec.model, device, Seed(spec.train.seed))?;
        let optimizer = Optimizer::new(model.parameters(), &spec.optimizer)?;
        Ok(Self {
            spec: spec.clone(),
            device,
            model,
            optimizer,
            guard: Guard::new(device)?,
            masking: None,
            summed_norm: None,
        })
    }

    /// Puts the state back to the initial one, in place, and drops any step in flight.
    ///
    /// # Errors
    /// See [`TrainError`]; the state is then neither the old nor the initial one.
    pub fn initialise(&mut self) -> Result<(), TrainError> {
        self.summed_norm = None;
        muster_ops::clear_grads(&self.parameters())?;
        self.model
            .parameters()
            .initialise(Seed(self.spec.train.seed))?;
        self.guard.reset()?;
        Ok(self.optimizer.reset()?)
    }

    /// The whole state in its fixed order: `model.<parameter>` for each parameter, `optimizer.exp_avg.<parameter>`,
    /// `optimizer.exp_avg_sq.<parameter>`, `optimizer.step`, `guard.window`. The tensors are detached handles on the live
    /// storage: what is written to them (a heal's broadcast) is written to the state.
    ///
    /// # Errors
    /// libtorch's.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>, TchError> {
        let mut all = model_tensors(&*self.model)?;
        all.extend(self.optimizer.tensors(self.model.parameters()));
        all.push(self.guard.tensor());
        Ok(all)
    }

    /// A hash of the whole state: xxh3-64 over names, element types, shapes and bytes, in the order of
    /// [`tensors`](Self::tensors). Equal states have equal hashes on every device.
    ///
    /// # Errors
    /// libtorch's.
    pub fn state_hash(&self) -> Result<u64, TchError> {
        state_hash(&self.tensors()?)
    }

    /// Has passes given up in the middle when this says so; the step is then to be dropped.
    pub fn interrupt_when(&mut self, interrupt: Interrupt) {
        self.model.interrupt_when(interrupt);
    }

    /// Token ids as a micro-batch for this model: whole sequences of `context_length + 1`.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn batch(&self, ids: &[i64]) -> Result<Batch, BatchError> {
        let model = &self.spec.model;
        Batch::new(ids, model.context_length, model.vocab_size, self.device)
    }

    /// Has the micro-batches of [`objective_batch`](Self::objective_batch) ask for hidden tokens.
    pub fn mask_with(&mut self, masking: Masking) {
        self.masking = Some(masking);
    }

    /// As [`batch`](Self::batch), of sequences that come from `origin`: with tokens hidden where the trainer was told how.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn objective_batch(&self, ids: &[i64], origin: Origin) -> Result<Batch, BatchError> {
        let Some(masking) = &self.masking else {
            return self.batch(ids);
        };
        let model = &self.spec.model;
        let (length, vocabulary) = (model.context_length, model.vocab_size);
        Batch::masked(ids, length, vocabulary, self.device, masking, origin)
    }

    /// Handles on the parameters, leaves of the autograd graph, in the table's order.
    pub fn parameters(&self) -> Vec<Tensor> {
        let named = self.model.parameters().tensors().iter();
        named.map(|p| p.tensor.shallow_clone()).collect()
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// What is trained, and how.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Where the state lives.
    pub fn device(&self) -> Device {
        self.device
    }
}

/// A model's parameters by their checkpoint names, detached and live.
pub(crate) fn model_tensors(model: &dyn Model) -> Result<Vec<NamedTensor>, TchError> {
    let detach = |named: &NamedTensor| {
        Ok(NamedTensor {
            name: format!("model.{}", named.name),
            tensor: named.tensor.f_detach()?,
        })
    };
    model.parameters().tensors().iter().map(detach).collect()
}
