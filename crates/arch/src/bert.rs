use crate::{Init, ModelConfig, Parameter};

/// BERT's parameters, with the names, order and layout of Hugging Face's `BertForMaskedLM`: weights lie as \[out, in\] and
/// `y = x Wᵀ + b`. The output head's matrix is the token embedding and so has no entry; its bias has one. The pooler is that
/// of `BertModel`.
///
/// Devlin et al. 2019 §A.2 and its code: all matrices start normal with the same deviation.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let c = u64::from(config.hidden_size);
    let (f, v) = (config.mlp_width(), u64::from(config.vocab_size));
    let normal = Init::Normal {
        std: config.init_std,
    };
    let mut table = Vec::new();
    let mut embedding = |name: &str, rows: u64| {
        let name = format!("bert.embeddings.{name}_embeddings.weight");
        table.push(Parameter::new(name, &[rows, c], normal));
    };
    embedding("word", v);
    embedding("position", config.context_length.into());
    embedding("token_type", config.token_types.into());

    let linear = |table: &mut Vec<Parameter>, name: String, shape: [u64; 2]| {
        let bias = Parameter::new(format!("{name}.bias"), &shape[..1], Init::Zeros);
        table.push(Parameter::new(format!("{name}.weight"), &shape, normal));
        table.push(bias);
    };
    let norm = |table: &mut Vec<Parameter>, name: String| {
        table.push(Parameter::new(format!("{name}.weight"), &[c], Init::Ones));
        table.push(Parameter::new(format!("{name}.bias"), &[c], Init::Zeros));
    };
    norm(&mut table, "bert.embeddings.LayerNorm".into());
    for layer in 0..config.layers {
        let name = |name: &str| format!("bert.encoder.layer.{layer}.{name}");
        for projection in ["query", "key", "value"] {
            let projection = name(&format!("attention.self.{projection}"));
            linear(&mut table, projection, [c, c]);
        }
        linear(&mut table, name("attention.output.dense"), [c, c]);
        norm(&mut table, name("attention.output.LayerNorm"));
        linear(&mut table, name("intermediate.dense"), [f, c]);
        linear(&mut table, name("output.dense"), [c, f]);
        norm(&mut table, name("output.LayerNorm"));
    }
    if config.pooler {
        linear(&mut table, "bert.pooler.dense".into(), [c, c]);
    }
    if config.mlm_head {
        let transform = "cls.predictions.transform";
        table.push(Parameter::new("cls.predictions.bias", &[v], Init::Zeros));
        linear(&mut table, format!("{transform}.dense"), [c, c]);
        norm(&mut table, format!("{transform}.LayerNorm"));
    }
    table
}
