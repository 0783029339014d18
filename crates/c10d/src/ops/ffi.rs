//! The bridge to `cpp/ops.cc`. Tensors travel as addresses, which must be those of live at::Tensors.
use super::Gate;

#[cxx::bridge(namespace = "muster::ops")]
mod bridge {
    /// What autocast was for a device before it was entered.
    #[derive(Debug, Clone, Copy)]
    struct AutocastState {
        cuda: bool,
        enabled: bool,
        dtype: i8,
    }

    extern "Rust" {
        type Gate;
        fn is_shut(&self) -> bool;
    }

    unsafe extern "C++" {
        include!("muster-c10d/cpp/ops.h");

        #[allow(clippy::too_many_arguments)]
        unsafe fn fused_adamw(
            params: &[usize],
            grads: &[usize],
            exp_avg: &[usize],
            exp_avg_sq: &[usize],
            step: usize,
            learning_rate: f64,
            beta1: f64,
            beta2: f64,
            weight_decay: f64,
            epsilon: f64,
        ) -> Result<()>;
        unsafe fn global_norm(tensors: &[usize]) -> Result<usize>;
        unsafe fn scale(tensors: &[usize], factor: f64) -> Result<()>;
        unsafe fn clip_grad_norm(grads: &[usize], max_norm: f64) -> Result<usize>;
        unsafe fn clear_grads(params: &[usize]) -> Result<()>;
        unsafe fn zero(tensors: &[usize]) -> Result<()>;
        unsafe fn copy(to: &[usize], from: &[usize]) -> Result<()>;
        unsafe fn backward_gate(tensor: usize, gate: Box<Gate>) -> Result<()>;
        fn rng_state(cuda_index: i32) -> Result<usize>;
        unsafe fn set_rng_state(cuda_index: i32, state: usize) -> Result<()>;
        fn set_deterministic(on: bool, warn_only: bool) -> Result<()>;
        fn set_matmul_precision(precision: &str) -> Result<()>;
        fn autocast_enter(cuda: bool, dtype: i8) -> Result<AutocastState>;
        fn autocast_restore(before: &AutocastState) -> Result<()>;
        fn parallel_info() -> Result<String>;
        fn numerics_fingerprint() -> Result<String>;
    }
}

pub(super) use bridge::*;
