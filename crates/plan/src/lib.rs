//! The data order and its assignment: pure functions of seed, step and membership.
