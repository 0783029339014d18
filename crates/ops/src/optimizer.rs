//! AdamW as one fused kernel.
use muster_c10d::ops;
use tch::{Kind, Tensor};

use crate::OpsError;

/// The parameters of one AdamW update: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwOptions {
    /// The factor of the update.
    pub learning_rate: f64,
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Each weight first shrinks by the learning rate times this.
    pub weight_decay: f64,
}

/// One AdamW update of `params` and of both moments, in place.
///
/// The four lists match element by element in shape; all tensors are of one dtype and on one device. `step` is a 0-dim
/// fp32 tensor on that device that holds the number of this update, from 1: the caller has counted it up already, and
/// may share it between calls (parameters with and without decay).
///
/// An error inside the kernel can leave some parameters updated and others not.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avg: &[Tensor],
    exp_avg_sq: &[Tensor],
    step: &Tensor,
    options: &AdamwOptions,
) -> Result<(), OpsError> {
    let error = OpsError::of("fused AdamW");
    for (name, list) in [
        ("grads", grads),
        ("exp_avg", exp_avg),
        ("exp_avg_sq", exp_avg_sq),
    ] {
        if list.len() != params.len() {
            return Err(error(format!(
                "{} {name} for {} params",
                list.len(),
                params.len()
            )));
        }
        // The CPU kernel does not look, and would read past the end.
        if let Some(index) =
            (0..params.len()).find(|&i| !list[i].defined() || list[i].size() != params[i].size())
        {
            return Err(error(format!(
                "{name}[{index}] has not the shape of its parameter"
            )));
        }
    }
    if step.kind() != Kind::Float || step.numel() != 1 {
        return Err(error(format!(
            "step is {:?} {:?}, not one float",
            step.kind(),
            step.size()
        )));
    }
    if params.is_empty() {
        return Ok(());
    }
    let adamw = ops::Adamw {
        learning_rate: options.learning_rate,
        beta1: options.beta1,
        beta2: options.beta2,
        epsilon: options.epsilon,
        weight_decay: options.weight_decay,
    };
    ops::fused_adamw(params, grads, exp_avg, exp_avg_sq, step, &adamw).map_err(error)
}
