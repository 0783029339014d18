use tch::{Kind, Reduction, TchError, Tensor};

/// libtorch's default for targets that count for nothing; no token id is negative, so none is ignored.
const IGNORE_INDEX: i64 = -100;

/// Cross-entropy in nats, summed over tokens, in fp32 whatever the logits' precision.
/// `logits`: \[B, T, V\] or \[M, V\]; `targets`: \[B, T\] or \[M\] int64. Returns a scalar.
///
/// # Errors
/// libtorch's: shapes that do not fit, a target outside \[0, V), memory that ran out.
pub fn cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
    let rows = logits.f_flatten(0, -2)?.f_to_kind(Kind::Float)?;
    rows.f_cross_entropy_loss(
        &targets.f_flatten(0, -1)?,
        None::<&Tensor>,
        Reduction::Sum,
        IGNORE_INDEX,
        0.0,
    )
}
