//! The table against closed forms and the names that Hugging Face uses.

use std::collections::BTreeSet;

use muster_arch::{AttentionBias, Decay, Family, Init, ModelConfig, ParameterTable};
use proptest::prelude::*;

fn configs() -> impl Strategy<Value = ModelConfig> {
    (1u32..6, 1u32..6, 1u32..20, 1u32..80, 1u32..300).prop_map(
        |(layers, heads, head_size, context_length, vocab_size)| ModelConfig {
            layers,
            heads,
            hidden_size: heads * head_size,
            context_length,
            vocab_size,
            ..ModelConfig::default()
        },
    )
}

proptest! {
    #[test]
    fn gpt2_elements_equal_the_closed_form(config in configs()) {
        prop_assert_eq!(config.validate(), Ok(()));
        let [l, c, t, v] =
            [config.layers, config.hidden_size, config.context_length, config.vocab_size]
                .map(u64::from);
        prop_assert_eq!(
            ParameterTable::new(&config).elements(),
            v * c + t * c + l * (12 * c * c + 13 * c) + 2 * c
        );
    }

    #[test]
    fn names_are_unique_and_exactly_matrices_decay(config in configs()) {
        let table = ParameterTable::new(&config);
        let names: BTreeSet<_> = table.parameters().iter().map(|p| &p.name).collect();
        prop_assert_eq!(names.len(), table.parameters().len());
        prop_assert_eq!(names.len(), 4 + 12 * config.layers as usize);
        for parameter in table.parameters() {
            prop_assert_eq!(parameter.decay == Decay::Decayed, parameter.shape.len() >= 2);
        }
    }
}

#[test]
fn gpt2_has_hugging_faces_names_and_layout_and_the_papers_init() {
    let config = ModelConfig {
        layers: 2,
        heads: 2,
        hidden_size: 8,
        context_length: 16,
        vocab_size: 64,
        ..ModelConfig::default()
    };
    let table = ParameterTable::new(&config);
    let listed: Vec<_> = table
        .parameters()
        .iter()
        .map(|p| format!("{} {:?}", p.name, p.shape))
        .collect();
    assert_eq!(
        listed[..14],
        [
            "transformer.wte.weight [64, 8]",
            "transformer.wpe.weight [16, 8]",
            "transformer.h.0.ln_1.weight [8]",
            "transformer.h.0.ln_1.bias [8]",
            "transformer.h.0.attn.c_attn.weight [8, 24]",
            "transformer.h.0.attn.c_attn.bias [24]",
            "transformer.h.0.attn.c_proj.weight [8, 8]",
            "transformer.h.0.attn.c_proj.bias [8]",
            "transformer.h.0.ln_2.weight [8]",
            "transformer.h.0.ln_2.bias [8]",
            "transformer.h.0.mlp.c_fc.weight [8, 32]",
            "transformer.h.0.mlp.c_fc.bias [32]",
            "transformer.h.0.mlp.c_proj.weight [32, 8]",
            "transformer.h.0.mlp.c_proj.bias [8]",
        ]
    );
    assert_eq!(
        listed[26..],
        ["transformer.ln_f.weight [8]", "transformer.ln_f.bias [8]"]
    );

    for parameter in table.parameters() {
        let expected = match parameter.name.as_str() {
            name if name.ends_with("c_proj.weight") => Init::Normal { std: 0.01 },
            name if name.contains("ln_") && name.ends_with("weight") => Init::Ones,
            name if name.ends_with("bias") => Init::Zeros,
            _ => Init::Normal { std: 0.02 },
        };
        assert_eq!(parameter.init, expected, "{}", parameter.name);
    }
}

fn listed(config: &ModelConfig) -> Vec<String> {
    assert_eq!(config.validate(), Ok(()));
    let table = ParameterTable::new(config);
    let entry = |p: &muster_arch::Parameter| format!("{} {:?}", p.name, p.shape);
    table.parameters().iter().map(entry).collect()
}

#[test]
fn a_llama_has_hugging_faces_names_and_every_option_its_tensors() {
    let plain = ModelConfig {
        family: Family::Llama,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        hidden_size: 24,
        context_length: 16,
        vocab_size: 64,
        ..ModelConfig::default()
    };
    assert_eq!(
        listed(&plain),
        [
            "model.embed_tokens.weight [64, 24]",
            "model.layers.0.self_attn.q_proj.weight [24, 24]",
            "model.layers.0.self_attn.k_proj.weight [12, 24]",
            "model.layers.0.self_attn.v_proj.weight [12, 24]",
            "model.layers.0.self_attn.o_proj.weight [24, 24]",
            "model.layers.0.mlp.gate_proj.weight [64, 24]",
            "model.layers.0.mlp.up_proj.weight [64, 24]",
            "model.layers.0.mlp.down_proj.weight [24, 64]",
            "model.layers.0.input_layernorm.weight [24]",
            "model.layers.0.post_attention_layernorm.weight [24]",
            "model.norm.weight [24]",
        ]
    );
    let more = ModelConfig {
        head_size: 8,
        mlp_size: 40,
        tie_embeddings: false,
        attention_bias: AttentionBias::Qkv,
        mlp_bias: true,
        qk_norm: true,
        ..plain.clone()
    };
    let (all, plain) = (listed(&more), listed(&plain));
    let added: Vec<_> = all.iter().filter(|entry| !plain.contains(entry)).collect();
    assert_eq!(
        added,
        [
            "model.layers.0.self_attn.q_proj.weight [32, 24]",
            "model.layers.0.self_attn.q_proj.bias [32]",
            "model.layers.0.self_attn.k_proj.weight [16, 24]",
            "model.layers.0.self_attn.k_proj.bias [16]",
            "model.layers.0.self_attn.v_proj.weight [16, 24]",
            "model.layers.0.self_attn.v_proj.bias [16]",
            "model.layers.0.self_attn.o_proj.weight [24, 32]",
            "model.layers.0.mlp.gate_proj.weight [40, 24]",
            "model.layers.0.mlp.gate_proj.bias [40]",
            "model.layers.0.mlp.up_proj.weight [40, 24]",
            "model.layers.0.mlp.up_proj.bias [40]",
            "model.layers.0.mlp.down_proj.weight [24, 40]",
            "model.layers.0.mlp.down_proj.bias [24]",
            "model.layers.0.self_attn.q_norm.weight [8]",
            "model.layers.0.self_attn.k_norm.weight [8]",
            "lm_head.weight [64, 24]",
        ]
    );
}

#[test]
fn published_models_have_their_published_number_of_parameters() {
    let smollm2_135m = ModelConfig {
        family: Family::Llama,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        hidden_size: 576,
        mlp_size: 1536,
        context_length: 8192,
        vocab_size: 49_152,
        ..ModelConfig::default()
    };
    assert_eq!(ParameterTable::new(&smollm2_135m).elements(), 134_515_008);
    let bert_base = ModelConfig {
        family: Family::Bert,
        layers: 12,
        heads: 12,
        hidden_size: 768,
        context_length: 512,
        vocab_size: 30_522,
        pooler: true,
        mlm_head: false,
        ..ModelConfig::default()
    };
    assert_eq!(ParameterTable::new(&bert_base).elements(), 109_482_240);
    let masked = ModelConfig {
        pooler: false,
        mlm_head: true,
        ..bert_base
    };
    assert_eq!(ParameterTable::new(&masked).elements(), 109_514_298);
}

#[test]
fn bert_has_hugging_faces_names() {
    let config = ModelConfig {
        family: Family::Bert,
        layers: 1,
        heads: 2,
        hidden_size: 8,
        context_length: 16,
        vocab_size: 64,
        pooler: true,
        ..ModelConfig::default()
    };
    let listed = listed(&config);
    assert_eq!(
        listed[..7],
        [
            "bert.embeddings.word_embeddings.weight [64, 8]",
            "bert.embeddings.position_embeddings.weight [16, 8]",
            "bert.embeddings.token_type_embeddings.weight [2, 8]",
            "bert.embeddings.LayerNorm.weight [8]",
            "bert.embeddings.LayerNorm.bias [8]",
            "bert.encoder.layer.0.attention.self.query.weight [8, 8]",
            "bert.encoder.layer.0.attention.self.query.bias [8]",
        ]
    );
    assert_eq!(
        listed[15..],
        [
            "bert.encoder.layer.0.intermediate.dense.weight [32, 8]",
            "bert.encoder.layer.0.intermediate.dense.bias [32]",
            "bert.encoder.layer.0.output.dense.weight [8, 32]",
            "bert.encoder.layer.0.output.dense.bias [8]",
            "bert.encoder.layer.0.output.LayerNorm.weight [8]",
            "bert.encoder.layer.0.output.LayerNorm.bias [8]",
            "bert.pooler.dense.weight [8, 8]",
            "bert.pooler.dense.bias [8]",
            "cls.predictions.bias [64]",
            "cls.predictions.transform.dense.weight [8, 8]",
            "cls.predictions.transform.dense.bias [8]",
            "cls.predictions.transform.LayerNorm.weight [8]",
            "cls.predictions.transform.LayerNorm.bias [8]",
        ]
    );
}
