use tch::{TchError, Tensor};

use crate::{BuildError, Parameters};

/// `y = x Wᵀ + b` with W as [out, in], PyTorch's `Linear`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,       // [out, in]
    bias: Option<Tensor>, // [out]
}

impl Linear {
    /// With a bias where the table has one.
    pub(crate) fn new(parameters: &Parameters, name: &str) -> Result<Self, BuildError> {
        Ok(Self {
            weight: parameters.get(&format!("{name}.weight"))?,
            bias: parameters.find(&format!("{name}.bias")),
        })
    }

    /// [..., in] to [..., out].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, self.bias.as_ref())
    }
}
