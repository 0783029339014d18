use tch::{TchError, Tensor};

use crate::{BuildError, Parameters};

/// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor, // [C]
    bias: Tensor,   // [C]
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(
        parameters: &Parameters,
        name: &str,
        epsilon: f64,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            weight: parameters.get(&format!("{name}.weight"))?,
            bias: parameters.get(&format!("{name}.bias"))?,
            epsilon,
        })
    }

    /// [..., C] to [..., C].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.epsilon,
            true,
        )
    }
}
