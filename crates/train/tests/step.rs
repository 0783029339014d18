//! What a step does to the state.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{sequences, spec, step, trainer};
use muster_ops::Interrupt;
use muster_spec::{Dtype, RunSpec};
use muster_train::{SlotOrder, StepError};
use muster_types::Step;
use tch::Tensor;

fn gradients(parameters: &[Tensor]) -> Vec<Tensor> {
    parameters.iter().map(|p| p.grad().copy()).collect()
}

#[test]
fn four_slots_make_the_gradient_of_one_big_batch() {
    let (mut split, mut whole) = (trainer(&spec()), trainer(&spec()));
    for (trainer, micro) in [(&mut split, 2), (&mut whole, 8)] {
        trainer.begin_step().unwrap();
        for slot in 0..8 / micro {
            let batch = trainer.batch(&sequences(slot * micro, micro)).unwrap();
            trainer
                .forward_backward(&batch, Step(0), slot as u32, SlotOrder::More, None)
                .unwrap();
        }
    }
    let norm = whole.gradient_norm().unwrap();
    assert!((split.gradient_norm().unwrap() / norm - 1.0).abs() < 1e-5);
    for (a, b) in gradients(&split.parameters())
        .iter()
        .zip(gradients(&whole.parameters()))
    {
        let scale = b.abs().max().double_value(&[]).max(1e-3);
        assert!((a - &b).abs().max().double_value(&[]) / scale < 1e-5);
    }
}

#[test]
fn slots_and_big_batches_make_the_same_update_and_the_same_loss() {
    let (mut split, mut whole) = (trainer(&spec()), trainer(&spec()));
    let (loss_a, update_a) = step(&mut split, 7, 0, 8, 2);
    let (loss_b, update_b) = step(&mut whole, 7, 0, 8, 8);
    assert_eq!(loss_a.tokens, 8 * 12);
    assert!((loss_a.mean().unwrap() - loss_b.mean().unwrap()).abs() < 1e-5);
    assert!((update_a.gradient_norm / update_b.gradient_norm - 1.0).abs() < 1e-5);
    assert_eq!(update_a.learning_rate, update_b.learning_rate);
}

#[test]
fn training_lowers_the_loss_of_held_out_text_too() {
    let mut trainer = trainer(&spec());
    let held_out = trainer.batch(&sequences(1000, 4)).unwrap();
    let before = trainer.evaluate_slot(&held_out).unwrap().mean().unwrap();
    let losses: Vec<f64> = (0..30)
        .map(|s| {
            step(&mut trainer, s, 8 * s as usize, 8, 2)
                .0
                .mean()
                .unwrap()
        })
        .collect();
    let after = trainer.evaluate_slot(&held_out).unwrap().mean().unwrap();
    assert!((before - 48_f64.ln()).abs() < 0.2, "{before}");
    assert!(losses[29] < 0.7 * losses[0], "{losses:?}");
    assert!(after < 0.7 * before, "{before} to {after}");
}

#[test]
fn bf16_follows_fp32_at_a_distance() {
    let bf16 = RunSpec {
        train: muster_spec::TrainSpec {
            dtype: Dtype::Bf16,
            ..spec().train
        },
        ..spec()
    };
    let (mut half, mut full) = (trainer(&bf16), trainer(&spec()));
    for s in 0..5 {
        let (a, _) = step(&mut half, s, 8 * s as usize, 8, 2);
        let (b, _) = step(&mut full, s, 8 * s as usize, 8, 2);
        let (a, b) = (a.mean().unwrap(), b.mean().unwrap());
        assert!((a - b).abs() < 0.05 && a != b, "step {s}: {a} against {b}");
    }
    assert!(
        half.tensors()
            .unwrap()
            .iter()
            .filter(|named| !named.name.starts_with("guard."))
            .all(|named| named.tensor.kind() == tch::Kind::Float)
    );
}

#[test]
fn equal_specs_and_data_make_equal_states_and_seeds_differ() {
    let dropout = |seed| {
        let mut spec = spec();
        spec.model.dropout = 0.1;
        spec.train.seed = seed;
        spec
    };
    let run = |spec: &RunSpec| {
        let mut trainer = trainer(spec);
        for s in 0..5 {
            step(&mut trainer, s, 8 * s as usize, 8, 2);
        }
        trainer.state_hash().unwrap()
    };
    assert_eq!(run(&dropout(1)), run(&dropout(1)));
    assert_ne!(run(&dropout(1)), run(&dropout(2)));
}

#[test]
fn initialise_returns_to_the_first_state() {
    let mut trainer = trainer(&spec());
    let first = trainer.state_hash().unwrap();
    step(&mut trainer, 0, 0, 8, 2);
    let second = trainer.state_hash().unwrap();
    assert_ne!(first, second);
    trainer.initialise().unwrap();
    assert_eq!(trainer.state_hash().unwrap(), first);
    step(&mut trainer, 0, 0, 8, 2);
    assert_eq!(trainer.state_hash().unwrap(), second);
}

#[test]
fn a_dropped_step_leaves_no_trace() {
    let (mut straight, mut interrupted) = (trainer(&spec()), trainer(&spec()));
    let batch = interrupted.batch(&sequences(50, 2)).unwrap();
    interrupted.begin_step().unwrap();
    interrupted
        .forward_backward(&batch, Step(0), 0, SlotOrder::More, None)
        .unwrap();
    interrupted.drop_step().unwrap();
    assert!(interrupted.parameters().iter().all(|p| !p.grad().defined()));
    for trainer in [&mut straight, &mut interrupted] {
        step(trainer, 0, 0, 8, 2);
    }
    assert_eq!(
        straight.state_hash().unwrap(),
        interrupted.state_hash().unwrap()
    );
}

#[test]
fn a_gradient_that_is_not_finite_is_refused_before_it_spoils_anything() {
    let mut trainer = trainer(&spec());
    let before = trainer.state_hash().unwrap();
    let batch = trainer.batch(&sequences(0, 2)).unwrap();
    trainer.begin_step().unwrap();
    trainer
        .forward_backward(&batch, Step(3), 0, SlotOrder::Last, None)
        .unwrap();
    let _ = trainer.parameters()[5].grad().get(0).fill_(f64::NAN);
    assert!(!trainer.gradient_norm().unwrap().is_finite());
    let error = trainer.apply(Step(3), 24, 4.0).unwrap_err();
    assert!(
        matches!(error, StepError::NotFinite { step: Step(3), .. }),
        "{error}"
    );
    assert_eq!(trainer.state_hash().unwrap(), before);
}

#[test]
fn a_model_that_has_diverged_reports_its_slots() {
    let mut trainer = trainer(&spec());
    let _ = tch::no_grad(|| trainer.parameters()[0].fill_(f64::INFINITY));
    let batch = trainer.batch(&sequences(0, 2)).unwrap();
    trainer.begin_step().unwrap();
    let loss = trainer
        .forward_backward(&batch, Step(0), 0, SlotOrder::Last, None)
        .unwrap();
    assert_eq!((loss.nonfinite, loss.mean()), (1, None));
}

#[test]
fn a_step_without_slots_or_tokens_is_refused() {
    let mut trainer = trainer(&spec());
    let before = trainer.state_hash().unwrap();
    trainer.begin_step().unwrap();
    assert!(matches!(
        trainer.apply(Step(0), 10, 4.0),
        Err(StepError::NoGradients { .. })
    ));
    assert!(matches!(
        trainer.apply(Step(0), 0, 4.0),
        Err(StepError::NoTokens { .. })
    ));
    assert_eq!(trainer.state_hash().unwrap(), before);
}

#[test]
fn the_update_is_adamws_with_decay_on_matrices_alone() {
    // The first update moves every element by the learning rate against its gradient's sign, up to epsilon, after decay.
    let mut trainer = trainer(&spec());
    let before: Vec<Tensor> = trainer
        .parameters()
        .iter()
        .map(|p| p.detach().copy())
        .collect();
    let (_, update) = step(&mut trainer, 0, 0, 8, 2);
    assert!((update.learning_rate - 1e-2 / 5.0).abs() < 1e-12);
    let gradients = gradients(&trainer.parameters());
    for ((after, before), gradient) in trainer.parameters().iter().zip(&before).zip(&gradients) {
        let decay = if before.dim() >= 2 { 0.1 } else { 0.0 };
        let moved = update.learning_rate * (gradient / (gradient.abs() + 1e-8));
        let expected = before * (1.0 - update.learning_rate * decay) - moved;
        assert!((after.detach() - expected).abs().max().double_value(&[]) < 1e-6);
    }
    let state = trainer.tensors().unwrap();
    let count = state.iter().find(|it| it.name == "optimizer.step");
    let count = count.unwrap();
    assert_eq!(
        (count.name.as_str(), count.tensor.double_value(&[])),
        ("optimizer.step", 1.0)
    );
}

#[test]
fn clipping_bounds_the_gradient_that_the_moments_see() {
    let mut spec = spec();
    spec.optimizer.clip_norm = 0.01;
    let mut trainer = trainer(&spec);
    let (_, update) = step(&mut trainer, 0, 0, 8, 2);
    assert!(update.gradient_norm > 0.1);
    let clipped = gradients(&trainer.parameters());
    let norm = clipped
        .iter()
        .map(|g| g.square().sum(tch::Kind::Double).double_value(&[]))
        .sum::<f64>()
        .sqrt();
    assert!((norm / 0.01 - 1.0).abs() < 1e-3, "{norm}");
}

#[test]
fn a_step_may_be_given_up_at_any_gate_and_is_made_anew_to_the_bit() {
    let mut undisturbed = trainer(&spec());
    step(&mut undisturbed, 0, 0, 8, 4);
    let mut disturbed = trainer(&spec());
    let before = disturbed.state_hash().unwrap();
    let mut gates = 0;
    loop {
        let asked = Arc::new(AtomicUsize::new(0));
        let until = gates;
        let wanted = move |_| asked.fetch_add(1, Ordering::Relaxed) == until;
        disturbed.interrupt_when(Interrupt::when(wanted));
        let batch = disturbed.batch(&sequences(0, 4)).unwrap();
        disturbed.begin_step().unwrap();
        let outcome = disturbed.forward_backward(&batch, Step(0), 0, SlotOrder::Last, None);
        disturbed.drop_step().unwrap();
        assert_eq!(disturbed.state_hash().unwrap(), before);
        match outcome {
            Ok(_) => break,
            Err(error) => assert!(error.to_string().contains("interrupted"), "{error}"),
        }
        gates += 1;
    }
    // At the first activations, after each layer, and at the logits, forward and backward.
    let layers = spec().model.layers as usize;
    assert_eq!(gates, 2 * (layers + 2));
    disturbed.interrupt_when(Interrupt::default());
    step(&mut disturbed, 0, 0, 8, 4);
    assert_eq!(
        disturbed.state_hash().unwrap(),
        undisturbed.state_hash().unwrap()
    );
}
