//! How layers stand over each other, and that a spec survives being written and read.
#![allow(clippy::unwrap_used)]

use muster_spec::{
    CheckpointSpec, DataSpec, DeviceKind, Dtype, EvaluationSpec, Format, NetworkSpec,
    OptimizerSpec, QueueSpec, RunSpec, ScheduleKind, ScheduleSpec, TrainSpec, WorkersSpec, load,
    schema, to_toml,
};
use proptest::prelude::*;

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn each_layer_stands_over_the_one_before() {
    let text =
        "name = \"123\"\n[data]\npath = \"d\"\n[train]\nsteps = 10\nseed = 10\nglobal_batch = 8\n";
    let environment = pairs(&[
        ("MUSTER__TRAIN__SEED", "20"),
        ("MUSTER__TRAIN__STEPS", "20"),
        ("MUSTER_COORDINATOR", "http://127.0.0.1:1"),
        ("MUSTER_TRAIN_STEPS", "99"),
        ("PATH", "/bin"),
    ]);
    let overrides = pairs(&[
        ("train.seed", "29"),
        ("train.seed", "30"),
        ("name", "7"),
        ("optimizer.learning_rate", "1"),
    ]);
    let spec = load(text, "f", Format::Toml, environment, &overrides).unwrap();
    assert_eq!(
        spec.train.global_batch, 8,
        "the file stands over the defaults"
    );
    assert_eq!(spec.train.steps, 20, "the environment over the file");
    assert_eq!(
        spec.train.seed, 30,
        "overrides over the environment, the last one over the others"
    );
    assert_eq!(spec.name, "7", "text stays text, whatever it looks like");
    assert_eq!(
        spec.optimizer.learning_rate, 1.0,
        "a whole number is a number too"
    );
    assert_eq!(spec.train.micro_batch, RunSpec::default().train.micro_batch);
}

#[test]
fn the_three_formats_say_the_same() {
    let toml = "[data]\npath = \"d\"\n[train]\nsteps = 10\n[optimizer]\nlearning_rate = 1e-3\n[model]\nheads = 8\n";
    let yaml = "data:\n  path: d\ntrain:\n  steps: 10\noptimizer:\n  learning_rate: 0.001\nmodel: {heads: 8}\nworkers:\n";
    let json = r#"{"data":{"path":"d"},"train":{"steps":10},"optimizer":{"learning_rate":1e-3},"model":{"heads":8}}"#;
    let read = |text, format| load(text, "f", format, [], &[]).unwrap();
    let spec = read(toml, Format::Toml);
    assert_eq!(spec.train.steps, 10);
    assert_eq!(spec.model.heads, 8);
    assert_eq!(read(yaml, Format::Yaml), spec);
    assert_eq!(read(json, Format::Json), spec);
}

#[test]
fn the_format_is_that_of_the_extension() {
    for (path, format) in [
        ("configs/a.toml", Format::Toml),
        ("a.b.yaml", Format::Yaml),
        ("/x/a.yml", Format::Yaml),
        ("a.json", Format::Json),
    ] {
        assert_eq!(Format::of(path).unwrap(), format, "{path}");
    }
    for path in ["a.txt", "toml", ".toml", ""] {
        assert!(
            Format::of(path).unwrap_err().fix.contains(".toml"),
            "{path}"
        );
    }
}

#[test]
fn a_priority_may_be_negative_in_every_layer() {
    let text = "[data]\npath = \"d\"\n[queue]\npriority = -7\n";
    let read = |environment: &[(&str, &str)], set: &[(&str, &str)]| {
        let (environment, set) = (pairs(environment), pairs(set));
        let spec = load(text, "run.toml", Format::Toml, environment, &set);
        spec.unwrap().queue.priority
    };
    assert_eq!(read(&[], &[]), -7);
    assert_eq!(read(&[("MUSTER__QUEUE__PRIORITY", "-100")], &[]), -100);
    assert_eq!(read(&[], &[("queue.priority", "-8")]), -8);
}

#[test]
fn the_schema_refuses_unknown_keys_and_carries_the_documentation() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(
        schema["$defs"]["TrainSpec"]["properties"]["steps"]["minimum"],
        1
    );
    assert!(
        schema["$defs"]["TrainSpec"]["properties"]["steps"]["description"]
            .as_str()
            .unwrap()
            .contains("Optimizer")
    );
}

fn optimizer() -> impl Strategy<Value = OptimizerSpec> {
    (
        1e-12..10.0f64,
        0.0..1.0f64,
        0.0..1.0f64,
        1e-30..1.0f64,
        0.0..10.0f64,
        0.0..1e9f64,
    )
        .prop_map(
            |(learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm)| OptimizerSpec {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                clip_norm,
                ..OptimizerSpec::default()
            },
        )
}

fn schedule(steps: u64) -> impl Strategy<Value = ScheduleSpec> {
    let kinds = [
        ScheduleKind::Cosine,
        ScheduleKind::Linear,
        ScheduleKind::Wsd,
        ScheduleKind::Constant,
    ];
    (prop::sample::select(kinds.to_vec()), 0..steps, 0.0..=1.0f64).prop_flat_map(
        move |(kind, warmup_steps, min_ratio)| {
            let decay = if kind == ScheduleKind::Wsd {
                1..=steps - warmup_steps
            } else {
                0..=0
            };
            decay.prop_map(move |decay_steps| ScheduleSpec {
                kind,
                warmup_steps,
                min_ratio,
                decay_steps,
            })
        },
    )
}

prop_compose! {
    fn valid_spec()(steps in 1..1u64 << 40)(
        schedule in schedule(steps),
        optimizer in optimizer(),
        name in "[a-zA-Z0-9 \"'#=._äß-]{0,12}x",
        path in "[a-z/\\\\\" é]{0,20}x",
        (micro_batch, slots) in (1..1000u32, 1..1000u32),
        (min, max) in (0.0..1.0f64, 0.0..1.0f64),
        seed in 0..=i64::MAX as u64,
        steps in Just(steps),
        (heads, width, dropout) in (1..64u32, 1..64u32, 0.0..1.0f64),
        dtype in prop::sample::select(&[Dtype::Fp32, Dtype::Bf16][..]),
        spares in 0..=u32::MAX,
        device in prop::sample::select(&[DeviceKind::Auto, DeviceKind::Cpu, DeviceKind::Cuda][..]),
        uri in prop::sample::select(&["", "runs/a", "file:///mnt/x"][..]),
        interface in prop::sample::select(&["", "ib0", "enp3s0f1"][..]),
        (priority, user, grace) in (-100..=100i32, "[a-z.@-]{0,9}", 1..=u32::MAX),
    ) -> RunSpec {
        let max = 1 + (max * f64::from(slots - 1)) as u32;
        let min = 1 + (min * f64::from(max - 1)) as u32;
        let mut spec = RunSpec {
            name,
            data: DataSpec { path },
            train: TrainSpec { steps, global_batch: micro_batch * slots, micro_batch, seed, dtype, ..TrainSpec::default() },
            optimizer,
            schedule,
            evaluation: EvaluationSpec { every_steps: steps / 3, sequences: slots },
            workers: WorkersSpec { min, max, spares, device, ..WorkersSpec::default() },
            checkpoint: CheckpointSpec { uri: uri.into(), ..CheckpointSpec::default() },
            queue: QueueSpec { priority, user, preempt_grace_seconds: grace },
            network: NetworkSpec { interface: interface.into() },
            ..RunSpec::default()
        };
        spec.model.heads = heads;
        spec.model.hidden_size = heads * width;
        spec.model.dropout = dropout;
        spec
    }
}

proptest! {
    #[test]
    fn a_written_spec_reads_back_as_it_was(spec in valid_spec()) {
        prop_assert!(spec.validate().is_ok(), "{:?}", spec.validate());
        let text = to_toml(&spec);
        let read = load(&text, "spec.toml", Format::Toml, [], &[]);
        prop_assert_eq!(&read.unwrap(), &spec, "through TOML:\n{}", text);
        let json = serde_json::to_string(&spec).unwrap();
        let again: RunSpec = serde_json::from_str(&json).unwrap();
        prop_assert!(again.validate().is_ok());
    }
}
