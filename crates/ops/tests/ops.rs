//! Each operation against the same thing written out with tch.
#![allow(clippy::unwrap_used, missing_docs)]
use std::panic::{AssertUnwindSafe, catch_unwind};

use muster_ops::*;
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Values that look random and do not use the global generator.
fn values(seed: i64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>();
    ((Tensor::arange(count, FLOAT) + 17 * seed) * 1.7)
        .sin()
        .reshape(shape)
}

fn list(seed: i64) -> Vec<Tensor> {
    vec![
        values(seed, &[5, 3]),
        values(seed + 1, &[7]),
        values(seed + 2, &[2, 2, 2]),
    ]
}

fn copies(of: &[Tensor]) -> Vec<Tensor> {
    of.iter().map(Tensor::copy).collect()
}

fn largest_difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let largest = |(a, b): (&Tensor, &Tensor)| (a - b).abs().max().double_value(&[]);
    a.iter().zip(b).map(largest).fold(0.0, f64::max)
}

fn number(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

const ADAMW: AdamwOptions = AdamwOptions {
    learning_rate: 3e-2,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
};

/// Algorithm 2 of "Decoupled Weight Decay Regularization".
fn reference(p: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, step: i32) -> [Tensor; 3] {
    let o = ADAMW;
    let m = m * o.beta1 + g * (1.0 - o.beta1);
    let v = v * o.beta2 + g * g * (1.0 - o.beta2);
    let m_hat = &m / (1.0 - o.beta1.powi(step));
    let v_hat = &v / (1.0 - o.beta2.powi(step));
    let p = p * (1.0 - o.learning_rate * o.weight_decay)
        - m_hat / (v_hat.sqrt() + o.epsilon) * o.learning_rate;
    [p, m, v]
}

#[test]
fn fused_adamw_is_adamw() {
    let zeros = || list(0).iter().map(Tensor::zeros_like).collect::<Vec<_>>();
    let params: Vec<Tensor> = list(1)
        .into_iter()
        .map(|p| p.set_requires_grad(true))
        .collect();
    let (m, v) = (zeros(), zeros());
    let (mut p_ref, mut m_ref, mut v_ref) = (
        params.iter().map(|p| p.detach().copy()).collect::<Vec<_>>(),
        zeros(),
        zeros(),
    );
    for number in 1..=5 {
        let grads = list(100 * i64::from(number));
        let step = Tensor::from(number as f32);
        fused_adamw(&params, &grads, &m, &v, &step, &ADAMW).unwrap();
        assert_eq!(step.double_value(&[]), f64::from(number));
        for i in 0..params.len() {
            [p_ref[i], m_ref[i], v_ref[i]] =
                reference(&p_ref[i], &grads[i], &m_ref[i], &v_ref[i], number);
        }
        let params: Vec<Tensor> = params.iter().map(Tensor::detach).collect();
        assert!(largest_difference(&params, &p_ref) < 1e-6, "step {number}");
        assert!(largest_difference(&m, &m_ref) < 1e-6 && largest_difference(&v, &v_ref) < 1e-6);
    }
}

#[test]
fn fused_adamw_refuses_what_does_not_fit_and_changes_nothing() {
    let (params, step) = (list(1), Tensor::from(1f32));
    let before = copies(&params);
    let good = || list(2);
    let short = &good()[..2];
    let mut wrong = good();
    wrong[1] = values(9, &[8]);
    let undefined = vec![Tensor::new(), values(1, &[7]), values(2, &[2, 2, 2])];
    let whole = Tensor::from(1i64);
    let refused = |error: Result<(), OpsError>, words: &str| {
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(words) && error.starts_with("fused AdamW: "),
            "{error}"
        );
    };
    let run = |grads: &[Tensor], m: &[Tensor], step: &Tensor| {
        fused_adamw(&params, grads, m, &good(), step, &ADAMW)
    };
    refused(run(short, &good(), &step), "2 grads for 3 params");
    refused(run(&good(), &wrong, &step), "exp_avg[1]");
    refused(run(&undefined, &good(), &step), "grads[0]");
    refused(run(&good(), &good(), &whole), "step is Int64");
    assert_eq!(largest_difference(&params, &before), 0.0);
    fused_adamw(&[], &[], &[], &[], &step, &ADAMW).unwrap();
}

#[test]
fn the_norm_is_that_of_all_elements() {
    let tensors = list(3);
    let flat = Tensor::cat(
        &tensors.iter().map(|t| t.reshape([-1])).collect::<Vec<_>>(),
        0,
    );
    let norm = global_norm(&tensors).unwrap();
    assert_eq!((norm.size(), norm.kind()), (vec![], Kind::Float));
    assert!((number(&norm) - number(&flat.norm())).abs() < 1e-5);
    let half: Vec<Tensor> = tensors.iter().map(|t| t.to_kind(Kind::BFloat16)).collect();
    let norm = global_norm(&half).unwrap();
    assert_eq!(norm.kind(), Kind::Float);
    assert!((number(&norm) / number(&flat.norm()) - 1.0).abs() < 1e-2);
    assert_eq!(number(&global_norm(&[]).unwrap()), 0.0);
}

#[test]
fn clipping_bounds_the_norm_and_keeps_the_direction() {
    let grads = list(4);
    let before = copies(&grads);
    let norm = number(&clip_grad_norm(&grads, 0.5).unwrap());
    assert!((norm - number(&global_norm(&before).unwrap())).abs() < 1e-6);
    assert!(norm > 0.5);
    assert!((number(&global_norm(&grads).unwrap()) - 0.5).abs() < 1e-5);
    let expected: Vec<Tensor> = before.iter().map(|g| g * (0.5 / norm)).collect();
    assert!(largest_difference(&grads, &expected) < 1e-6);
    // A norm below the bound changes nothing.
    let kept = copies(&grads);
    assert!(number(&clip_grad_norm(&grads, 10.0).unwrap()) < 1.0);
    assert_eq!(largest_difference(&grads, &kept), 0.0);
    let infinite = [Tensor::from_slice(&[f32::INFINITY, 1.0])];
    assert!(number(&clip_grad_norm(&infinite, 1.0).unwrap()).is_infinite());
}

#[test]
fn lists_are_scaled_zeroed_and_copied_in_place() {
    let tensors = list(5);
    let expected: Vec<Tensor> = tensors.iter().map(|t| t * 0.25).collect();
    let places: Vec<_> = tensors.iter().map(Tensor::data_ptr).collect();
    scale_(&tensors, 0.25).unwrap();
    assert!(largest_difference(&tensors, &expected) < 1e-7);
    zero_(&tensors).unwrap();
    assert_eq!(number(&global_norm(&tensors).unwrap()), 0.0);
    let source: Vec<Tensor> = list(6).iter().map(|t| t.to_kind(Kind::Double)).collect();
    copy_(&tensors, &source).unwrap();
    assert!(largest_difference(&tensors, &list(6)) < 1e-7);
    assert_eq!(
        places,
        tensors.iter().map(Tensor::data_ptr).collect::<Vec<_>>()
    );
    assert!(
        copy_(&tensors, &source[..2])
            .unwrap_err()
            .to_string()
            .contains("2 tensors into 3")
    );
    let error = copy_(&tensors[..1], &source[1..2]).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    for empty in [
        scale_(&[], 2.0),
        zero_(&[]),
        copy_(&[], &[]),
        clear_grads(&[]),
    ] {
        empty.unwrap();
    }
}

#[test]
fn parameters_in_the_graph_can_be_changed() {
    let param = values(1, &[3]).set_requires_grad(true);
    copy_(&[param.shallow_clone()], &[values(2, &[3])]).unwrap();
    zero_(&[param.shallow_clone()]).unwrap();
    assert!(param.is_leaf() && param.requires_grad());
}

#[test]
fn cleared_gradients_are_undefined() {
    let param = values(1, &[3]).set_requires_grad(true);
    (&param * 2).sum(Kind::Float).backward();
    assert!(param.grad().defined());
    clear_grads(&[param.shallow_clone()]).unwrap();
    assert!(!param.grad().defined());
    (&param * 3).sum(Kind::Float).backward();
    assert_eq!(Vec::<f32>::try_from(param.grad()).unwrap(), [3.0; 3]);
}

#[test]
fn autocast_ends_with_its_region_in_whatever_way() {
    let matrix = values(1, &[4, 4]);
    let kind = || matrix.matmul(&matrix).kind();
    let cast = |body: &dyn Fn() -> Kind| autocast(Device::Cpu, Kind::BFloat16, body).unwrap();
    assert_eq!(cast(&kind), Kind::BFloat16);
    assert_eq!(kind(), Kind::Float);
    // Nested regions end one by one.
    let nested = || {
        assert_eq!(autocast(Device::Cpu, Kind::Half, kind).unwrap(), Kind::Half);
        kind()
    };
    assert_eq!(cast(&nested), Kind::BFloat16);
    let panicked = catch_unwind(AssertUnwindSafe(|| cast(&|| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(kind(), Kind::Float);
    let error = autocast(Device::Cpu, Kind::Float, kind)
        .unwrap_err()
        .to_string();
    assert!(error.contains("Float"), "{error}");
}

#[test]
fn a_restored_generator_draws_the_same() {
    let draw = || Vec::<f32>::try_from(Tensor::rand([5], FLOAT)).unwrap();
    let state = rng_state(Device::Cpu).unwrap();
    let first = draw();
    let second = draw();
    assert_ne!(first, second);
    set_rng_state(Device::Cpu, &state).unwrap();
    assert_eq!((draw(), draw()), (first, second));
    assert!(set_rng_state(Device::Cpu, &values(1, &[3])).is_err());
    assert!(rng_state(Device::Mps).is_err());
}

#[test]
fn the_fingerprint_follows_the_switches() {
    let before = numerics_fingerprint();
    assert!(before.starts_with("libtorch=2.11.0"), "{before}");
    for part in [
        "build=",
        "isa=",
        "threads=",
        "deterministic=0",
        "matmul=highest",
    ] {
        assert!(before.contains(part), "{before}");
    }
    assert!(!before.contains('\n'));
    assert_eq!(before, numerics_fingerprint());
    set_deterministic(Determinism::Strict).unwrap();
    set_matmul_precision(MatmulPrecision::High).unwrap();
    let strict = numerics_fingerprint();
    set_deterministic(Determinism::Off).unwrap();
    set_matmul_precision(MatmulPrecision::Highest).unwrap();
    assert!(
        strict.contains("deterministic=1") && strict.contains("matmul=high"),
        "{strict}"
    );
    assert_eq!(before, numerics_fingerprint());
    assert!(parallel_info().contains("ATen"), "{}", parallel_info());
}
