//! The table against closed forms and the names that Hugging Face uses.

use std::collections::BTreeSet;

use muster_arch::{Decay, Init, ModelConfig, ParameterTable};
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
