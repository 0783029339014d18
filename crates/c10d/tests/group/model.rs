//! A small model, and data-parallel training of it that checks itself.
use muster_c10d::{Group, Op, Reducer, ReducerOptions, ops};
use tch::{Device, Kind, Tensor};

pub const STEPS: u32 = 6;
const MICRO_BATCHES: u32 = 3;
const BATCH: i64 = 4;
const WIDTH: i64 = 8;

/// Four layers' weights and biases, the same in every process; none depends on the global generator.
pub fn parameters() -> Vec<Tensor> {
    let fill = |seed: i64, shape: &[i64]| {
        let count = shape.iter().product::<i64>();
        let values = (Tensor::arange(count, (Kind::Float, Device::Cpu)) + seed * 1000).sin() * 0.3;
        values.reshape(shape).set_requires_grad(true)
    };
    (0..4)
        .flat_map(|i| [fill(2 * i, &[WIDTH, WIDTH]), fill(2 * i + 1, &[WIDTH])])
        .collect()
}

/// The loss of one micro-batch, summed over its rows.
pub fn loss(parameters: &[Tensor], step: u32, micro_batch: u32, rank: u32) -> Tensor {
    let seed = i64::from((step * MICRO_BATCHES + micro_batch) * 64 + rank);
    let mut rows = ((Tensor::arange(BATCH * WIDTH, (Kind::Float, Device::Cpu)) + seed * 37) * 0.7)
        .cos()
        .reshape([BATCH, WIDTH]);
    for layer in parameters.chunks(2) {
        rows = (rows.matmul(&layer[0]) + &layer[1]).tanh();
    }
    rows.square().sum(Kind::Float)
}

/// Buckets small enough that there are several.
pub fn reducer(group: &Group, parameters: &[Tensor]) -> Reducer {
    let options = ReducerOptions {
        first_bucket_bytes: 64,
        bucket_bytes: 512,
    };
    Reducer::new(group, parameters, options).unwrap()
}

/// What a step of this rank can end with.
pub type Outcome = Result<(), String>;

/// One rank's gradients of one step, summed over ranks: only the last micro-batch reduces.
pub fn backward(reducer: &Reducer, parameters: &[Tensor], step: u32, rank: u32) -> Outcome {
    for micro_batch in 0..MICRO_BATCHES {
        reducer
            .prepare_forward()
            .map_err(|error| error.to_string())?;
        let loss = loss(parameters, step, micro_batch, rank);
        if micro_batch + 1 == MICRO_BATCHES {
            reducer
                .prepare_backward(&[&loss])
                .map_err(|error| error.to_string())?;
        }
        loss.f_backward().map_err(|error| error.to_string())?;
    }
    Ok(())
}

pub fn gradients(parameters: &[Tensor]) -> Vec<Tensor> {
    parameters.iter().map(Tensor::grad).collect()
}

/// What one process gets over the micro-batches of all ranks, without a reducer.
pub fn expected(parameters: &[Tensor], step: u32, ranks: u32) -> Vec<Tensor> {
    let copies: Vec<Tensor> = parameters
        .iter()
        .map(|p| p.detach().copy().set_requires_grad(true))
        .collect();
    for rank in 0..ranks {
        for micro_batch in 0..MICRO_BATCHES {
            loss(&copies, step, micro_batch, rank).backward();
        }
    }
    gradients(&copies)
}

/// The largest relative difference, in norms.
pub fn difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let relative = |(a, b): (&Tensor, &Tensor)| {
        (a - b).norm().double_value(&[]) / b.norm().double_value(&[]).max(1e-12)
    };
    a.iter().zip(b).map(relative).fold(0.0, f64::max)
}

pub fn update(parameters: &[Tensor], gradients: &[Tensor]) {
    tch::no_grad(|| {
        for (parameter, gradient) in parameters.iter().zip(gradients) {
            let _ = parameter
                .shallow_clone()
                .f_sub_(&(gradient * 0.01))
                .unwrap();
        }
    });
}

/// One step of training. Its only collectives are those of the backward pass.
pub fn step(reducer: &Reducer, parameters: &[Tensor], step: u32, group: &Group) -> Outcome {
    backward(reducer, parameters, step, group.rank())?;
    let summed = gradients(parameters);
    let difference = difference(&summed, &expected(parameters, step, group.size()));
    if difference > 1e-5 {
        return Err(format!("step {step}: gradients differ by {difference:e}"));
    }
    update(parameters, &summed);
    ops::zero(&summed)
}

/// Trains, and checks each step: gradients are the sums, and all ranks hold the same bits.
pub fn train(group: &Group) -> Outcome {
    let parameters = parameters();
    let reducer = reducer(group, &parameters);
    for number in 0..STEPS {
        step(&reducer, &parameters, number, group)?;
        same_bits(group, &parameters)?;
    }
    Ok(())
}

/// Trains until something fails, and says what.
pub fn train_for_ever(group: &Group) -> String {
    let parameters = parameters();
    let reducer = reducer(group, &parameters);
    (0..)
        .find_map(|number| step(&reducer, &parameters, number, group).err())
        .unwrap_or_default()
}

/// Whether all ranks hold the same bits: as integers, their smallest is their largest.
fn same_bits(group: &Group, parameters: &[Tensor]) -> Outcome {
    for parameter in parameters {
        let bits = parameter.detach().view_dtype(Kind::Int);
        let (low, high) = (bits.copy(), bits.copy());
        group
            .all_reduce(&low, Op::Min)
            .map_err(|error| error.to_string())?;
        group
            .all_reduce(&high, Op::Max)
            .map_err(|error| error.to_string())?;
        if low != high {
            return Err("ranks hold different parameters".into());
        }
    }
    Ok(())
}
