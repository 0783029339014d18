//! The trainer: optimizer, schedule, step, checkpoints of tensors.
