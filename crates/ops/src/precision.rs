//! In what precision matrix products are computed.
use muster_c10d::ops;
use tch::{Device, Kind};

use crate::OpsError;

/// Runs `body` with autocast to `dtype` (BFloat16 or Half) on the kind of `device`, in this thread.
///
/// What autocast was before is restored when `body` ends, in whatever way it does: a value, an early `return`, a panic.
/// Regions nest.
pub fn autocast<T>(device: Device, dtype: Kind, body: impl FnOnce() -> T) -> Result<T, OpsError> {
    let _on = ops::Autocast::enter(device, dtype).map_err(OpsError::of("autocast"))?;
    Ok(body())
}

/// How exactly fp32 matrix products are computed, as PyTorch's `set_float32_matmul_precision` defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In fp32.
    Highest,
    /// In TF32, or as sums of bf16 products that are as exact.
    High,
    /// In bf16.
    Medium,
}

/// Sets the precision of fp32 matrix products, for the whole process.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<(), OpsError> {
    let name = match precision {
        MatmulPrecision::Highest => "highest",
        MatmulPrecision::High => "high",
        MatmulPrecision::Medium => "medium",
    };
    ops::set_matmul_precision(name).map_err(OpsError::of("set matmul precision"))
}
