//! From a model's configuration to its parameter table, FLOPs and memory.

mod config;

pub use config::{Family, ModelConfig};
