use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model families that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// GPT-2: learned positions, pre-LayerNorm, GELU (tanh form), tied embeddings (Radford et al. 2019).
    Gpt2,
    /// Llama: rotary positions, RMSNorm, SwiGLU, grouped queries (Touvron et al. 2023); with the options that Mistral, Qwen
    /// and SmolLM take.
    Llama,
    /// BERT: an encoder with learned positions, LayerNorm after each residual sum, GELU (Devlin et al. 2019).
    Bert,
}

impl Family {
    /// Its word in a run spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Bert => "bert",
        }
    }

    /// Whether each place sees only what stands before it, so that the model can continue a text.
    pub fn is_causal(self) -> bool {
        !matches!(self, Self::Bert)
    }
}

/// Which projections of a Llama's attention have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttentionBias {
    /// None, as in Llama and Mistral.
    #[default]
    None,
    /// Those of queries, keys and values, as in Qwen2.
    Qkv,
    /// The output projection, too.
    All,
}

/// How rotary positions are stretched beyond the context that a Llama was first trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All frequencies are divided by `rope_factor` (Chen et al. 2023).
    Linear,
    /// Low frequencies are divided, high ones stay, those between are blended (Llama 3.1).
    Llama3,
    /// By the turns that a dimension makes over the original context, and attention is made sharper (Peng et al. 2023).
    Yarn,
}

/// What a model is made of. All sizes in elements. Keys that say "Llama" or "BERT" are for that family only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The model family.
    pub family: Family,
    /// Transformer blocks.
    pub layers: u32,
    /// Attention heads; divides `hidden_size`.
    pub heads: u32,
    /// Llama: heads of keys and values, each shared by `heads / kv_heads` heads of queries; 0: `heads`.
    pub kv_heads: u32,
    /// Llama: width of a head; 0: `hidden_size / heads`.
    pub head_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the hidden layer of a block's MLP; 0: four times `hidden_size`, and for Llama two thirds of that, rounded up to a
    /// multiple of 64. GPT-2's is always four times `hidden_size`.
    pub mlp_size: u32,
    /// Longest sequence, in tokens; also the length of a training sequence.
    pub context_length: u32,
    /// Rows of the embedding; at least the tokenizer's vocabulary. 0: the dataset's vocabulary, rounded up to a multiple of 64.
    pub vocab_size: u32,
    /// Whether the token embedding is also the output head. Only a Llama can do without.
    pub tie_embeddings: bool,
    /// Added to the variance, or to the mean square, by norms; above 0.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub norm_epsilon: f64,
    /// Llama: which projections of the attention have a bias.
    pub attention_bias: AttentionBias,
    /// Llama: whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// Llama: whether each head's queries and keys pass an RMSNorm before they are turned, as in Qwen3.
    pub qk_norm: bool,
    /// Llama: the base of the rotary frequencies, above 0.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_theta: f64,
    /// Llama: how rotary positions are stretched.
    pub rope_scaling: RopeScaling,
    /// Llama: by how much they are stretched, at least 1; 1 where `rope_scaling` is "none".
    #[schemars(range(min = 1.0))]
    pub rope_factor: f64,
    /// Llama: the context that the model was first trained with, in tokens, where `rope_scaling` is "llama3" or "yarn".
    pub rope_original_context: u32,
    /// Llama, "llama3": wavelengths above the original context divided by this are stretched in full.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_low_freq_factor: f64,
    /// Llama, "llama3": wavelengths below the original context divided by this stay. Above `rope_low_freq_factor`.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_high_freq_factor: f64,
    /// Llama, "yarn": dimensions that turn more often than this over the original context stay.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_beta_fast: f64,
    /// Llama, "yarn": dimensions that turn less often than this are stretched in full. Below `rope_beta_fast`.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub rope_beta_slow: f64,
    /// Llama, "yarn": what queries and keys are multiplied by; 0: 0.1 ln(`rope_factor`) + 1.
    #[schemars(range(min = 0.0))]
    pub rope_attention_factor: f64,
    /// BERT: rows of the token-type embedding, at least 1. All tokens of a training sequence are of type 0.
    pub token_types: u32,
    /// BERT: whether the last block's first place goes through a further layer, of which sentence classifiers read.
    pub pooler: bool,
    /// BERT: whether there is an output head over the vocabulary. Nothing can be trained without.
    pub mlm_head: bool,
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
            kv_heads: 0,
            head_size: 0,
            hidden_size: 256,
            mlp_size: 0,
            context_length: 256,
            vocab_size: 0,
            tie_embeddings: true,
            norm_epsilon: 1e-5,
            attention_bias: AttentionBias::None,
            mlp_bias: false,
            qk_norm: false,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rope_factor: 1.0,
            rope_original_context: 0,
            rope_low_freq_factor: 1.0,
            rope_high_freq_factor: 4.0,
            rope_beta_fast: 32.0,
            rope_beta_slow: 1.0,
            rope_attention_factor: 0.0,
            token_types: 2,
            pooler: false,
            mlm_head: true,
            dropout: 0.0,
            init_std: 0.02,
        }
    }
}

/// Llama's derived MLP width is a multiple of this: matrix units like even sizes.
const MLP_MULTIPLE: u64 = 64;

impl ModelConfig {
    /// Heads of keys and values.
    pub fn key_value_heads(&self) -> u32 {
        match self.kv_heads {
            0 => self.heads,
            heads => heads,
        }
    }

    /// Width of a head.
    pub fn head_width(&self) -> u32 {
        match self.head_size {
            0 => self.hidden_size / self.heads.max(1),
            width => width,
        }
    }

    /// Width of the hidden layer of a block's MLP. Shazeer 2020 (GLU variants, §3) has the two thirds: a gated MLP has three
    /// matrices where others have two.
    pub fn mlp_width(&self) -> u64 {
        let four = 4 * u64::from(self.hidden_size);
        match (self.mlp_size, self.family) {
            (0, Family::Llama) => (2 * four).div_ceil(3).next_multiple_of(MLP_MULTIPLE),
            (0, _) => four,
            (width, _) => width.into(),
        }
    }
}
