//! Trains the reference task of `bench/reference` with this crate's trainer and writes its curve.
//!
//! The task (`bench/reference/lm_reference.py`): tokens are little-endian u16; row r of step s starts at
//! `splitmix64(order_seed · 2^32 + s · batch + r) mod (length - context - 1)` of `train.bin`; validation is the mean loss
//! over the first windows of `val.bin`, window i starting at `i · context`.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Parser;
use muster_arch::ModelConfig;
use muster_model::counter;
use muster_spec::{Dtype, OptimizerSpec, RunSpec, ScheduleSpec, TrainSpec};
use muster_train::{SlotLoss, SlotOrder, Trainer, numerics};
use muster_types::Step;
use safetensors::SafeTensors;
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

#[derive(Parser)]
struct Options {
    /// Directory with train.bin and val.bin.
    #[arg(long)]
    data: PathBuf,
    /// Initial weights, as lm_reference.py saves them; without it, the weights that --seed names.
    #[arg(long)]
    init: Option<PathBuf>,
    /// Steps to train.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Steps that the schedule is laid out for.
    #[arg(long, default_value_t = 300)]
    schedule_steps: u64,
    /// Sequences a forward pass; divides 16.
    #[arg(long, default_value_t = 16)]
    micro_batch: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 1)]
    order_seed: u64,
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// bfloat16 autocast.
    #[arg(long)]
    bf16: bool,
    /// Train on the first GPU.
    #[arg(long)]
    cuda: bool,
    #[arg(long, default_value_t = 100)]
    eval_every: u64,
    #[arg(long, default_value_t = 64)]
    eval_rows: usize,
    /// Where the curve goes.
    #[arg(long)]
    out: PathBuf,
}

const BATCH: usize = 16;
const CONTEXT: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let device = if options.cuda {
        muster_c10d::cuda::load()?;
        Device::Cuda(0)
    } else {
        Device::Cpu
    };
    let fingerprint = numerics::configure(device, options.threads)?;
    let (train, validation) = (
        read(&options.data.join("train.bin"))?,
        read(&options.data.join("val.bin"))?,
    );
    let mut trainer = Trainer::new(&spec(&options), device)?;
    if let Some(path) = &options.init {
        load_init(&trainer, path)?;
    }

    let mut val_loss = BTreeMap::from([(0, evaluate(&trainer, &validation, options.eval_rows)?)]);
    let (mut train_loss, mut grad_norm) = (vec![], vec![]);
    let started = Instant::now();
    for step in 0..options.steps {
        trainer.begin_step()?;
        let micro = options.micro_batch as usize;
        let slots = BATCH / micro;
        let mut loss = SlotLoss::default();
        for slot in 0..slots {
            let first = step * BATCH as u64 + (slot * micro) as u64;
            let ids = rows(&train, options.order_seed, first, micro);
            let order = if slot + 1 == slots {
                SlotOrder::Last
            } else {
                SlotOrder::More
            };
            let batch = trainer.batch(&ids)?;
            loss += trainer.forward_backward(&batch, Step(step), slot as u32, order, None)?;
        }
        let update = trainer.apply(Step(step), loss.tokens, loss.mean().unwrap_or(f64::NAN))?;
        train_loss.push(loss.mean());
        grad_norm.push(update.gradient_norm);
        let done = step + 1;
        if done % options.eval_every == 0 || done == options.steps {
            val_loss.insert(done, evaluate(&trainer, &validation, options.eval_rows)?);
        }
        if done % 10 == 0 {
            eprintln!("step {done}: loss {:.4}", loss.mean().unwrap_or(f64::NAN));
        }
    }
    let tokens = options.steps as f64 * (BATCH * CONTEXT) as f64;
    let curve = json!({
        "implementation": "muster",
        "args": {
            "init": if options.init.is_some() { "reference" } else { "own" }, "steps": options.steps,
            "schedule_steps": options.schedule_steps, "batch": BATCH, "micro_batch": options.micro_batch,
            "seed": options.seed, "order_seed": options.order_seed, "threads": options.threads,
            "dtype": if options.bf16 { "bf16" } else { "fp32" }, "eval_rows": options.eval_rows,
        },
        "hardware": { "cpu": cpu_model(), "device": format!("{device:?}") },
        "numerics_fingerprint": fingerprint,
        "tokens_per_second": tokens / started.elapsed().as_secs_f64(),
        "train_loss": train_loss,
        "grad_norm": grad_norm,
        "val_loss": val_loss,
    });
    if let Some(parent) = options.out.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&options.out, curve.to_string())?;
    println!(
        "{:.0} tokens/s; validation {val_loss:?}",
        tokens / started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The reference task as a run spec.
fn spec(options: &Options) -> RunSpec {
    RunSpec {
        model: ModelConfig {
            layers: 4,
            heads: 4,
            hidden_size: 256,
            context_length: CONTEXT as u32,
            vocab_size: 8192,
            ..ModelConfig::default()
        },
        train: TrainSpec {
            steps: options.schedule_steps,
            global_batch: BATCH as u32,
            micro_batch: options.micro_batch,
            seed: options.seed,
            dtype: if options.bf16 {
                Dtype::Bf16
            } else {
                Dtype::Fp32
            },
            ..TrainSpec::default()
        },
        optimizer: OptimizerSpec {
            learning_rate: 1e-3,
            ..OptimizerSpec::default()
        },
        schedule: ScheduleSpec {
            warmup_steps: 30,
            min_ratio: 0.1,
            ..ScheduleSpec::default()
        },
        ..RunSpec::default()
    }
}

fn read(path: &Path) -> Result<Vec<i64>, Box<dyn Error>> {
    let bytes =
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]).into())
        .collect())
}

/// Rows `first ..` of the task's data order.
fn rows(tokens: &[i64], order_seed: u64, first: u64, count: usize) -> Vec<i64> {
    let starts = (tokens.len() - CONTEXT - 1) as u64;
    (first..first + count as u64)
        .flat_map(|row| {
            let start = (counter::bits((order_seed << 32) + row, 0) % starts) as usize;
            tokens[start..=start + CONTEXT].iter().copied()
        })
        .collect()
}

fn evaluate(trainer: &Trainer, tokens: &[i64], rows: usize) -> Result<f64, Box<dyn Error>> {
    let rows = rows.min((tokens.len() - 1) / CONTEXT);
    let windows: Vec<i64> = (0..rows)
        .flat_map(|row| &tokens[row * CONTEXT..=(row + 1) * CONTEXT])
        .copied()
        .collect();
    let mut loss = SlotLoss::default();
    for slot in windows.chunks(BATCH * (CONTEXT + 1)) {
        loss += trainer.evaluate_slot(&trainer.batch(slot)?)?;
    }
    Ok(loss.mean().ok_or("the validation loss is not finite")?)
}

/// Copies the reference's weights into the model. Its Linear layers hold \[out, in\], ours \[in, out\].
fn load_init(trainer: &Trainer, path: &Path) -> Result<(), Box<dyn Error>> {
    let bytes =
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let weights = SafeTensors::deserialize(&bytes)?;
    for named in trainer.model().parameters().tensors() {
        let (name, transposed) = reference_name(&named.name);
        let view = weights.tensor(&name)?;
        let shape: Vec<i64> = view.shape().iter().map(|&extent| extent as i64).collect();
        let mut value = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?;
        if transposed {
            value = value.f_transpose(0, 1)?;
        }
        if value.size() != named.tensor.size() {
            return Err(format!(
                "{name} is {:?} where {} is {:?}",
                value.size(),
                named.name,
                named.tensor.size()
            )
            .into());
        }
        no_grad(|| named.tensor.shallow_clone().f_copy_(&value))?;
    }
    Ok(())
}

/// A parameter's name in `gpt.py`, and whether it lies transposed there.
fn reference_name(name: &str) -> (String, bool) {
    let renamed = [
        ("transformer.", ""),
        ("ln_f", "lnf"),
        ("ln_1", "ln1"),
        ("ln_2", "ln2"),
        ("attn.c_attn", "qkv"),
        ("attn.c_proj", "proj"),
        ("mlp.c_fc", "fc"),
        ("mlp.c_proj", "out"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (ours, theirs)| {
        name.replace(ours, theirs)
    });
    let transposed = name.contains(".c_") && name.ends_with("weight");
    (renamed, transposed)
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    format!(
        "{}, {cores} cores",
        model.trim_start_matches([' ', '\t', ':'])
    )
}
