//! The configurations that the repository ships.
#![allow(clippy::unwrap_used)]

use muster_arch::{ModelConfig, ParameterTable};
use muster_spec::{Dtype, Format, Objective, RunSpec, ScheduleKind, load};

fn shipped(name: &str) -> RunSpec {
    let path = format!("{}/../../configs/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let spec = load(&text, name, Format::of(&path).unwrap(), [], &[])
        .unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    assert!(spec.validate().is_ok());
    spec
}

fn parameters(model: &ModelConfig) -> u64 {
    ParameterTable::new(model).elements()
}

#[test]
fn the_quickstart_is_a_model_of_five_million_parameters_for_three_minutes() {
    let spec = shipped("quickstart.toml");
    assert_eq!(spec.name, "quickstart");
    let model = ModelConfig {
        vocab_size: 4096,
        ..spec.model.clone()
    };
    let count = parameters(&model);
    assert!((4_900_000..5_100_000).contains(&count), "{count}");
    let tokens = spec.train.steps
        * u64::from(spec.train.global_batch)
        * u64::from(spec.model.context_length);
    assert!(tokens <= 700_000, "{tokens}");
    assert_eq!((spec.workers.min, spec.workers.max), (1, 2));
    assert_eq!(spec.batch_slots(), 4);
}

#[test]
fn llama_135m_is_as_large_as_smollm2() {
    let spec = shipped("llama-135m.toml");
    assert_eq!(parameters(&spec.model), 134_515_008);
    assert_eq!(spec.train.dtype, Dtype::Bf16);
}

#[test]
fn bert_base_has_bert_bases_size_and_learns_masked_tokens() {
    let spec = shipped("bert-base.toml");
    assert_eq!(parameters(&spec.model), 109_514_298);
    assert_eq!(spec.train.objective, Objective::Masked);
}

#[test]
fn gpt2_124m_is_gpt2_small() {
    let spec = shipped("gpt2-124m.toml");
    // 124,439,808 with a vocabulary of 50,257 (Radford et al. 2019), and 47 more rows of 768.
    assert_eq!(parameters(&spec.model), 124_439_808 + 47 * 768);
    assert_eq!(spec.train.dtype, Dtype::Bf16);
    assert_eq!(spec.schedule.kind, ScheduleKind::Cosine);
    assert_eq!(spec.batch_slots(), 30);
}
