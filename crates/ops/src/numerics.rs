//! What decides the bits of a result.
use muster_c10d::ops;
pub use muster_c10d::ops::Determinism;

use crate::OpsError;

/// Chooses deterministic kernels, for the whole process; without one, an operator runs, warns or fails as asked.
pub fn set_deterministic(determinism: Determinism) -> Result<(), OpsError> {
    ops::set_deterministic(determinism).map_err(OpsError::of("set deterministic"))
}

/// libtorch's account of its threads and thread libraries, over several lines.
pub fn parallel_info() -> String {
    ops::parallel_info().unwrap_or_else(|error| format!("unknown: {error}"))
}

/// What decides the bits of a result on the CPU, on one line: libtorch's version and build, the instruction set in use,
/// the math libraries, the number of threads, and the determinism and precision switches as they stand now.
///
/// Two processes with equal fingerprints compute the same bits from the same inputs with deterministic kernels; results
/// of different fingerprints may differ in the last places.
pub fn numerics_fingerprint() -> String {
    ops::numerics_fingerprint().unwrap_or_else(|error| format!("unknown: {error}"))
}
