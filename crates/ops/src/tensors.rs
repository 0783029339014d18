//! Operations over lists of tensors. None is seen by autograd.
use muster_c10d::ops;
use tch::{Device, Kind, Tensor};

use crate::OpsError;

/// The Euclidean norm over all elements of `grads`: 0-dim, fp32, on their device. Zero for an empty list.
pub fn global_norm(grads: &[Tensor]) -> Result<Tensor, OpsError> {
    if grads.is_empty() {
        return Ok(Tensor::zeros([], (Kind::Float, Device::Cpu)));
    }
    ops::global_norm(grads).map_err(OpsError::of("global norm"))
}

/// Multiplies every tensor by `factor`, in place.
pub fn scale_(tensors: &[Tensor], factor: f64) -> Result<(), OpsError> {
    if tensors.is_empty() {
        return Ok(());
    }
    ops::scale(tensors, factor).map_err(OpsError::of("scale"))
}

/// Scales `grads` in place so that their global norm is at most `max_norm`: by
/// `min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_` does.
///
/// Returns the norm before clipping: 0-dim, fp32, on their device, so that reading it is the caller's decision. A norm
/// that is not finite makes the gradients so, too: look at it before the optimizer runs.
pub fn clip_grad_norm(grads: &[Tensor], max_norm: f64) -> Result<Tensor, OpsError> {
    if grads.is_empty() {
        return global_norm(grads);
    }
    ops::clip_grad_norm(grads, max_norm).map_err(OpsError::of("clip gradient norm"))
}

/// Makes the gradients of `params` undefined, which frees them (views of a reducer's buckets included).
pub fn clear_grads(params: &[Tensor]) -> Result<(), OpsError> {
    ops::clear_grads(params).map_err(OpsError::of("clear gradients"))
}

/// Fills every tensor with zeros, in place.
pub fn zero_(tensors: &[Tensor]) -> Result<(), OpsError> {
    if tensors.is_empty() {
        return Ok(());
    }
    ops::zero(tensors).map_err(OpsError::of("zero"))
}

/// Copies every tensor of `src` into its counterpart of the same shape in `dst`; dtype and device may differ.
pub fn copy_(dst: &[Tensor], src: &[Tensor]) -> Result<(), OpsError> {
    let error = OpsError::of("copy");
    if dst.len() != src.len() {
        return Err(error(format!("{} tensors into {}", src.len(), dst.len())));
    }
    if dst.is_empty() {
        return Ok(());
    }
    ops::copy(dst, src).map_err(error)
}
