use tch::{TchError, Tensor};

use crate::{BuildError, Parameters};

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019): no mean is taken away, no bias added.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor, // [width]
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn new(
        parameters: &Parameters,
        name: &str,
        epsilon: f64,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            weight: parameters.get(&format!("{name}.weight"))?,
            epsilon,
        })
    }

    /// Any shape that ends in the width, to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_rms_norm(self.weight.size(), Some(&self.weight), Some(self.epsilon))
    }
}
