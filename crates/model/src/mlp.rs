use tch::{TchError, Tensor};

use crate::{BuildError, Parameters, Pass, dropout::Dropout, linear::Linear};

/// The position-wise network: widen, GELU in its tanh form (Hendrycks & Gimpel 2016, as GPT-2), narrow.
#[derive(Debug)]
pub(crate) struct Mlp {
    widen: Linear,  // C -> 4 C
    narrow: Linear, // 4 C -> C
    dropout: Dropout,
}

impl Mlp {
    pub(crate) fn new(
        parameters: &Parameters,
        name: &str,
        dropout: Dropout,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            widen: Linear::new(parameters, &format!("{name}.c_fc"))?,
            narrow: Linear::new(parameters, &format!("{name}.c_proj"))?,
            dropout,
        })
    }

    /// [B, T, C] to [B, T, C].
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let hidden = self.widen.forward(x)?.f_gelu("tanh")?; // [B, T, 4 C]
        self.dropout.apply(self.narrow.forward(&hidden)?, pass)
    }
}
