//! The state of libtorch's default generators.
use muster_c10d::ops;
use tch::{Device, Tensor};

use crate::OpsError;

/// The state of `device`'s default generator: a uint8 tensor on the CPU.
pub fn rng_state(device: Device) -> Result<Tensor, OpsError> {
    ops::rng_state(device).map_err(OpsError::of("RNG state"))
}

/// Puts back a state that [`rng_state`] has returned for the same kind of device: the same draws follow.
pub fn set_rng_state(device: Device, state: &Tensor) -> Result<(), OpsError> {
    ops::set_rng_state(device, state).map_err(OpsError::of("set RNG state"))
}
