//! Every family against what Hugging Face `transformers` computes from the same weights. `tests/parity/known_answers.py` has made
//! the answers; weights follow from a formula, so that they need not lie here.
#![allow(clippy::unwrap_used)]

use muster_arch::ModelConfig;
use muster_model::{Model, Pass, build};
use muster_types::Seed;
use serde::Deserialize;
use tch::{Device, Tensor, no_grad};

#[derive(Deserialize)]
struct Answers {
    ids: Vec<Vec<i64>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: ModelConfig,
    /// Of each row, the first words' at the first and the last place.
    logits: Vec<[Vec<f64>; 2]>,
    /// Of each row, the first values.
    pooled: Vec<Vec<f64>>,
}

/// Parameter p of those in the order of their names, element i: sin(i · 0.37 + p) / 5, around 1 for norms' gains.
fn fill(model: &dyn Model) {
    let mut named: Vec<_> = model.parameters().tensors().iter().collect();
    named.sort_by(|a, b| a.name.cmp(&b.name));
    for (index, parameter) in named.iter().enumerate() {
        let shape = parameter.tensor.size();
        let gain = f64::from(u8::from(
            shape.len() == 1 && parameter.name.ends_with(".weight"),
        ));
        let value = |i: usize| gain + (i as f64 * 0.37 + index as f64).sin() / 5.0;
        let values: Vec<f32> = (0..parameter.tensor.numel())
            .map(|i| value(i) as f32)
            .collect();
        let values = Tensor::from_slice(&values).view(&shape[..]);
        no_grad(|| parameter.tensor.shallow_clone().copy_(&values));
    }
}

fn assert_close(what: &str, ours: &Tensor, theirs: &[f64]) {
    let ours = Vec::<f32>::try_from(ours.narrow(0, 0, theirs.len() as i64)).unwrap();
    for (ours, theirs) in ours.iter().zip(theirs) {
        let difference = (f64::from(*ours) - theirs).abs();
        assert!(difference < 2e-5, "{what}: {ours} is not {theirs}");
    }
}

#[test]
fn every_family_computes_what_transformers_computes() {
    let answers: Answers = serde_json::from_str(include_str!("known_answers.json")).unwrap();
    assert!(answers.cases.len() > 8);
    let ids: Vec<i64> = answers.ids.concat();
    let tokens = Tensor::from_slice(&ids).view([answers.ids.len() as i64, -1]);
    for case in answers.cases {
        let model = build(&case.config, Device::Cpu, Seed(1)).unwrap();
        fill(&*model);
        let features = no_grad(|| model.features(&tokens, Pass::Evaluate)).unwrap();
        let logits = no_grad(|| model.head(&features)).unwrap(); // [B, T, V]
        assert_eq!(logits.size()[2], i64::from(case.config.vocab_size));
        for (row, [first, last]) in (0..).zip(&case.logits) {
            let of_row = logits.get(row);
            let last_place = of_row.size()[0] - 1;
            assert_close(&case.name, &of_row.get(0), first);
            assert_close(&case.name, &of_row.get(last_place), last);
        }
        let pooled = no_grad(|| model.pooled(&features)).unwrap();
        assert_eq!(pooled.is_some(), case.config.pooler);
        for (row, theirs) in (0..).zip(&case.pooled) {
            assert_close(&case.name, &pooled.as_ref().unwrap().get(row), theirs);
        }
    }
}
