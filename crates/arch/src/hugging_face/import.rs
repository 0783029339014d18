use std::collections::BTreeSet;

use serde_json::Value;

use super::ARCHITECTURES;
use crate::{AttentionBias, ConfigError, Family, ModelConfig, RopeScaling};

/// Why a `config.json` describes no model that can be trained here.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// It names no model class that is known.
    #[error(
        "its architecture is {found}, and what can be read is {}",
        ARCHITECTURES.join(", ")
    )]
    UnknownArchitecture {
        /// What it names.
        found: String,
    },
    /// A size is missing, or is no whole number within range.
    #[error("config.json: {key:?} is {found}, but must be a whole number")]
    NoSize {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
    },
    /// A setting that the family does not have here.
    #[error("config.json: {key:?} is {found}, and only {supported} is supported")]
    Unsupported {
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What would be read.
        supported: &'static str,
    },
    /// The settings do not go together.
    #[error("config.json describes no model: {0}")]
    Config(#[from] ConfigError),
}

/// The configuration that a `config.json` stands for. `tensors`: the names of the checkpoint's tensors, which say whether a BERT
/// has a pooler and an output head. What concerns neither the computation nor its training is passed over.
///
/// # Errors
/// See [`ImportError`].
pub fn model_config(
    config: &Value,
    tensors: &BTreeSet<String>,
) -> Result<ModelConfig, ImportError> {
    let source = Source(config);
    let architecture = architecture(config)?;
    let read = match architecture {
        "GPT2LMHeadModel" | "GPT2Model" => gpt2(&source)?,
        "BertForMaskedLM" | "BertForPreTraining" | "BertModel" => bert(&source, tensors)?,
        _ => llama(&source, architecture)?,
    };
    read.validate()?;
    Ok(read)
}

/// The first of the named classes that can be read; where none is named, the one that the model type usually has.
fn architecture(config: &Value) -> Result<&'static str, ImportError> {
    let known = |name: &str| ARCHITECTURES.into_iter().find(|known| *known == name);
    let named: Vec<_> = config["architectures"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let found = match (named.as_slice(), config["model_type"].as_str()) {
        ([], Some("gpt2")) => Some("GPT2LMHeadModel"),
        ([], Some("llama")) => Some("LlamaForCausalLM"),
        ([], Some("mistral")) => Some("MistralForCausalLM"),
        ([], Some("qwen2")) => Some("Qwen2ForCausalLM"),
        ([], Some("qwen3")) => Some("Qwen3ForCausalLM"),
        ([], Some("bert")) => Some("BertForMaskedLM"),
        (named, _) => named.iter().find_map(|name| known(name)),
    };
    found.ok_or_else(|| ImportError::UnknownArchitecture {
        found: match named.as_slice() {
            [] => format!("not named, and its model_type is {}", config["model_type"]),
            named => named.join(", "),
        },
    })
}

fn gpt2(source: &Source<'_>) -> Result<ModelConfig, ImportError> {
    source.only("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    source.only_flag("scale_attn_weights", true)?;
    source.only_flag("scale_attn_by_inverse_layer_idx", false)?;
    source.only_flag("add_cross_attention", false)?;
    source.only_flag("tie_word_embeddings", true)?;
    let hidden_size = source.size("n_embd")?;
    let inner = source.size_or("n_inner", 4 * hidden_size)?;
    if inner != 4 * hidden_size {
        return Err(source.unsupported("n_inner", "4 · n_embd"));
    }
    Ok(ModelConfig {
        family: Family::Gpt2,
        layers: source.size("n_layer")?,
        heads: source.size("n_head")?,
        hidden_size,
        context_length: source.size("n_positions")?,
        vocab_size: source.size("vocab_size")?,
        norm_epsilon: source.number("layer_norm_epsilon", 1e-5),
        dropout: source.number("resid_pdrop", 0.1),
        init_std: source.number("initializer_range", 0.02),
        ..ModelConfig::default()
    })
}

fn llama(source: &Source<'_>, architecture: &str) -> Result<ModelConfig, ImportError> {
    source.only("hidden_act", &["silu"])?;
    let context_length = source.size("max_position_embeddings")?;
    source.check_window(architecture, context_length)?;
    let heads = source.size("num_attention_heads")?;
    let has_bias = source.flag("attention_bias", false);
    let plain = ModelConfig {
        family: Family::Llama,
        layers: source.size("num_hidden_layers")?,
        heads,
        kv_heads: source.size_or("num_key_value_heads", heads)?,
        head_size: source.size_or("head_dim", 0)?,
        hidden_size: source.size("hidden_size")?,
        mlp_size: source.size("intermediate_size")?,
        context_length,
        vocab_size: source.size("vocab_size")?,
        tie_embeddings: source.flag("tie_word_embeddings", false),
        norm_epsilon: source.number("rms_norm_eps", 1e-6),
        attention_bias: match architecture {
            "Qwen2ForCausalLM" => AttentionBias::Qkv,
            _ if has_bias => AttentionBias::All,
            _ => AttentionBias::None,
        },
        mlp_bias: source.flag("mlp_bias", false),
        qk_norm: architecture == "Qwen3ForCausalLM",
        dropout: source.number("attention_dropout", 0.0),
        init_std: source.number("initializer_range", 0.02),
        ..ModelConfig::default()
    };
    source.rope(plain)
}

fn bert(source: &Source<'_>, tensors: &BTreeSet<String>) -> Result<ModelConfig, ImportError> {
    source.only("hidden_act", &["gelu"])?;
    source.only("position_embedding_type", &["absolute"])?;
    source.only_flag("is_decoder", false)?;
    source.only_flag("add_cross_attention", false)?;
    source.only_flag("tie_word_embeddings", true)?;
    let has = |end: &str| tensors.iter().any(|name| name.ends_with(end));
    Ok(ModelConfig {
        family: Family::Bert,
        layers: source.size("num_hidden_layers")?,
        heads: source.size("num_attention_heads")?,
        hidden_size: source.size("hidden_size")?,
        mlp_size: source.size("intermediate_size")?,
        context_length: source.size("max_position_embeddings")?,
        vocab_size: source.size("vocab_size")?,
        token_types: source.size_or("type_vocab_size", 2)?,
        norm_epsilon: source.number("layer_norm_eps", 1e-12),
        pooler: has("pooler.dense.weight"),
        mlm_head: has("cls.predictions.transform.dense.weight"),
        dropout: source.number("hidden_dropout_prob", 0.1),
        init_std: source.number("initializer_range", 0.02),
        ..ModelConfig::default()
    })
}

/// A `config.json`.
struct Source<'a>(&'a Value);

impl Source<'_> {
    fn size(&self, key: &'static str) -> Result<u32, ImportError> {
        let found = &self.0[key];
        let size = found.as_u64().and_then(|size| u32::try_from(size).ok());
        size.ok_or_else(|| ImportError::NoSize {
            key,
            found: match found {
                Value::Null => "missing".into(),
                found => found.to_string(),
            },
        })
    }

    fn size_or(&self, key: &'static str, usual: u32) -> Result<u32, ImportError> {
        match self.0[key] {
            Value::Null => Ok(usual),
            _ => self.size(key),
        }
    }

    fn number(&self, key: &str, usual: f64) -> f64 {
        self.0[key].as_f64().unwrap_or(usual)
    }

    fn flag(&self, key: &str, usual: bool) -> bool {
        self.0[key].as_bool().unwrap_or(usual)
    }

    fn unsupported(&self, key: &str, supported: &'static str) -> ImportError {
        ImportError::Unsupported {
            key: key.into(),
            found: self.0[key].to_string(),
            supported,
        }
    }

    /// Whether a word, where it is given, is one of these.
    fn only(&self, key: &str, words: &[&'static str]) -> Result<(), ImportError> {
        match &self.0[key] {
            Value::Null => Ok(()),
            Value::String(word) if words.contains(&word.as_str()) => Ok(()),
            _ => Err(self.unsupported(key, words.first().copied().unwrap_or_default())),
        }
    }

    fn only_flag(&self, key: &str, wanted: bool) -> Result<(), ImportError> {
        match self.flag(key, wanted) == wanted {
            true => Ok(()),
            false => Err(self.unsupported(key, if wanted { "true" } else { "false" })),
        }
    }

    /// A window of attention that is shorter than the context is not computed here.
    fn check_window(&self, architecture: &str, context_length: u32) -> Result<(), ImportError> {
        let in_use = architecture == "MistralForCausalLM" || self.flag("use_sliding_window", false);
        let window = self.0["sliding_window"].as_u64();
        match window {
            Some(window) if in_use && window < context_length.into() => {
                let supported = "null, or a window of at least max_position_embeddings,";
                Err(self.unsupported("sliding_window", supported))
            }
            _ => Ok(()),
        }
    }

    /// Adds how positions turn: `rope_parameters`, or `rope_theta` and `rope_scaling` as written before transformers 5.
    fn rope(&self, config: ModelConfig) -> Result<ModelConfig, ImportError> {
        let section = ["rope_parameters", "rope_scaling"]
            .into_iter()
            .find(|key| self.0[key].is_object());
        let empty = Value::Null;
        let rope = Source(section.map_or(&empty, |key| &self.0[key]));
        let theta = rope.number("rope_theta", self.number("rope_theta", 10_000.0));
        let kind = ["rope_type", "type"]
            .into_iter()
            .find_map(|key| rope.0[key].as_str())
            .unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear,
            "llama3" => RopeScaling::Llama3,
            "yarn" => RopeScaling::Yarn,
            other => {
                return Err(ImportError::Unsupported {
                    key: format!("{}.rope_type", section.unwrap_or("rope_scaling")),
                    found: format!("{other:?}"),
                    supported: "\"default\", \"linear\", \"llama3\" or \"yarn\"",
                });
            }
        };
        let config = ModelConfig {
            rope_theta: theta,
            rope_scaling: scaling,
            ..config
        };
        rope.check_rope()?;
        match scaling {
            RopeScaling::None => Ok(config),
            RopeScaling::Linear => Ok(ModelConfig {
                rope_factor: rope.number("factor", 1.0),
                ..config
            }),
            RopeScaling::Llama3 => Ok(ModelConfig {
                rope_factor: rope.number("factor", 1.0),
                rope_original_context: rope.size("original_max_position_embeddings")?,
                rope_low_freq_factor: rope.number("low_freq_factor", 1.0),
                rope_high_freq_factor: rope.number("high_freq_factor", 4.0),
                ..config
            }),
            RopeScaling::Yarn => Ok(ModelConfig {
                rope_factor: rope.number("factor", 1.0),
                rope_original_context: rope.size("original_max_position_embeddings")?,
                rope_beta_fast: rope.number("beta_fast", 32.0),
                rope_beta_slow: rope.number("beta_slow", 1.0),
                rope_attention_factor: rope.number("attention_factor", 0.0),
                ..config
            }),
        }
    }

    /// What changes the angles in ways that are not computed here.
    fn check_rope(&self) -> Result<(), ImportError> {
        if self.number("partial_rotary_factor", 1.0) != 1.0 {
            return Err(self.unsupported("partial_rotary_factor", "1"));
        }
        for key in ["mscale", "mscale_all_dim"] {
            if !self.0[key].is_null() {
                return Err(self.unsupported(key, "none"));
            }
        }
        self.only_flag("truncate", true)
    }
}
