//! Model families, each in a file that reads like its paper.
//!
//! Shapes in names and comments use one legend:
//!
//! | letter | meaning |
//! |---|---|
//! | B | sequences of a micro-batch |
//! | T | tokens of a sequence |
//! | C | hidden size, the width of the residual stream |
//! | H | attention heads |
//! | D | width of a head, C / H |
//! | V | rows of the token embedding |
//!
//! A new family is a parameter table in `muster-arch`, a file here, and a line in `registry.rs`.

mod attention;
mod bert;
mod conv1d;
pub mod counter;
mod dropout;
mod generate;
mod gpt2;
mod init;
mod layer_norm;
mod linear;
mod llama;
mod loss;
mod mlp;
mod model;
mod parameters;
mod registry;
mod rms_norm;
mod rope;
mod sampler;

pub use generate::{GenerateError, GenerateOptions, generate};
pub use loss::cross_entropy_sum;
pub use model::{Model, Pass};
pub use parameters::{NamedTensor, Parameters};
pub use registry::{BuildError, build};
pub use sampler::{Sampler, SamplerOptions};
