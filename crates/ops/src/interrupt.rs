//! Giving a pass up in the middle.
use std::{fmt, sync::Arc};

use muster_c10d::ops;
use tch::Tensor;

use crate::OpsError;

/// Asked at gates within forward and backward passes: whether to give the pass up there. A pass that nobody waits for any
/// more would otherwise hold its thread until its end.
#[derive(Clone, Default)]
pub struct Interrupt(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = self.0.is_some();
        f.debug_struct("Interrupt").field("armed", &armed).finish()
    }
}

impl Interrupt {
    /// One that gives passes up as soon as `wanted` says so. It is asked often, and from libtorch's threads: it must be quick,
    /// and must not panic.
    pub fn when(wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(wanted)))
    }

    /// A gate: asks now, and again when the backward pass has come back to `tensor`. Values and gradients are untouched.
    ///
    /// # Errors
    /// If the pass is to be given up. In a backward pass it is that pass that fails.
    pub fn gate(&self, tensor: &Tensor) -> Result<(), OpsError> {
        let Some(wanted) = &self.0 else { return Ok(()) };
        if wanted() {
            return Err(OpsError::of("pass")("interrupted".into()));
        }
        if !tensor.requires_grad() {
            return Ok(());
        }
        ops::backward_gate(tensor, Arc::clone(wanted)).map_err(OpsError::of("gate"))
    }
}
