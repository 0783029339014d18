use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model families that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// GPT-2: learned positions, pre-LayerNorm, GELU (tanh form), tied embeddings (Radford et al. 2019).
    Gpt2,
}

/// What a model is made of. All sizes in elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The model family.
    pub family: Family,
    /// Transformer blocks.
    pub layers: u32,
    /// Attention heads; divides `hidden_size`.
    pub heads: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Longest sequence, in tokens; also the length of a training sequence.
    pub context_length: u32,
    /// Rows of the embedding; at least the tokenizer's vocabulary. 0: the dataset's vocabulary, rounded up to a multiple of 64.
    pub vocab_size: u32,
    /// Dropout probability in [0, 1).
    pub dropout: f64,
    /// Standard deviation of the initial weights.
    pub init_std: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            family: Family::Gpt2,
            layers: 4,
            heads: 4,
            hidden_size: 256,
            context_length: 256,
            vocab_size: 0,
            dropout: 0.0,
            init_std: 0.02,
        }
    }
}
