use crate::{Init, ModelConfig, Parameter};

/// GPT-2's parameters, with the names, order and layout of Hugging Face's `GPT2LMHeadModel`, so that export and import
/// move bytes unchanged. Its projections are `Conv1D`s: weights lie as \[in, out\] and `y = x W + b`, a plain row-major
/// product that needs no transposition. The output head is the token embedding and so has no entry.
///
/// Radford et al. 2019 §2.3: residual projections start smaller by 1/√(2·layers), as each block adds to the stream twice.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let c = u64::from(config.hidden_size);
    let normal = Init::Normal {
        std: config.init_std,
    };
    let residual = Init::Normal {
        std: config.init_std / (2.0 * f64::from(config.layers)).sqrt(),
    };

    let mut table = vec![
        Parameter::new(
            "transformer.wte.weight",
            &[config.vocab_size.into(), c],
            normal,
        ),
        Parameter::new(
            "transformer.wpe.weight",
            &[config.context_length.into(), c],
            normal,
        ),
    ];
    for layer in 0..config.layers {
        let mut add = |name: &str, shape: &[u64], init| {
            table.push(Parameter::new(
                format!("transformer.h.{layer}.{name}"),
                shape,
                init,
            ));
        };
        add("ln_1.weight", &[c], Init::Ones);
        add("ln_1.bias", &[c], Init::Zeros);
        add("attn.c_attn.weight", &[c, 3 * c], normal);
        add("attn.c_attn.bias", &[3 * c], Init::Zeros);
        add("attn.c_proj.weight", &[c, c], residual);
        add("attn.c_proj.bias", &[c], Init::Zeros);
        add("ln_2.weight", &[c], Init::Ones);
        add("ln_2.bias", &[c], Init::Zeros);
        add("mlp.c_fc.weight", &[c, 4 * c], normal);
        add("mlp.c_fc.bias", &[4 * c], Init::Zeros);
        add("mlp.c_proj.weight", &[4 * c, c], residual);
        add("mlp.c_proj.bias", &[c], Init::Zeros);
    }
    table.push(Parameter::new("transformer.ln_f.weight", &[c], Init::Ones));
    table.push(Parameter::new("transformer.ln_f.bias", &[c], Init::Zeros));
    table
}
