use tch::{TchError, Tensor};

use crate::{BuildError, Parameters, Pass, dropout::Dropout, linear::Linear};

/// Causal multi-head self-attention (Vaswani et al. 2017 §3.2).
#[derive(Debug)]
pub(crate) struct CausalSelfAttention {
    qkv: Linear,    // C -> 3 C
    output: Linear, // C -> C
    heads: i64,
    dropout: Dropout,
}

impl CausalSelfAttention {
    pub(crate) fn new(
        parameters: &Parameters,
        name: &str,
        heads: u32,
        dropout: Dropout,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            qkv: Linear::new(parameters, &format!("{name}.c_attn"))?,
            output: Linear::new(parameters, &format!("{name}.c_proj"))?,
            heads: heads.into(),
            dropout,
        })
    }

    /// [B, T, C] to [B, T, C]. The kernel never holds the T × T scores (Dao et al. 2022).
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let (b, t, c) = x.size3()?;
        let qkv = self.qkv.forward(x)?; // [B, T, 3 C]
        let head = |index: i64| {
            // [B, T, C] -> [B, T, H, D] -> [B, H, T, D], all views
            qkv.f_narrow(2, index * c, c)?
                .f_view([b, t, self.heads, c / self.heads])?
                .f_transpose(1, 2)
        };
        let (q, k, v) = (head(0)?, head(1)?, head(2)?);
        let mixed = Tensor::f_scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<&Tensor>,
            self.dropout.probability(pass),
            true,
            None,
            false,
        )?; // [B, H, T, D]
        let joined = mixed.f_transpose(1, 2)?.f_reshape([b, t, c])?;
        self.dropout.apply(self.output.forward(&joined)?, pass)
    }
}
