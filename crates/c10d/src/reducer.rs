//! Sums gradients over the ranks while the backward pass still runs.
use std::sync::Arc;

use cxx::UniquePtr;
use tch::Tensor;

use crate::group::Inner;
use crate::{CollectiveError, Group, ffi};

/// How gradients are packed for the all-reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReducerOptions {
    /// The bytes after which the first bucket assigned, that of the first parameters, is full.
    pub first_bucket_bytes: usize,
    /// The bytes after which any other bucket is full.
    pub bucket_bytes: usize,
}

impl Default for ReducerOptions {
    /// The sizes of PyTorch's DistributedDataParallel.
    fn default() -> Self {
        Self {
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
        }
    }
}

/// libtorch's `c10d::Reducer`, which starts the all-reduce of a bucket of gradients as soon as the backward pass has
/// filled it.
///
/// Gradients become the *sum* over ranks of what each rank has accumulated; nothing is divided. They are views of the
/// buckets, so between steps they are zeroed in place, and before a new reducer they are cleared
/// (`muster_ops::clear_grads`). The layout of the buckets is fixed here, so a resumed run reduces in the same order.
/// Every parameter must get a gradient in every reduced backward pass.
///
/// For each micro-batch: [`prepare_forward`](Self::prepare_forward), forward, backward. Before the backward pass of the
/// last one, and of no other, [`prepare_backward`](Self::prepare_backward). A collective that fails surfaces as the
/// error of that backward pass (`Tensor::f_backward`); drop the reducer then, at whatever point it stopped.
#[derive(Debug)]
pub struct Reducer {
    raw: Raw,
    bucket_bytes: Vec<usize>,
    group: Arc<Inner>,
}

struct Raw(UniquePtr<ffi::Reducer>);
// SAFETY: c10d's reducer locks its state, since autograd calls it from whichever thread runs the backward pass.
unsafe impl Send for Raw {}

impl Reducer {
    /// Hooks into the autograd of `params`: leaves that require gradients and have none defined, all on the group's
    /// device, the same on every rank in the same order.
    pub fn new(
        group: &Group,
        params: &[Tensor],
        options: ReducerOptions,
    ) -> Result<Self, CollectiveError> {
        const OPERATION: &str = "reducer";
        let inner = group.inner();
        inner.alive(OPERATION)?;
        if params.is_empty() {
            return Err(inner.explain(OPERATION, "there are no parameters to reduce"));
        }
        if let Some(index) = params.iter().position(|param| param.grad().defined()) {
            let problem =
                format!("parameter {index} has a gradient already: clear gradients first");
            return Err(inner.explain(OPERATION, &problem));
        }
        // SAFETY: `params` are live for the call; the reducer keeps clones of its own.
        let raw = unsafe {
            ffi::reducer_new(
                inner.raw(),
                &ffi::pointers(params),
                options.first_bucket_bytes,
                options.bucket_bytes,
            )
        }
        .map_err(|error| inner.explain(OPERATION, error.what()))?;
        let bucket_bytes = ffi::reducer_bucket_bytes(&raw);
        Ok(Self {
            raw: Raw(raw),
            bucket_bytes,
            group: Arc::clone(inner),
        })
    }

    /// Before each forward pass.
    pub fn prepare_forward(&self) -> Result<(), CollectiveError> {
        ffi::reducer_prepare_forward(&self.raw.0)
            .map_err(|error| self.group.explain("prepare forward", error.what()))
    }

    /// Makes the next backward pass reduce. `outputs` are what it starts from, such as the loss; they may be left out.
    pub fn prepare_backward(&self, outputs: &[&Tensor]) -> Result<(), CollectiveError> {
        const OPERATION: &str = "prepare backward";
        self.group.alive(OPERATION)?;
        // SAFETY: `outputs` are live for the call, which keeps none of them.
        unsafe {
            ffi::reducer_prepare_backward(&self.raw.0, &ffi::pointers(outputs.iter().copied()))
        }
        .map_err(|error| self.group.explain(OPERATION, error.what()))
    }

    /// The bytes of each bucket, in the order of reduction.
    pub fn bucket_sizes(&self) -> &[usize] {
        &self.bucket_bytes
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw")
    }
}
