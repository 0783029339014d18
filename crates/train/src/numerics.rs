//! What decides the bits of a result, chosen once for the process.

use muster_ops::{Determinism, MatmulPrecision, OpsError};
use tch::Device;

/// Chooses deterministic kernels, single precision that is not rounded further, and the number of CPU threads (0:
/// libtorch's choice). Returns the numerics fingerprint: equal fingerprints mean equal bits from equal inputs.
///
/// On a GPU an operator without a deterministic kernel warns rather than fails. cuBLAS is deterministic only if
/// `CUBLAS_WORKSPACE_CONFIG=:4096:8` is in the environment before the first use of the GPU.
///
/// # Errors
/// libtorch's.
pub fn configure(device: Device, threads: u32) -> Result<String, OpsError> {
    if threads > 0 {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
    muster_ops::set_deterministic(match device {
        Device::Cpu => Determinism::Strict,
        _ => Determinism::Warn,
    })?;
    muster_ops::set_matmul_precision(MatmulPrecision::Highest)?;
    Ok(muster_ops::numerics_fingerprint())
}
