//! GPT-2 as built: its table, its causality, its initial loss, its dropout, its text.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use muster_arch::{ModelConfig, ParameterTable};
use muster_model::{
    BuildError, GenerateError, GenerateOptions, Model, Pass, SamplerOptions, build, generate,
};
use muster_types::Seed;
use tch::{Device, Kind, Tensor};

fn config() -> ModelConfig {
    ModelConfig {
        layers: 2,
        heads: 2,
        hidden_size: 32,
        context_length: 16,
        vocab_size: 64,
        ..ModelConfig::default()
    }
}

fn model(config: &ModelConfig, seed: u64) -> Box<dyn Model> {
    build(config, Device::Cpu, Seed(seed)).unwrap()
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

#[test]
fn parameters_are_those_of_the_table_in_its_order() {
    let model = model(&config(), 1);
    let table = ParameterTable::new(&config());
    assert_eq!(model.parameters().tensors().len(), table.parameters().len());
    for (named, parameter) in model.parameters().tensors().iter().zip(table.parameters()) {
        let shape: Vec<u64> = named
            .tensor
            .size()
            .iter()
            .map(|&extent| extent as u64)
            .collect();
        assert_eq!((&named.name, &shape), (&parameter.name, &parameter.shape));
        assert!(named.tensor.requires_grad() && named.tensor.is_contiguous());
    }
}

#[test]
fn initial_weights_follow_the_table_and_the_seed() {
    let (one, again, two) = (
        model(&config(), 1),
        model(&config(), 1),
        model(&config(), 2),
    );
    for ((a, b), c) in one
        .parameters()
        .tensors()
        .iter()
        .zip(again.parameters().tensors())
        .zip(two.parameters().tensors())
    {
        assert!(a.tensor.equal(&b.tensor), "{}", a.name);
        let drawn = a.tensor.size().len() == 2;
        assert_eq!(!a.tensor.equal(&c.tensor), drawn, "{}", a.name);
    }
    let std = |name: &str| {
        one.parameters()
            .get(name)
            .unwrap()
            .std(false)
            .double_value(&[])
    };
    assert!((std("transformer.h.1.mlp.c_fc.weight") - 0.02).abs() < 1e-3);
    assert!((std("transformer.h.1.mlp.c_proj.weight") - 0.01).abs() < 5e-4);
}

#[test]
fn an_untrained_model_is_as_surprised_as_a_uniform_one() {
    let model = model(&config(), 1);
    let text = tokens([3, 17]);
    let (inputs, targets) = (text.narrow(1, 0, 16), text.narrow(1, 1, 16));
    let loss = model
        .loss_sum(&inputs, &targets, Pass::Evaluate)
        .unwrap()
        .double_value(&[]);
    assert!((loss / 48.0 - 64_f64.ln()).abs() < 0.1, "{}", loss / 48.0);
}

#[test]
fn a_later_token_changes_no_earlier_logit() {
    let model = model(&config(), 1);
    let text = tokens([1, 16]);
    let changed = text.copy();
    let _ = changed.get(0).get(10).fill_(63);
    let [a, b] = [&text, &changed].map(|tokens| model.forward(tokens, Pass::Evaluate).unwrap());
    assert_eq!(difference(&a.narrow(1, 0, 10), &b.narrow(1, 0, 10)), 0.0);
    assert!(difference(&a.narrow(1, 10, 1), &b.narrow(1, 10, 1)) > 1e-3);
}

#[test]
fn every_parameter_gets_a_gradient() {
    let model = model(&config(), 1);
    let text = tokens([2, 17]);
    let loss = model
        .loss_sum(
            &text.narrow(1, 0, 16),
            &text.narrow(1, 1, 16),
            Pass::Evaluate,
        )
        .unwrap();
    loss.f_backward().unwrap();
    for named in model.parameters().tensors() {
        let gradient = named.tensor.grad();
        assert!(
            gradient.defined() && gradient.abs().sum(Kind::Float).double_value(&[]) > 0.0,
            "{}",
            named.name
        );
    }
}

#[test]
fn dropout_follows_its_seed_and_only_in_training() {
    let model = model(
        &ModelConfig {
            dropout: 0.2,
            ..config()
        },
        1,
    );
    let text = tokens([2, 16]);
    let forward = |pass| model.forward(&text, pass).unwrap();
    let train = |dropout_seed| forward(Pass::Train { dropout_seed });
    let first = train(9);
    assert!(difference(&first, &train(10)) > 1e-3);
    assert_eq!(difference(&first, &train(9)), 0.0);
    assert!(difference(&first, &forward(Pass::Evaluate)) > 1e-3);
    assert_eq!(
        difference(&forward(Pass::Evaluate), &forward(Pass::Evaluate)),
        0.0
    );
}

#[test]
fn generation_is_a_function_of_the_prompt_and_the_seed_and_slides_past_the_context() {
    let model = model(&config(), 1);
    let text = |temperature, seed| {
        let sampler = SamplerOptions {
            temperature,
            top_k: 20,
            vocabulary: 60,
            seed,
        };
        let options = GenerateOptions {
            max_tokens: 40,
            sampler,
        };
        generate(&*model, &[1, 2, 3], &options, |_| ControlFlow::Continue(())).unwrap()
    };
    assert_eq!(text(0.0, 1), text(0.0, 2));
    assert_eq!(text(1.0, 1), text(1.0, 1));
    assert_ne!(text(1.0, 1), text(1.0, 2));
    assert_eq!(text(1.0, 1).len(), 40);
    assert!(text(1.5, 3).iter().all(|id| (0..60).contains(id)));
}

#[test]
fn generation_ends_when_asked_and_refuses_what_it_cannot_continue() {
    let model = model(&config(), 1);
    let sampler = SamplerOptions {
        temperature: 0.0,
        top_k: 0,
        vocabulary: 64,
        seed: 0,
    };
    let options = GenerateOptions {
        max_tokens: 10,
        sampler,
    };
    let mut left = 3;
    let stop_after_three = |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    assert_eq!(
        generate(&*model, &[1], &options, stop_after_three)
            .unwrap()
            .len(),
        3
    );
    let refuse = |prompt: &[i64]| {
        generate(&*model, prompt, &options, |_| ControlFlow::Continue(())).unwrap_err()
    };
    assert!(matches!(refuse(&[]), GenerateError::EmptyPrompt));
    assert!(matches!(
        refuse(&[1, 64]),
        GenerateError::OutsideVocabulary {
            id: 64,
            vocabulary: 64
        }
    ));
}

#[test]
fn what_is_no_model_is_refused() {
    let refuse = |config: ModelConfig| build(&config, Device::Cpu, Seed(1)).err().unwrap();
    assert!(matches!(
        refuse(ModelConfig {
            heads: 5,
            ..config()
        }),
        BuildError::Config(_)
    ));
    assert!(matches!(
        refuse(ModelConfig {
            vocab_size: 0,
            ..config()
        }),
        BuildError::VocabularyUnknown
    ));
}
