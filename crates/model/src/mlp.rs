use tch::{TchError, Tensor};

use crate::{BuildError, Parameters, Pass, conv1d::Conv1d, dropout::Dropout};

/// The position-wise network: widen, GELU in its tanh form (Hendrycks & Gimpel 2016, as GPT-2), narrow.
#[derive(Debug)]
pub(crate) struct Mlp {
    widen: Conv1d,  // C -> 4 C
    narrow: Conv1d, // 4 C -> C
    dropout: Dropout,
}

impl Mlp {
    pub(crate) fn new(
        parameters: &Parameters,
        name: &str,
        dropout: Dropout,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            widen: Conv1d::new(parameters, &format!("{name}.c_fc"))?,
            narrow: Conv1d::new(parameters, &format!("{name}.c_proj"))?,
            dropout,
        })
    }

    /// [B, T, C] to [B, T, C].
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let hidden = self.widen.forward(x)?.f_gelu("tanh")?; // [B, T, 4 C]
        self.dropout.apply(self.narrow.forward(&hidden)?, pass)
    }
}
