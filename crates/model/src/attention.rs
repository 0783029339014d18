use tch::{TchError, Tensor};

use crate::{Pass, dropout::Dropout};

/// Which places a place looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Itself and those before it.
    Causal,
    /// All of them.
    Full,
}

/// Scaled dot-product attention (Vaswani et al. 2017 §3.2.1). `q`, `k`, `v`: [B, H, T, D]; returns [B, T, H · D], the heads
/// joined. The kernel never holds the T × T scores (Dao et al. 2022).
pub(crate) fn attend(
    [q, k, v]: [&Tensor; 3],
    sight: Sight,
    dropout: Dropout,
    pass: Pass,
) -> Result<Tensor, TchError> {
    let (b, h, t, d) = q.size4()?;
    let mixed = Tensor::f_scaled_dot_product_attention(
        q,
        k,
        v,
        None::<&Tensor>,
        dropout.probability(pass),
        sight == Sight::Causal,
        None,
        false,
    )?; // [B, H, T, D]
    mixed.f_transpose(1, 2)?.f_reshape([b, t, h * d])
}

/// [B, T, H · D] to [B, H, T, D], as views.
pub(crate) fn split_heads(x: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let (b, t, width) = x.size3()?;
    x.f_view([b, t, heads, width / heads])?.f_transpose(1, 2)
}
