//! Fused operators, clipping, RNG, autocast and determinism switches that tch lacks.
//!
//! Operators over lists of tensors run as one fused kernel where libtorch has one. An empty list is a no-op.
mod interrupt;
mod numerics;
mod optimizer;
mod precision;
mod rng;
mod tensors;

pub use interrupt::{Gate, Interrupt};
pub use numerics::{Determinism, numerics_fingerprint, parallel_info, set_deterministic};
pub use optimizer::{AdamwOptions, fused_adamw};
pub use precision::{MatmulPrecision, autocast, set_matmul_precision};
pub use rng::{rng_state, set_rng_state};
pub use tensors::{clear_grads, clip_grad_norm, copy_, global_norm, scale_, zero_};

/// libtorch refused an operation, or the lists given to it do not fit together. Nothing was changed in the latter case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {cause}")]
pub struct OpsError {
    operation: &'static str,
    cause: String,
}

impl OpsError {
    /// Turns a message into the error of `operation`.
    pub(crate) fn of(operation: &'static str) -> impl FnOnce(String) -> Self {
        move |cause| Self { operation, cause }
    }
}
