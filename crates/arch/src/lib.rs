//! From a model's configuration to its parameter table, FLOPs and memory.
//!
//! The table is the one place that says which parameters a family has, in which order, of which shape, how they start
//! and whether they decay. The model, the optimizer's groups, checkpoints and estimates all read it.
//!
//! ```
//! use muster_arch::{ModelConfig, ParameterTable};
//!
//! let config = ModelConfig { vocab_size: 50_304, ..ModelConfig::default() };
//! let table = ParameterTable::new(&config);
//! assert_eq!(table.parameters()[0].name, "transformer.wte.weight");
//! assert_eq!(table.parameters()[0].shape, [50_304, 256]);
//! ```

mod bert;
mod config;
mod estimate;
mod gpt2;
pub mod hugging_face;
mod llama;
mod parameter;
mod validate;

pub use config::{AttentionBias, Family, ModelConfig, RopeScaling};
pub use estimate::{MemoryEstimate, flops_per_token, memory_estimate};
pub use parameter::{Decay, Init, Parameter, ParameterTable};
pub use validate::ConfigError;
