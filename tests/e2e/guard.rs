//! Batches that look wrong: skipped or rolled back over, the same way whatever dies meanwhile.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    audit::assert_audit_is_clean,
    support::{Bench, assert_one_history, send, stdout, training},
};

const STEPS: u64 = 300;

/// Text with a few passages that look like nothing else in it.
fn dataset(bench: &Bench) -> String {
    let text = bench.path("text");
    fs::create_dir(&text).unwrap();
    for file in 0..4 {
        let paragraph = |n: u64| match n % 1000 {
            500 => "漢字仮名交じり文の一節".to_owned() + "\n\n",
            _ => format!("line {n} says {}\n\n", n.wrapping_mul(0x9E37_79B9) % 97),
        };
        let words: String = (0..3000).map(paragraph).collect();
        fs::write(text.join(format!("{file}.txt")), words).unwrap();
    }
    let (text, out) = (bench.text("text"), bench.text("dataset"));
    let mut arguments = vec!["data", "prepare", "--tokenizer", "bytes"];
    arguments.extend(["--documents", "paragraphs:200", "--out", &out, &text]);
    stdout(&arguments);
    out
}

/// What a run is told beyond the small spec.
fn arguments(data: &str, policy: &str) -> Vec<String> {
    let set = [
        format!("data.path={data}"),
        format!("train.steps={STEPS}"),
        "train.reduction=canonical".into(),
        "checkpoint.every_steps=20".into(),
        format!("guard.on_spike={policy}"),
        "guard.threshold=8".into(),
    ];
    set.into_iter()
        .flat_map(|it| ["--set".into(), it])
        .collect()
}

/// What the guard did, by the journal.
fn skips(out: &Path) -> Vec<Value> {
    let journal = Connection::open(out.join("coordinator/journal.sqlite")).unwrap();
    let question = "SELECT body FROM records WHERE kind = 'batch_skipped' ORDER BY sequence";
    let mut records = journal.prepare(question).unwrap();
    let bodies = records
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    let record = |body: String| serde_json::from_str::<Value>(&body).unwrap()["kind"].clone();
    bodies.map(|body| record(body.unwrap())).collect()
}

#[test]
fn skipped_batches_are_the_same_whatever_dies() {
    let bench = Bench::new();
    let data = dataset(&bench);
    let arguments = arguments(&data, "skip_batch");
    let all = |workers| {
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        all.extend(["--workers", workers]);
        all
    };
    bench.run_through("alone", &all("1"));
    let mut run = bench.run("disturbed", &all("3"));
    let url = run.url();
    for (rank, step) in [(1, 60), (0, 160)] {
        let pids = training(&url, 3, step);
        send(pids[rank], Signal::SIGKILL);
    }
    assert_eq!(run.wait(), Some(0), "{}", run.printed());

    let skipped = |out: &str| -> Vec<_> {
        let skips = skips(&bench.path(out)).into_iter();
        skips
            .map(|it| (it["step"].clone(), it["from"].clone()))
            .collect()
    };
    assert!(!skipped("alone").is_empty());
    assert_eq!(skipped("alone"), skipped("disturbed"));
    assert_eq!(bench.hash("alone"), bench.hash("disturbed"));
    for out in ["alone", "disturbed"] {
        assert_one_history(&bench.metrics(out), STEPS);
        let report = assert_audit_is_clean(&["--run", &bench.text(out)]);
        assert_eq!(report["skipped_samples"], 12 * skipped(out).len());
    }
}

#[test]
fn a_rollback_leaves_the_window_out() {
    let bench = Bench::new();
    let data = dataset(&bench);
    let arguments = arguments(&data, "rollback");
    let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
    all.extend(["--workers", "2"]);
    bench.run_through("out", &all);
    let rolled = skips(&bench.path("out"));
    assert!(!rolled.is_empty());
    for it in &rolled {
        assert!(it["back_to"]["step"].as_u64() < it["step"].as_u64(), "{it}");
    }
    assert_one_history(&bench.metrics("out"), STEPS);
    let report = assert_audit_is_clean(&["--run", &bench.text("out")]);
    assert!(report["skipped_samples"].as_u64().unwrap() >= 12);
}
