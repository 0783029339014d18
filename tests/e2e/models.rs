//! Models other than the usual one, in and out: families, masked training, Hugging Face's directories, starting weights.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    Bench, assert_one_history, eventually, members, output, send, status, stdout, training,
};

const STEPS: u64 = 400;
const MASKED: [&str; 4] = [
    "--set",
    "model.family=bert",
    "--set",
    "train.objective=masked",
];

/// The last held-out loss of a run.
fn held_out(bench: &Bench, out: &str) -> f64 {
    let lines = fs::read_to_string(bench.path(out).join("evaluations.jsonl")).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    last["validation_loss"].as_f64().unwrap()
}

/// A command that has to be refused as bad input; what it says.
fn refused(arguments: &[&str]) -> String {
    let output = output(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    said
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_bert_whose_worker_is_killed_learns_the_same_masked_tokens() {
    let bench = Bench::new();
    let long = format!("train.steps={STEPS}");
    let more = ["--set", "train.reduction=canonical", "--set", &long];
    let with = |workers| [MASKED.as_slice(), &more, &["--workers", workers]].concat();
    bench.run_through("alone", &with("1"));

    let mut run = bench.run("disturbed", &with("2"));
    let url = run.url();
    let pids = training(&url, 2, 20);
    send(pids[1], Signal::SIGKILL);
    eventually("the replacement", || {
        let now = members(&status(&url));
        (now.len() == 2 && !now.contains(&pids[1])).then_some(())
    });
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("disturbed"), STEPS);
    assert_eq!(bench.hash("disturbed"), bench.hash("alone"));
    assert_eq!(held_out(&bench, "disturbed"), held_out(&bench, "alone"));
    let metrics = bench.metrics("alone");
    let loss = |index: usize| metrics[index]["loss"].as_f64().unwrap();
    assert!(loss(0) > 5.0 && loss(STEPS as usize - 1) < 3.5);

    let said = refused(&[
        "generate",
        "--checkpoint",
        &bench.text("alone"),
        "--prompt",
        "x",
    ]);
    assert!(said.contains("names masked tokens"), "{said}");
}

#[test]
fn a_model_goes_out_to_hugging_face_and_comes_back_as_it_was() {
    let bench = Bench::new();
    let families: [&[&str]; 3] = [
        &["--set", "model.family=gpt2"],
        &[
            "--set",
            "model.family=llama",
            "--set",
            "model.kv_heads=1",
            "--set",
            "model.tie_embeddings=false",
        ],
        &MASKED,
    ];
    let ids = bench.text("ids.json");
    fs::write(&ids, json!([[1, 2, 3, 4], [200, 9, 256, 0]]).to_string()).unwrap();
    for (number, family) in families.into_iter().enumerate() {
        let [run, out, back] = ["run", "hf", "ckpt"].map(|name| format!("{name}{number}"));
        let more = [family, &["--workers", "1", "--set", "train.steps=10"]].concat();
        bench.run_through(&run, &more);
        let [run, out, back] = [run, out, back].map(|name| bench.text(&name));
        stdout(&["export", "hf", &run, "--out", &out]);
        stdout(&["import", "hf", &out, "--out", &back]);
        stdout(&["checkpoint", "verify", &back]);
        stdout(&["checkpoint", "hash", &back]);
        let logits = |model: &str| {
            let file = bench.text("logits.safetensors");
            stdout(&[
                "eval", "logits", "--model", model, "--ids", &ids, "--out", &file,
            ]);
            fs::read(file).unwrap()
        };
        assert_eq!(logits(&run), logits(&back), "{family:?}");
        if number < 2 {
            let text = |model: &str| {
                stdout(&[
                    "generate",
                    "--checkpoint",
                    model,
                    "--prompt",
                    "line ",
                    "--greedy",
                ])
            };
            assert_eq!(text(&run), text(&back));
        }
        // Nothing is put in place of what is there.
        let said = refused(&["import", "hf", &out, "--out", &back]);
        assert!(said.contains("is there already"), "{said}");
    }
}

#[test]
fn what_is_no_known_model_is_refused_by_name_and_nothing_is_left() {
    let bench = Bench::new();
    bench.run_through("run", &["--workers", "1", "--set", "train.steps=2"]);
    let (out, back) = (bench.text("hf"), bench.text("ckpt"));
    stdout(&["export", "hf", &bench.text("run"), "--out", &out]);
    let config = bench.path("hf").join("config.json");
    let refuse_with = |key: &str, value: Value| {
        let before = fs::read(&config).unwrap();
        edit_json(&config, |config| config[key] = value);
        let said = refused(&["import", "hf", &out, "--out", &back]);
        fs::write(&config, before).unwrap();
        let left = fs::read_dir(bench.path("hf").parent().unwrap()).unwrap();
        let names = left.map(|it| it.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|name| name.contains("ckpt")).collect();
        assert!(left.is_empty(), "{left:?}");
        said
    };
    let said = refuse_with("architectures", json!(["T5ForConditionalGeneration"]));
    assert!(said.contains("T5ForConditionalGeneration"), "{said}");
    let said = refuse_with("n_layer", json!(3));
    assert!(
        said.contains("missing: transformer.h.2.mlp.c_fc.weight"),
        "{said}"
    );
    let said = refuse_with("n_layer", json!(1));
    assert!(
        said.contains("unexpected: transformer.h.1.ln_1.bias"),
        "{said}"
    );
    let said = refuse_with("vocab_size", json!(319));
    assert!(said.contains("should be [319, 32]"), "{said}");

    let ids = bench.text("ids.json");
    fs::write(&ids, "[[1, 2], [3]]").unwrap();
    let run = bench.text("run");
    let out = bench.text("logits");
    let said = refused(&[
        "eval", "logits", "--model", &run, "--ids", &ids, "--out", &out,
    ]);
    assert!(said.contains("row 2 has 1 ids"), "{said}");
}

#[test]
fn a_run_starts_from_a_checkpoints_weights_whatever_dies() {
    let bench = Bench::new();
    bench.run_through("base", &["--workers", "1"]);
    let first = format!("init.from={}", bench.text("base"));
    let long = format!("train.steps={STEPS}");
    let more = [
        "--set",
        &first,
        "--set",
        "train.reduction=canonical",
        "--set",
        "train.seed=5",
        "--set",
        &long,
        "--set",
        // The state at which all die is the first one.
        "checkpoint.every_steps=0",
    ];
    bench.run_through("alone", &[more.as_slice(), &["--workers", "1"]].concat());
    let base = bench.metrics("base");
    let loss = |line: &Value| line["loss"].as_f64().unwrap();
    let start = loss(&bench.metrics("alone")[0]);
    assert!(start < loss(&base[5]), "{start}");
    assert!((start - loss(base.last().unwrap())).abs() < 0.5, "{start}");

    let mut run = bench.run(
        "disturbed",
        &[more.as_slice(), &["--workers", "2"]].concat(),
    );
    for pid in training(&run.url(), 2, 5) {
        send(pid, Signal::SIGKILL);
    }
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_eq!(bench.hash("disturbed"), bench.hash("alone"));

    let other = [more.as_slice(), &["--set", "model.layers=3"]].concat();
    let mut run = bench.run("other", &other);
    assert_eq!(run.wait(), Some(2), "{}", run.printed());
    let said = run.printed();
    assert!(
        said.contains("it has no transformer.h.2.ln_1.weight"),
        "{said}"
    );
}
