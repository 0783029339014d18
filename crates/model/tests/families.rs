//! What every family has to keep, Llama and BERT as built: gradients for all parameters, sight, dropout, starting loss.
#![allow(clippy::unwrap_used)]

use muster_arch::{AttentionBias, Family, ModelConfig};
use muster_model::{Model, Pass, build};
use muster_types::Seed;
use tch::{Device, Kind, Tensor};

fn config(family: Family) -> ModelConfig {
    let config = ModelConfig {
        family,
        layers: 2,
        heads: 4,
        hidden_size: 32,
        context_length: 16,
        vocab_size: 64,
        ..ModelConfig::default()
    };
    match family {
        Family::Llama => ModelConfig {
            kv_heads: 2,
            tie_embeddings: false,
            attention_bias: AttentionBias::Qkv,
            mlp_bias: true,
            qk_norm: true,
            ..config
        },
        Family::Gpt2 | Family::Bert => config,
    }
}

fn model(config: &ModelConfig) -> Box<dyn Model> {
    build(config, Device::Cpu, Seed(1)).unwrap()
}

fn tokens(shape: [i64; 2]) -> Tensor {
    let ids: Vec<i64> = (0..shape[0] * shape[1])
        .map(|place| place * 7 % 64)
        .collect();
    Tensor::from_slice(&ids).view(shape)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

const NEW: [Family; 2] = [Family::Llama, Family::Bert];

#[test]
fn every_parameter_gets_a_gradient_and_the_first_loss_is_a_uniform_guess() {
    for family in NEW {
        let model = model(&config(family));
        let text = tokens([3, 17]);
        let (inputs, targets) = (text.narrow(1, 0, 16), text.narrow(1, 1, 16));
        let loss = model.loss_sum(&inputs, &targets, Pass::Evaluate).unwrap();
        let mean = loss.double_value(&[]) / 48.0;
        assert!((mean - 64_f64.ln()).abs() < 0.1, "{family:?}: {mean}");
        loss.f_backward().unwrap();
        for named in model.parameters().tensors() {
            let gradient = named.tensor.grad();
            let name = &named.name;
            assert!(gradient.defined(), "{name}");
            // A bias of keys moves all of a query's scores alike, and softmax does not see that.
            let unseen = name.ends_with("key.bias") || name.ends_with("k_proj.bias");
            let size = gradient.abs().sum(Kind::Float).double_value(&[]);
            assert!(size > 0.0 || unseen, "{name}");
        }
    }
}

#[test]
fn a_later_token_changes_earlier_places_only_where_all_are_seen() {
    for family in NEW {
        let model = model(&config(family));
        let text = tokens([1, 16]);
        let changed = text.copy();
        let _ = changed.get(0).get(10).fill_(63);
        let [a, b] = [&text, &changed].map(|tokens| model.forward(tokens, Pass::Evaluate).unwrap());
        let before = difference(&a.narrow(1, 0, 10), &b.narrow(1, 0, 10));
        assert_eq!(before == 0.0, family.is_causal(), "{family:?}: {before}");
        assert!(difference(&a.narrow(1, 10, 1), &b.narrow(1, 10, 1)) > 1e-3);
    }
}

#[test]
fn dropout_follows_its_seed_and_only_in_training() {
    for family in NEW {
        let model = model(&ModelConfig {
            dropout: 0.2,
            ..config(family)
        });
        let text = tokens([2, 16]);
        let forward = |pass| model.forward(&text, pass).unwrap();
        let train = |dropout_seed| forward(Pass::Train { dropout_seed });
        let first = train(9);
        assert!(difference(&first, &train(10)) > 1e-3);
        assert_eq!(difference(&first, &train(9)), 0.0);
        assert!(difference(&first, &forward(Pass::Evaluate)) > 1e-3);
    }
}

#[test]
fn a_bert_without_an_output_head_says_so() {
    let model = model(&ModelConfig {
        mlm_head: false,
        pooler: true,
        ..config(Family::Bert)
    });
    let features = model.features(&tokens([2, 5]), Pass::Evaluate).unwrap();
    assert_eq!(model.pooled(&features).unwrap().unwrap().size(), [2, 32]);
    let error = model.head(&features).unwrap_err().to_string();
    assert!(error.contains("model.mlm_head is false"), "{error}");
}

#[test]
fn the_loss_of_some_places_is_the_sum_of_theirs_and_that_of_none_is_nothing() {
    let model = model(&config(Family::Bert));
    let text = tokens([2, 16]);
    let loss = |places: &[i64]| {
        let places = Tensor::from_slice(places);
        let targets = text.reshape([-1]).index_select(0, &places);
        model
            .loss_sum_at(&text, &places, &targets, Pass::Evaluate)
            .unwrap()
    };
    let all = model.loss_sum(&text, &text, Pass::Evaluate).unwrap();
    let every: Vec<i64> = (0..32).collect();
    assert!((loss(&every) - all).abs().double_value(&[]) < 1e-3);
    let (one, other) = (loss(&[3, 20]), loss(&[3]) + loss(&[20]));
    assert!((one - other).abs().double_value(&[]) < 1e-4);
    let nothing = loss(&[]);
    nothing.f_backward().unwrap();
    assert_eq!(nothing.double_value(&[]), 0.0);
    for named in model.parameters().tensors() {
        let gradient = named.tensor.grad();
        assert!(gradient.defined(), "{}", named.name);
        assert_eq!(gradient.abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}
