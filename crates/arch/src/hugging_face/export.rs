use serde_json::{Value, json};

use crate::{AttentionBias, Family, ModelConfig, RopeScaling};

/// Why a model has no counterpart in Hugging Face.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no model class of Hugging Face has {this}: what it would load there would compute something else"
)]
pub struct ExportError {
    this: &'static str,
}

/// A `config.json` that `transformers` builds the same model from, token ids left out.
///
/// # Errors
/// Where no class of `transformers` computes the same.
pub fn hugging_face_config(config: &ModelConfig) -> Result<Value, ExportError> {
    let mut written = match config.family {
        Family::Gpt2 => gpt2(config),
        Family::Llama => llama(config)?,
        Family::Bert => bert(config),
    };
    written["vocab_size"] = json!(config.vocab_size);
    written["initializer_range"] = json!(config.init_std);
    written["tie_word_embeddings"] = json!(config.tie_embeddings);
    // What transformers 5 reads, and what those before it do.
    written["dtype"] = json!("float32");
    written["torch_dtype"] = json!("float32");
    Ok(written)
}

/// What a parameter is called in the exported file: `BertModel` has no prefix.
pub fn hugging_face_name<'a>(config: &ModelConfig, parameter: &'a str) -> &'a str {
    match config.family {
        Family::Bert if !config.mlm_head => parameter.strip_prefix("bert.").unwrap_or(parameter),
        _ => parameter,
    }
}

fn gpt2(config: &ModelConfig) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.hidden_size,
        "n_inner": null,
        "n_positions": config.context_length,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    })
}

fn llama(config: &ModelConfig) -> Result<Value, ExportError> {
    let (class, kind) = match (config.qk_norm, config.attention_bias, config.mlp_bias) {
        (true, AttentionBias::Qkv, _) => {
            let this = "both qk_norm and biases of queries, keys and values alone";
            return Err(ExportError { this });
        }
        (true, _, true) => {
            let this = "both qk_norm and mlp_bias";
            return Err(ExportError { this });
        }
        (false, AttentionBias::Qkv, true) => {
            let this = "mlp_bias and biases of queries, keys and values alone";
            return Err(ExportError { this });
        }
        (true, _, false) => ("Qwen3ForCausalLM", "qwen3"),
        (false, AttentionBias::Qkv, false) => ("Qwen2ForCausalLM", "qwen2"),
        (false, _, _) => ("LlamaForCausalLM", "llama"),
    };
    let (rope_scaling, rope_parameters) = rope(config);
    Ok(json!({
        "architectures": [class],
        "model_type": kind,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads(),
        "head_dim": config.head_width(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_width(),
        "max_position_embeddings": config.context_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": config.attention_bias == AttentionBias::All,
        "attention_dropout": config.dropout,
        "mlp_bias": config.mlp_bias,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling,
        "rope_parameters": rope_parameters,
    }))
}

/// How positions turn, in the words of transformers 4 (null where they are not stretched) and in those of transformers 5.
fn rope(config: &ModelConfig) -> (Value, Value) {
    let mut words = match config.rope_scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear => json!({ "rope_type": "linear", "factor": config.rope_factor }),
        RopeScaling::Llama3 => json!({
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        }),
        RopeScaling::Yarn => json!({
            "rope_type": "yarn",
            "factor": config.rope_factor,
            "beta_fast": config.rope_beta_fast,
            "beta_slow": config.rope_beta_slow,
            "original_max_position_embeddings": config.rope_original_context,
        }),
    };
    if config.rope_scaling == RopeScaling::Yarn && config.rope_attention_factor > 0.0 {
        words["attention_factor"] = json!(config.rope_attention_factor);
    }
    let before = match config.rope_scaling {
        RopeScaling::None => Value::Null,
        _ => words.clone(),
    };
    words["rope_theta"] = json!(config.rope_theta);
    (before, words)
}

fn bert(config: &ModelConfig) -> Value {
    let class = if config.mlm_head {
        "BertForMaskedLM"
    } else {
        "BertModel"
    };
    json!({
        "architectures": [class],
        "model_type": "bert",
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_width(),
        "max_position_embeddings": config.context_length,
        "type_vocab_size": config.token_types,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    })
}
