//! Hugging Face's words against this crate's.

use std::collections::{BTreeMap, BTreeSet};

use muster_arch::hugging_face::{
    hugging_face_config, hugging_face_name, match_tensors, model_config,
};
use muster_arch::{AttentionBias, Family, ModelConfig, ParameterTable, RopeScaling};
use serde_json::{Value, json};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": 100, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
    })
}

fn read(config: &Value) -> Result<ModelConfig, String> {
    model_config(config, &BTreeSet::new()).map_err(|error| error.to_string())
}

/// The tensors that a model has, as an export would write them.
fn tensors(config: &ModelConfig) -> BTreeMap<String, Vec<u64>> {
    let table = ParameterTable::new(config);
    let entry = |p: &muster_arch::Parameter| {
        let name = hugging_face_name(config, &p.name).to_owned();
        (name, p.shape.clone())
    };
    table.parameters().iter().map(entry).collect()
}

#[test]
fn what_is_exported_is_imported_as_it_was() {
    let base = ModelConfig {
        layers: 2,
        heads: 4,
        hidden_size: 64,
        context_length: 128,
        vocab_size: 100,
        ..ModelConfig::default()
    };
    let llama = ModelConfig {
        family: Family::Llama,
        kv_heads: 2,
        head_size: 16,
        mlp_size: 96,
        ..base.clone()
    };
    let bert = ModelConfig {
        family: Family::Bert,
        mlp_size: 96,
        norm_epsilon: 1e-12,
        ..base.clone()
    };
    let stretched = |rope_scaling| ModelConfig {
        rope_scaling,
        rope_factor: 8.0,
        rope_original_context: 32,
        rope_theta: 5e5,
        ..llama.clone()
    };
    let all = [
        base.clone(),
        llama.clone(),
        ModelConfig {
            tie_embeddings: false,
            attention_bias: AttentionBias::All,
            mlp_bias: true,
            ..llama.clone()
        },
        ModelConfig {
            attention_bias: AttentionBias::Qkv,
            ..llama.clone()
        },
        ModelConfig {
            qk_norm: true,
            ..llama.clone()
        },
        ModelConfig {
            rope_original_context: 0,
            ..stretched(RopeScaling::Linear)
        },
        stretched(RopeScaling::Llama3),
        stretched(RopeScaling::Yarn),
        ModelConfig {
            rope_attention_factor: 1.25,
            ..stretched(RopeScaling::Yarn)
        },
        bert.clone(),
        ModelConfig {
            pooler: true,
            mlm_head: false,
            ..bert
        },
    ];
    for config in all {
        let (written, found) = (hugging_face_config(&config).unwrap(), tensors(&config));
        let names = found.keys().cloned().collect();
        assert_eq!(model_config(&written, &names).unwrap(), config, "{written}");
        let matches = match_tensors(&config, &found).unwrap();
        assert_eq!(matches.len(), found.len());
    }
}

#[test]
fn what_no_class_there_computes_is_not_exported() {
    let config = ModelConfig {
        family: Family::Llama,
        qk_norm: true,
        mlp_bias: true,
        ..ModelConfig::default()
    };
    let error = hugging_face_config(&config).unwrap_err().to_string();
    assert!(error.contains("both qk_norm and mlp_bias"), "{error}");
}

#[test]
fn both_ways_to_write_rotary_positions_are_read() {
    let mut old = llama();
    old["rope_scaling"] = json!({
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let mut new = llama();
    new["rope_parameters"] = old["rope_scaling"].clone();
    new["rope_parameters"]["rope_theta"] = json!(500000.0);
    new["rope_theta"] = Value::Null;
    assert_eq!(read(&old).unwrap(), read(&new).unwrap());
    assert_eq!(read(&old).unwrap().rope_theta, 5e5);
    assert_eq!(read(&old).unwrap().rope_scaling, RopeScaling::Llama3);
}

#[test]
fn what_is_not_computed_here_is_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut config = llama();
        config[key] = value;
        read(&config).unwrap_err()
    };
    assert_eq!(
        with("hidden_act", json!("relu")),
        "config.json: \"hidden_act\" is \"relu\", and only silu is supported"
    );
    assert_eq!(
        with("hidden_size", Value::Null),
        "config.json: \"hidden_size\" is missing, but must be a whole number"
    );
    assert!(with("rope_scaling", json!({"type": "dynamic", "factor": 2})).contains("dynamic"));
    let unknown = with("architectures", json!(["T5ForConditionalGeneration"]));
    assert!(
        unknown.starts_with("its architecture is T5ForConditionalGeneration, and what can be read is GPT2LMHeadModel"),
        "{unknown}"
    );
    let mut mistral = llama();
    mistral["architectures"] = json!(["MistralForCausalLM"]);
    mistral["sliding_window"] = json!(64);
    assert!(read(&mistral).unwrap_err().contains("sliding_window"));
    mistral["sliding_window"] = json!(128);
    assert!(read(&mistral).is_ok());
}

#[test]
fn every_tensor_that_is_missing_unexpected_or_misshapen_is_named() {
    let config = read(&llama()).unwrap();
    let mut found = tensors(&config);
    found.remove("model.norm.weight");
    found.insert("model.layers.0.extra".into(), vec![1]);
    found.insert("model.layers.1.mlp.up_proj.weight".into(), vec![96, 63]);
    let said = match_tensors(&config, &found).unwrap_err().to_string();
    assert_eq!(
        said,
        "the tensors are not those that config.json promises\n  \
         missing: model.norm.weight\n  \
         unexpected: model.layers.0.extra\n  \
         model.layers.1.mlp.up_proj.weight is [96, 63] and should be [96, 64]"
    );
}

#[test]
fn older_names_and_second_names_are_understood() {
    let bert = ModelConfig {
        family: Family::Bert,
        layers: 1,
        vocab_size: 100,
        ..ModelConfig::default()
    };
    let renamed = tensors(&bert).into_iter().map(|(name, shape)| {
        let name = match name.strip_suffix("LayerNorm.weight") {
            Some(start) => format!("{start}LayerNorm.gamma"),
            None => name,
        };
        (name.replace("bert.", ""), shape)
    });
    let mut renamed: BTreeMap<_, _> = renamed.collect();
    renamed.insert("cls.predictions.decoder.weight".into(), vec![100, 256]);
    renamed.insert("embeddings.position_ids".into(), vec![1, 256]);
    let matches = match_tensors(&bert, &renamed).unwrap();
    let of = |parameter: &str| matches.iter().find(|it| it.parameter == parameter).unwrap();
    assert_eq!(
        of("bert.embeddings.LayerNorm.weight").tensor,
        "embeddings.LayerNorm.gamma"
    );

    let gpt2 = ModelConfig {
        vocab_size: 100,
        ..ModelConfig::default()
    };
    let mut found = tensors(&gpt2);
    let table = found.remove("transformer.wte.weight").unwrap();
    found.insert("lm_head.weight".into(), table);
    found.insert("transformer.h.0.attn.bias".into(), vec![1, 1, 256, 256]);
    assert!(match_tensors(&gpt2, &found).is_ok());
}
