//! Fused operators, clipping, RNG, autocast and determinism switches that tch lacks.
