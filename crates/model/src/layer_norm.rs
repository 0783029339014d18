use tch::{TchError, Tensor};

use crate::{BuildError, Parameters};

/// Added to the variance, as in GPT-2.
const EPSILON: f64 = 1e-5;

/// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor, // [C]
    bias: Tensor,   // [C]
}

impl LayerNorm {
    pub(crate) fn new(parameters: &Parameters, name: &str) -> Result<Self, BuildError> {
        Ok(Self {
            weight: parameters.get(&format!("{name}.weight"))?,
            bias: parameters.get(&format!("{name}.bias"))?,
        })
    }

    /// [B, T, C] to [B, T, C].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            EPSILON,
            true,
        )
    }
}
