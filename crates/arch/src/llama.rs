use crate::{AttentionBias, Init, ModelConfig, Parameter};

/// A Llama's parameters, with the names, order and layout of Hugging Face's `LlamaForCausalLM`: weights lie as \[out, in\]
/// and `y = x Wᵀ + b`.
///
/// Initial weights as GPT-2's: the papers give none. Projections onto the residual stream start smaller by
/// 1/√(2·layers), as each block adds to it twice.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let c = u64::from(config.hidden_size);
    let d = u64::from(config.head_width());
    let (queries, keys) = (
        u64::from(config.heads) * d,
        u64::from(config.key_value_heads()) * d,
    );
    let (f, v) = (config.mlp_width(), u64::from(config.vocab_size));
    let normal = Init::Normal {
        std: config.init_std,
    };
    let residual = Init::Normal {
        std: config.init_std / (2.0 * f64::from(config.layers)).sqrt(),
    };
    let (qkv_bias, output_bias) = match config.attention_bias {
        AttentionBias::None => (false, false),
        AttentionBias::Qkv => (true, false),
        AttentionBias::All => (true, true),
    };

    let mut table = vec![Parameter::new("model.embed_tokens.weight", &[v, c], normal)];
    for layer in 0..config.layers {
        let mut add = |name: &str, shape: &[u64], init| {
            let name = format!("model.layers.{layer}.{name}");
            table.push(Parameter::new(name, shape, init));
        };
        let mut linear = |name: &str, shape: [u64; 2], init, bias| {
            add(&format!("{name}.weight"), &shape, init);
            if bias {
                add(&format!("{name}.bias"), &shape[..1], Init::Zeros);
            }
        };
        linear("self_attn.q_proj", [queries, c], normal, qkv_bias);
        linear("self_attn.k_proj", [keys, c], normal, qkv_bias);
        linear("self_attn.v_proj", [keys, c], normal, qkv_bias);
        linear("self_attn.o_proj", [c, queries], residual, output_bias);
        linear("mlp.gate_proj", [f, c], normal, config.mlp_bias);
        linear("mlp.up_proj", [f, c], normal, config.mlp_bias);
        linear("mlp.down_proj", [c, f], residual, config.mlp_bias);
        add("input_layernorm.weight", &[c], Init::Ones);
        add("post_attention_layernorm.weight", &[c], Init::Ones);
        if config.qk_norm {
            add("self_attn.q_norm.weight", &[d], Init::Ones);
            add("self_attn.k_norm.weight", &[d], Init::Ones);
        }
    }
    table.push(Parameter::new("model.norm.weight", &[c], Init::Ones));
    if !config.tie_embeddings {
        table.push(Parameter::new("lm_head.weight", &[v, c], normal));
    }
    table
}
