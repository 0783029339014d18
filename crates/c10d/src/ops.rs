//! The libtorch half of `muster-ops`: operators and switches that tch does not reach, safe to call and otherwise bare.
//! Errors are the first line of libtorch's message.
mod ffi;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::ffi::{pointer, pointers};

type Outcome<T> = Result<T, String>;

/// The parameters of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adamw {
    /// The factor of the update.
    pub learning_rate: f64,
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// The decoupled decay of the weights, times the learning rate.
    pub weight_decay: f64,
}

/// `_fused_adamw_` over tensors of one dtype. `step` holds the number of this update, from 1.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avg: &[Tensor],
    exp_avg_sq: &[Tensor],
    step: &Tensor,
    adamw: &Adamw,
) -> Outcome<()> {
    // SAFETY: all tensors are live for the call.
    text(unsafe {
        ffi::fused_adamw(
            &pointers(params),
            &pointers(grads),
            &pointers(exp_avg),
            &pointers(exp_avg_sq),
            pointer(step),
            adamw.learning_rate,
            adamw.beta1,
            adamw.beta2,
            adamw.weight_decay,
            adamw.epsilon,
        )
    })
}

/// The Euclidean norm over all `tensors`, of which there is at least one: 0-dim, fp32.
pub fn global_norm(tensors: &[Tensor]) -> Outcome<Tensor> {
    // SAFETY: as in `fused_adamw`.
    owned(unsafe { ffi::global_norm(&pointers(tensors)) })
}

/// Multiplies each tensor by `factor`, in place.
pub fn scale(tensors: &[Tensor], factor: f64) -> Outcome<()> {
    // SAFETY: as in `fused_adamw`.
    text(unsafe { ffi::scale(&pointers(tensors), factor) })
}

/// Scales `grads`, of which there is at least one, so that their norm is at most `max_norm`. Returns the norm before.
pub fn clip_grad_norm(grads: &[Tensor], max_norm: f64) -> Outcome<Tensor> {
    // SAFETY: as in `fused_adamw`.
    owned(unsafe { ffi::clip_grad_norm(&pointers(grads), max_norm) })
}

/// Makes the gradients of `params` undefined.
pub fn clear_grads(params: &[Tensor]) -> Outcome<()> {
    // SAFETY: as in `fused_adamw`.
    text(unsafe { ffi::clear_grads(&pointers(params)) })
}

/// Fills each tensor with zeros.
pub fn zero(tensors: &[Tensor]) -> Outcome<()> {
    // SAFETY: as in `fused_adamw`.
    text(unsafe { ffi::zero(&pointers(tensors)) })
}

/// Copies each tensor of `from` into its counterpart in `to`.
pub fn copy(to: &[Tensor], from: &[Tensor]) -> Outcome<()> {
    // SAFETY: as in `fused_adamw`.
    text(unsafe { ffi::copy(&pointers(to), &pointers(from)) })
}

/// What a gate of a backward pass asks.
pub(crate) struct Gate(Arc<dyn Fn() -> bool + Send + Sync>);

impl Gate {
    fn is_shut(&self) -> bool {
        (self.0)()
    }
}

/// Has every backward pass that comes to `tensor`, which requires a gradient, fail there if `shut` says so then.
pub fn backward_gate(tensor: &Tensor, shut: Arc<dyn Fn() -> bool + Send + Sync>) -> Outcome<()> {
    // SAFETY: `tensor` is live for the call. The hook owns what it asks, which may be asked from any thread.
    text(unsafe { ffi::backward_gate(pointer(tensor), Box::new(Gate(shut))) })
}

/// The state of the device's default generator, as bytes.
pub fn rng_state(device: Device) -> Outcome<Tensor> {
    owned(ffi::rng_state(cuda_index(device)?))
}

/// Puts back what [`rng_state`] has returned.
pub fn set_rng_state(device: Device, state: &Tensor) -> Outcome<()> {
    // SAFETY: `state` is live for the call, and copied by it.
    text(unsafe { ffi::set_rng_state(cuda_index(device)?, pointer(state)) })
}

/// What operators without a deterministic kernel do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Determinism {
    /// They run.
    Off,
    /// They run, and warn.
    Warn,
    /// They are errors.
    Strict,
}

/// Chooses deterministic kernels, for the whole process.
pub fn set_deterministic(determinism: Determinism) -> Outcome<()> {
    text(ffi::set_deterministic(
        determinism != Determinism::Off,
        determinism == Determinism::Warn,
    ))
}

/// `highest`, `high` or `medium`, for fp32 matrix products of the whole process.
pub fn set_matmul_precision(precision: &str) -> Outcome<()> {
    text(ffi::set_matmul_precision(precision))
}

/// Autocast is on in this thread until this is dropped, which restores what was before.
#[derive(Debug)]
pub struct Autocast {
    before: ffi::AutocastState,
    /// Autocast belongs to a thread, so the guard must not leave it.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Autocast {
    /// Turns autocast to `dtype` on for the kind of `device`.
    pub fn enter(device: Device, dtype: Kind) -> Outcome<Self> {
        let cuda = cuda_index(device)? >= 0;
        // c10::ScalarType's numbers.
        let code = match dtype {
            Kind::Half => 5,
            Kind::BFloat16 => 15,
            other => {
                return Err(format!(
                    "autocast to {other:?}; it goes to BFloat16 or Half"
                ));
            }
        };
        let before = text(ffi::autocast_enter(cuda, code))?;
        Ok(Self {
            before,
            _thread: std::marker::PhantomData,
        })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        if let Err(error) = ffi::autocast_restore(&self.before) {
            tracing::error!(error = error.what(), "autocast could not be restored");
        }
    }
}

/// libtorch's account of its threads.
pub fn parallel_info() -> Outcome<String> {
    text(ffi::parallel_info())
}

/// What decides the bits of a result on the CPU, on one line.
pub fn numerics_fingerprint() -> Outcome<String> {
    text(ffi::numerics_fingerprint())
}

fn cuda_index(device: Device) -> Outcome<i32> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => i32::try_from(index).map_err(|_| format!("no GPU {index}")),
        other => Err(format!(
            "device {other:?} is neither the CPU nor a CUDA GPU"
        )),
    }
}

fn text<T>(outcome: Result<T, cxx::Exception>) -> Outcome<T> {
    outcome.map_err(|error| {
        error
            .what()
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    })
}

fn owned(outcome: Result<usize, cxx::Exception>) -> Outcome<Tensor> {
    // SAFETY: on success the C++ side hands over a new at::Tensor, which nobody else holds.
    text(outcome).map(|pointer| unsafe { Tensor::from_ptr(pointer as *mut torch_sys::C_tensor) })
}
