//! Giving a pass up in the middle.
use std::{fmt, sync::Arc};

use muster_c10d::ops;
use tch::Tensor;

use crate::OpsError;

/// Which gate a pass has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// One on its way.
    Within,
    /// The backward pass is back where the forward pass began: all that is left are the first gradients, and the wait for
    /// those of other ranks where they are being summed.
    End,
}

/// Asked at gates within forward and backward passes: whether to give the pass up there. A pass that nobody waits for any
/// more would otherwise hold its thread until its end. Being asked is also a sign of life.
#[derive(Clone, Default)]
pub struct Interrupt(Option<Arc<dyn Fn(Gate) -> bool + Send + Sync>>);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = self.0.is_some();
        f.debug_struct("Interrupt").field("armed", &armed).finish()
    }
}

impl Interrupt {
    /// One that gives passes up as soon as `wanted` says so. It is asked often, and from libtorch's threads: it must be quick,
    /// and must not panic.
    pub fn when(wanted: impl Fn(Gate) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(wanted)))
    }

    /// A gate: asks now, and again when the backward pass has come back to `tensor`. Values and gradients are untouched.
    ///
    /// # Errors
    /// If the pass is to be given up. In a backward pass it is that pass that fails.
    pub fn gate(&self, tensor: &Tensor) -> Result<(), OpsError> {
        self.place(tensor, Gate::Within)
    }

    /// The gate at a forward pass's first activations: [`Gate::End`] on the way back.
    ///
    /// # Errors
    /// As [`gate`](Self::gate).
    pub fn first_gate(&self, tensor: &Tensor) -> Result<(), OpsError> {
        self.place(tensor, Gate::End)
    }

    fn place(&self, tensor: &Tensor, way_back: Gate) -> Result<(), OpsError> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        if wanted(Gate::Within) {
            return Err(OpsError::of("pass")("interrupted".into()));
        }
        if !tensor.requires_grad() {
            return Ok(());
        }
        let wanted = Arc::clone(wanted);
        ops::backward_gate(tensor, Arc::new(move || wanted(way_back))).map_err(OpsError::of("gate"))
    }
}
