use tch::{TchError, Tensor};

use crate::{BuildError, Parameters};

/// `y = x W + b` with W as [in, out], Hugging Face's `Conv1D` of GPT-2.
#[derive(Debug)]
pub(crate) struct Conv1d {
    weight: Tensor, // [in, out]
    bias: Tensor,   // [out]
}

impl Conv1d {
    pub(crate) fn new(parameters: &Parameters, name: &str) -> Result<Self, BuildError> {
        Ok(Self {
            weight: parameters.get(&format!("{name}.weight"))?,
            bias: parameters.get(&format!("{name}.bias"))?,
        })
    }

    /// [B, T, in] to [B, T, out]: one matrix product over all B·T rows, with the bias in its epilogue.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (b, t, c) = x.size3()?;
        let rows = x.f_reshape([b * t, c])?;
        self.bias.f_addmm(&rows, &self.weight)?.f_view([b, t, -1])
    }
}
